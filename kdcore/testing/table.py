"""The list of all checks: name, claim, remedy, function, in the order in which they are read."""

from kdcore.testing import engine, inputs, loss, settings, training
from kdcore.testing.check import Check

HOOKS = Check(
    "hooks_are_as_specified",
    "Each hook has the name, arguments and return value of kdcore.hookspecs.",
    "Mark it with @hookimpl, name plain arguments out of its specification, return what it says.",
    loss.hooks_answer,
)
ARGUMENTS = Check(
    "arguments_are_left_alone",
    "The loss changes nothing in place that it is given: others read it too.",
    "Work on a copy, and hand memory back with state.write(name, value, at=rows).",
    loss.arguments_are_left_alone,
    HOOKS,
)
SHAPE = Check(
    "loss_is_a_vector_or_a_scalar",
    "The loss is one floating value a sample, a scalar, or a mapping of names to either.",
    "Average over all dimensions but the first, for instance with .flatten(1).mean(1).",
    loss.loss_is_a_vector_or_a_scalar,
    ARGUMENTS,
)
GRADIENT = Check(
    "gradient_reaches_all_that_learns",
    "The student and every parameter of adapters and modules has a gradient.",
    "Compute with the student's features undetached, and return no module that the loss ignores.",
    loss.gradient_reaches_all_that_learns,
    SHAPE,
)

STREAM = Check(
    "random_stream_is_left_alone",
    "No hook and no adapter draws from the global random stream, which is the student's.",
    "Build modules in adapt_shapes, without dropout, and draw from the argument `generator`.",
    training.random_stream_is_left_alone,
    GRADIENT,
)
SEEDS = Check(
    "equal_seeds_give_equal_values",
    "Two runs of equal seeds have equal losses.",
    "Draw random numbers from the argument `generator`, and remember nothing outside `state`.",
    training.equal_seeds_give_equal_values,
    STREAM,
)

