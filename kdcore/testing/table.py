"""The list of all checks: name, claim, remedy, function, in the order in which they are read."""

from kdcore.testing import loss, settings, training
from kdcore.testing.check import Check

HOOKS = Check(
    "hooks_are_as_specified",
    "Each hook has the name, arguments and return value of kdcore.hookspecs.",
    "Mark it with @hookimpl, name plain arguments out of its specification, return what it says.",
    loss.hooks_answer,
)
ARGUMENTS = Check(
    "arguments_are_left_alone",
    "The loss changes no features, logits or state in place: others read them too.",
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

CHECKS = (
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
    HOOKS,
    ARGUMENTS,
    SHAPE,
    GRADIENT,
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
        "equal_seeds_give_equal_values",
        "Two runs of equal seeds have equal losses.",
        "Draw random numbers from the argument `generator`, and remember nothing outside `state`.",
        training.equal_seeds_give_equal_values,
        GRADIENT,
    ),
    Check(
        "random_stream_is_left_alone",
        "No hook draws from the global random stream, which is the student's.",
        "Build modules in adapt_shapes, and draw from the argument `generator`.",
        training.random_stream_is_left_alone,
        GRADIENT,
    ),
    Check(
        "a_resumed_run_goes_on_alike",
        "A run that was saved and loaded continues bit for bit.",
        "Keep memory in Adapters.state or in buffers, never in a class, module or closure.",
        training.a_resumed_run_goes_on_alike,
        GRADIENT,
    ),
    Check(
        "instances_do_not_interfere",
        "Two instances in a run have the losses that each has alone.",
        "Keep nothing on the class: each instance has its own settings, modules and state.",
        training.instances_do_not_interfere,
        GRADIENT,
    ),
    Check(
        "total_is_the_weighted_sum",
        "Beside another strategy both losses are as alone, and the total is their weighted sum.",
        "Let the loss depend on its arguments alone.",
        training.total_is_the_weighted_sum,
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
