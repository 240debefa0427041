"""A comparison: the student alone and with each candidate, from equal starts, seed by seed."""

from collections.abc import Mapping, Sequence
from datetime import date

import torch
from rich.markup import escape
from torch import nn

from kdcore.catalog import own_version
from kdcore.configfile import as_toml
from kdcore.context import RunContext
from kdcore.distiller import Distiller
from kdcore.experiment import ComparisonConfig, Experiment, StageConfig
from kdcore.files import make_folder, write_bytes
from kdcore.fingerprint import digest_of
from kdcore.job import MARKDOWN, RunResult
from kdcore.joblist import Student, plan_of, record, students
from kdcore.machine import threads_text
from kdcore.models.build import code_of
from kdcore.run import run_student
from kdcore.teacher_runs import Teacher, run_teachers, teacher_rows
from kdcore.teachers import TEACHER, title_of
from kdcore.weights import weight_text

COMPARISON = "comparison.toml"
SHOWN_CLASSES = 12


def compare(
    context: RunContext, config: ComparisonConfig, only: Sequence[Student] | None = None
) -> list[RunResult]:
    """Run a comparison, or some students of it, and return every run, in order.

    All runs are set up once before any is trained, so that what cannot work fails at once.

    Args:
        context: made from the same experiment.
        config: the comparison.
        only: the students that shall be trained, and their teachers if they are not there yet;
            all, if not given.

    Raises:
        UserError: a candidate cannot be set up.
        RunError: a run failed; those that were finished are kept.
    """
    chosen = students(config) if only is None else only
    description = as_toml(config).encode()
    _rehearse(context, config, chosen)
    _describe_itself(context, description)  # what cannot be set up is in nobody's place
    results: list[RunResult] = []
    for seed in dict.fromkeys(student.seed for student in chosen):
        mine = [student for student in chosen if student.seed == seed]
        taught = only is None or not all(student.alone for student in mine)
        teachers = run_teachers(context, seed) if taught else {}
        rows = teacher_rows(context, seed, teachers)
        results += rows
        for student in mine:
            result = run_student(
                context, seed, student.name, student.plan, {} if student.alone else teachers
            )
            found, said = [*rows, result], about(context)
            record(context.out, description, student, found, said, _in_common(context, teachers))
            results.append(result)
    return results


def _in_common(context: RunContext, teachers: Mapping[str, Teacher]) -> dict[str, object]:
    """Return what the students of a comparison must have in common to stand in one table."""
    return {
        "data": context.data.fingerprint,
        "student": code_of(context.experiment.student.model),
        "kdcore": own_version(),
        "teachers": {name: each.identity.fingerprint for name, each in teachers.items()},
    }


def _describe_itself(context: RunContext, description: bytes) -> None:
    """Write down what is compared, and say so where the folder held another comparison."""
    file = make_folder(context.out) / COMPARISON
    reported = (context.out / MARKDOWN).exists()
    if reported and file.exists() and file.read_bytes() != description:
        context.console.print(
            f"the report of another comparison in {context.out} will be replaced; keep both with "
            "--out DIR",
            markup=False,
            soft_wrap=True,
        )
    write_bytes(file, description)


def about(context: RunContext, settings: str = COMPARISON) -> list[str]:
    """Say in a few lines what a comparison or run is of.

    Args:
        context: made from the same experiment.
        settings: name of the file that has all of its settings.
    """
    experiment = context.experiment
    train = experiment.train
    return [
        data_line(context),
        *context.data.notes,
        f"{taught_by(experiment)}, student {experiment.student.model}; "
        f"{train.epochs} epochs, batches of {train.batch_size}, {train.optimizer}, lr {train.lr:g}",
        f"kdcore {own_version()}, PyTorch {torch.__version__}; {date.today().isoformat()}; all "
        f"settings: {settings}",
    ]


def taught_by(experiment: Experiment) -> str:
    """Say in a few words who teaches in an experiment."""
    teachers = experiment.teachers_by_name
    return ", ".join(f"{title_of(name)} {each.summary}" for name, each in teachers.items())