CHECKS = (
    Check(
        "it_says_what_it_is",
        "The class has a docstring, its recommended weights have a source, and no text of the "
        "template (TODO:) is left.",
        "Write what the method is, its formula and its paper; Recommended(weight, task_weight, "
        "source); after a change of pyproject.toml, install the package again.",
        settings.it_says_what_it_is,
    ),
    Check(
        "it_is_written_for_this_contract",
        "The class is written for the version of the contract that this kdcore has.",
        "Adapt it to the changes of the contract (CHANGELOG.md), then raise api_version.",
        settings.it_is_written_for_this_contract,
    ),
    Check(
        "settings_refuse_extras",
        "A setting that the strategy does not have is an error.",
        "Derive Settings from kdcore.StrategySettings and leave extra='forbid' as it is.",
        settings.extras_are_refused,
    ),
    Check(
        "settings_survive_json",
        "Settings that were written to JSON and read again are the same.",
        "Use plain types, and validators that leave alone what they have returned.",
        settings.json_gives_them_back,
    ),
    Check(
        "settings_are_described",
        "Every setting has a description, which `kdcore strategies NAME` shows.",
        "Write Field(default, description=...).",
        settings.all_are_described,
    ),
    Check(
        "settings_have_valid_defaults",
        "The defaults are values that the settings would accept.",
        "Choose defaults within the bounds of their fields.",
        settings.defaults_are_valid,
    ),
    Check(
        "settings_stay_as_they_are",
        "A setting cannot be changed once it has been checked.",
        "Derive Settings from kdcore.StrategySettings and leave frozen=True as it is.",
        settings.values_stay_as_they_are,
    ),
    Check(
        "settings_are_finite",
        "A number among the settings is neither infinite nor none.",
        "Derive Settings from kdcore.StrategySettings and leave allow_inf_nan=False as it is.",
        settings.no_number_is_infinite,
    ),
    HOOKS,
    ARGUMENTS,
    SHAPE,
    GRADIENT,
    STREAM,
    SEEDS,
    Check(
        "all_that_learns_is_known",
        "Every parameter that the loss depends on is in an adapter or module that was returned.",
        "Return it from adapt_shapes, in Adapters.modules; else no optimizer or checkpoint has it.",
        loss.all_that_learns_is_known,
        GRADIENT,
    ),
    Check(
        "equality_is_as_declared",
        "Where the student is its teacher the loss is what the class says in where_equal.",
        "Correct the loss or where_equal; leave it out where adapters are trained.",
        loss.as_declared_where_equal,
        GRADIENT,
    ),
    Check(
        "loss_is_finite",
        "Loss and gradients are finite: for equal samples, certain teachers, equal models.",
        "Take log_softmax instead of the log of a softmax, and no root or quotient of what may "
        "be zero without a small constant.",
        loss.loss_is_finite,
        GRADIENT,
    ),
    Check(
        "a_batch_of_one_works",
        "A batch of one sample has a finite loss; an epoch may end with one.",
        "Divide a sum over pairs by max(1, pairs), and normalise no batch of one.",
        loss.a_batch_of_one_works,
        GRADIENT,
    ),
    Check(
        "samples_need_no_label",
        "The loss works where no sample has a label (targets of -100).",
        "Leave rows without a label out of what depends on labels; return zero for them.",
        loss.samples_need_no_label,
        GRADIENT,
    ),
    Check(
        "float64_stays_float64",
        "Of float64 models the loss is float64.",
        "Create tensors with the dtype of the features: torch.zeros_like, x.new_tensor.",
        loss.float64_stays_float64,
        GRADIENT,
    ),
    Check(
        "parts_add_up_to_the_batch",
        "Of a loss a row, accumulated parts of a batch give the loss and gradient of the whole.",
        "Let each row's value depend on that row alone, or return a scalar.",
        loss.parts_add_up_to_the_batch,
        SEEDS,
    ),
    Check(
        "rows_follow_their_samples",
        "Of a loss a row, samples in another order have the same values in that order.",
        "Return the value of a sample in the sample's place.",
        inputs.rows_follow_their_samples,
        SEEDS,
    ),
    Check(
        "every_epoch_has_a_loss",
        "The loss is finite in every epoch, from 0 to 1,000.",
        "Divide by no number of epochs that may be zero; take min and max where a ramp ends.",
        inputs.every_epoch_has_a_loss,
        GRADIENT,
    ),
    Check(
        "two_classes_work",
        "Models of two classes have a finite loss, or are refused in kdcore's words.",
        "Mind what is left without the target's class; refuse in adapt_shapes what cannot work.",
        inputs.two_classes_work,
        GRADIENT,
    ),
    Check(
        "bfloat16_layers_are_fine",
        "Where layers compute in bfloat16 the loss is float32, finite and nearly the same.",
        "Leave features in the precision that they come in, and hang nothing on their last digits.",
        inputs.bfloat16_layers_are_fine,
        SEEDS,
    ),
    Check(
        "layouts_make_no_difference",
        "Channels-last models and strided inputs have the same loss.",
        "Use flatten or reshape, which take every layout, instead of view.",
        inputs.layouts_make_no_difference,
        SEEDS,
    ),
    Check(
        "a_wider_student_works",
        "A student wider than its teacher has a finite loss, or is refused in kdcore's words.",
        "Build adapters from both shapes (pool_to_narrower, regressor), whichever is larger.",
        inputs.a_wider_student_works,
        GRADIENT,
    ),
    Check(
        "other_depths_work",
        "Models of other depths, whose maps are of other sizes, have a finite loss, or are refused "
        "in kdcore's words.",
        "Resize maps to one size (Resize), and pair stages from the last.",
        inputs.other_depths_work,
        GRADIENT,
    ),
    Check(
        "other_ranks_work_or_are_refused",
        "Activations of another rank, such as token sequences, have a finite loss, or are refused "
        "in kdcore's words.",
        "Refuse in adapt_shapes what the method is not made for: require_maps, or StrategyError.",
        inputs.other_ranks_work_or_are_refused,
        GRADIENT,
    ),
    Check(
        "misspelt_taps_are_named",
        "A setting of a tap that does not exist is an error that offers near names.",
        "Return the setting from extract_features as it is, and catch no TapError.",
        inputs.misspelt_taps_are_named,
        GRADIENT,
    ),
    Check(
        "memory_is_of_its_samples",
        "Memory that has a row a sample is changed at the samples of the batch alone.",
        "Write with state.write(name, values, at=indices), not by the places in the batch.",
        training.memory_is_of_its_samples,
        GRADIENT,
    ),
    Check(
        "micro_batches_leave_the_same_memory",
        "A step in two micro-batches leaves the memory that the same samples leave in one batch.",
        "Of a row that is written twice in a step the last value stays: keep a row a sample and "
        "average where it is read, or say exact_in_micro_batches = False.",
        training.micro_batches_leave_the_same_memory,
        GRADIENT,
    ),
    Check(
        "teacher_is_untouched",
        "The teacher's weights, mode and gradients are as before.",
        "Use of the teacher what the hooks are given, and nothing of the model.",
        training.teacher_is_untouched,
        GRADIENT,
    ),
    Check(
        "state_survives_saving",
        "Parameters, buffers and memory are loaded bit for bit as they were saved.",
        "Register parameters and buffers when a module is built, and change nothing on loading.",
        engine.state_survives_saving,
        GRADIENT,
    ),
    Check(
        "a_resumed_run_goes_on_alike",
        "A run that was saved and loaded continues bit for bit.",
        "Keep memory in Adapters.state or in buffers, never in a class, module or closure.",
        training.a_resumed_run_goes_on_alike,
        SEEDS,
    ),
    Check(
        "instances_do_not_interfere",
        "Two instances in a run have the losses that each has alone.",
        "Keep nothing on the class: each instance has its own settings, modules and state.",
        training.instances_do_not_interfere,
        SEEDS,
    ),
    Check(
        "total_is_the_weighted_sum",
        "Beside another strategy both losses are as alone, and the total is their weighted sum.",
        "Let the loss depend on its arguments alone.",
        training.total_is_the_weighted_sum,
        GRADIENT,
    ),
    Check(
        "kept_answers_change_nothing",
        "What the teacher said and was kept gives the losses that a live teacher gives.",
        "Take of the teacher what the loss is given; it may not run at all.",
        engine.kept_answers_change_nothing,
        SEEDS,
    ),
    Check(
        "compiled_models_give_the_same",
        "Compiled models have the same loss and a gradient.",
        "Take activations from taps, and differentiate through no model twice.",
        engine.compiled_models_give_the_same,
        SEEDS,
    ),
    Check(
        "two_processes_agree",
        "Two processes that train one student by shares end with the same weights and memory.",
        "Write memory by rows (at=indices), or of what kdcore.gathered returns.",
        engine.two_processes_agree,
        GRADIENT,
    ),
    Check(
        "models_leave_clean",
        "A closed run leaves no hooks and no modules on student and teacher.",
        "Say in extract_features what you need; set no hooks yourself.",
        training.models_leave_clean,
        GRADIENT,
    ),
)