def _rehearse(context: RunContext, config: ComparisonConfig, chosen: Sequence[Student]) -> None:
    """Set up every run without training it, and print what a user should know."""
    seed, show = config.seeds[0], context.console.print
    models = context.new_teachers(seed)
    student = context.new_student(seed)
    for line in (data_line(context), *context.data.notes):
        show(line, highlight=False, soft_wrap=True, markup=False)
    for name, each in config.teachers_by_name.items():
        size = f": {_parameters(models[name]):,} parameters" if name in models else ""
        show(f"{title_of(name)} {each.summary}{size}", highlight=False, markup=False)
    show(f"student {config.student.model}: {_parameters(student):,} parameters", highlight=False)
    norm = first_layer_norm(student)
    show(f"  norm of its first layer, to tell starts apart: {norm}", highlight=False)
    taught = {each.name for each in chosen if not each.alone}
    for candidate in config.candidates if taught else ():
        # Those that are trained elsewhere, too: teachers say for all of them at once.
        lines = rehearse(context, seed, models, plan_of(config, candidate))
        if candidate.label in taught:
            show(f"candidate [bold]{escape(candidate.label)}[/]", highlight=False)
            for line in lines:
                show(f"  {line}", highlight=False, soft_wrap=True, markup=False)
    count = len(students(config)) // len(config.seeds)
    if count > 1:
        show(f"all {count} students of a seed start from equal weights")


def rehearse(
    context: RunContext,
    seed: int,
    models: Mapping[str, nn.Module],
    plan: Sequence[StageConfig],
) -> list[str]:
    """Set up every stage of a student without training it; say what each consists of."""
    lines, budget = [], context.experiment.train.epochs
    for number, stage in enumerate(plan):
        student = context.new_student(seed)
        start = digest_of(student.state_dict())
        with context.distiller(seed, student, models, stage) as distiller:
            if len(plan) > 1:
                epochs = context.experiment.stage_train(stage).epochs
                lines.append(f"stage {number + 1} of {len(plan)}: {epochs} epochs")
            lines += describe(distiller)
            context.cache.expect(distiller.teachers)
            assert digest_of(student.state_dict()) == start  # a set-up changes no weight
            context.try_losses(distiller)
    epochs = sum(context.experiment.stage_train(stage).epochs for stage in plan)
    if epochs != budget:
        lines.append(f"{epochs} epochs in all, where the student alone has {budget}")
    return lines


def describe(distiller: Distiller) -> list[str]:
    """Say what a run consists of: weights, and what each strategy compares."""
    lines = [f"task weight {weight_text(distiller.task_weight)}"]
    for member, student, teacher in distiller.tapped():
        whose = "" if member.teacher == TEACHER else f", learns from {member.teacher}"
        weight = weight_text(member.weight)
        lines.append(f"{member.label}: weight {weight}, {member.strategy!r}{whose}")
        lines += [f"  student {line}" for line in student]
        lines += [f"  {member.teacher} {line}" for line in teacher]
    return lines


def data_line(context: RunContext) -> str:
    """Say in one line what data an experiment has, and where it runs."""
    data = context.data
    device = f"{context.device.type}, {threads_text()}"
    return (
        f"{data.name}: {len(data.student)} training and {len(data.test)} test {data.things}"
        + (f", {len(data.validation)} for validation" if data.validation else "")
        + _outputs(context.experiment.task.kind, data.outputs, data.classes)
        + (f"; {data.student_preprocess.size} pixels" if data.student_preprocess else "")
        + f"; {device}"
    )


def _outputs(kind: str, count: int | None, names: Sequence[str]) -> str:
    if count is None:
        return ""
    one, several = {
        "regression": ("value", "values"),
        "multi-label": ("label", "labels"),
    }.get(kind, ("class", "classes"))
    told = names and count <= SHOWN_CLASSES and kind != "regression"
    listed = f": {', '.join(names)}" if told else ""
    return f", {count} {one if count == 1 else several}{listed}"


def first_layer_norm(model: nn.Module) -> float:
    """Return the Euclidean norm of a model's first parameter."""
    return float(next(model.parameters()).detach().norm())


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
