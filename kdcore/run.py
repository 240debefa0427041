"""Teachers and students of an experiment: from a seed to a folder of files.

What its runs share is in `context`. How they are compared is in `comparison`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.markup import escape
from torch import nn

from kdcore.asking import Identity, Request
from kdcore.configfile import as_toml
from kdcore.context import RunContext
from kdcore.data.source import Source
from kdcore.distiller import Distiller
from kdcore.errors import NonFiniteLossError
from kdcore.evaluation import evaluate
from kdcore.experiment import StageConfig
from kdcore.files import load_weights, save_weights, write_bytes
from kdcore.fingerprint import fingerprint_of, source_of
from kdcore.history import History
from kdcore.job import (
    BEST_WEIGHTS,
    CONFIG,
    METRICS,
    STUDENT_WEIGHTS,
    TEACHER_WEIGHTS,
    Job,
    RunResult,
)
from kdcore.listening import LiveSignals, SignalSource
from kdcore.models.build import code_of
from kdcore.pooling import accuracy_of
from kdcore.processes import here
from kdcore.progress import MetricsLog, TrainingDisplay
from kdcore.resolved import resolve, resolve_stage
from kdcore.sections import TrainConfig
from kdcore.teachers import TEACHER, title_of
from kdcore.teaching import AnyTeacherConfig, EnsembleConfig, TeacherConfig
from kdcore.trainer import train


@dataclass(frozen=True)
class Teacher:
    """A teacher that is ready to teach.

    Attributes:
        model: the model with its weights.
        fingerprint: hash of its weights and of what it computes.
        weights: the file that they are in.
        result: how it came about.
        absent: whether that file is missing, and what it said is kept.
    """

    model: nn.Module
    fingerprint: str
    weights: Path
    result: RunResult
    absent: bool = False


def run_teachers(context: RunContext, seed: int) -> dict[str, Teacher]:
    """Load or train every teacher of the experiment that is a model of its own."""
    return {name: run_teacher(context, seed, name) for name in context.experiment.model_teachers}


def run_teacher(context: RunContext, seed: int, name: str = TEACHER) -> Teacher:
    """Load a teacher of the experiment, take the one trained before, or train it."""
    experiment, data, title = context.experiment, context.data.teachers[name], title_of(name)
    given, config, size = (
        experiment.model_teachers[name],
        experiment.teacher_train(name),
        data.preprocess.size,
    )
    model = context.new_teacher(seed, name).to(context.device)
    task = context.task(config)
    if given.weights is not None and (known := context.kept_answers[name]) is not None:
        context.console.print(
            f"[bold]{title}[/]: {given.weights} is missing; its kept answers serve (accuracy "
            f"{known['accuracy']:.2f} %)",
            soft_wrap=True,
        )
        result = _came_trained(title, seed, known["accuracy"], given.weights)
        return Teacher(model, known["teacher"], given.weights, result, absent=True)
    if given.weights is not None:
        accuracy = evaluate(model, data.test, task).accuracy
        section = "teacher" if experiment.teachers is None else f"teachers.{name}"
        context.console.print(
            f"[bold]{title}[/] from {given.weights}: accuracy {accuracy:.2f} %"
            + (f"; \\[{section}.train] is not used" if given.train else ""),
            soft_wrap=True,
        )
        result = _came_trained(title, seed, accuracy, given.weights)
        return Teacher(model, fingerprint_of(model, size), given.weights, result)
    facts = {
        "start": fingerprint_of(model, size),
        "code": code_of(given.model),
        "train": config.model_dump(mode="json"),
    }
    job = context.job(title, seed, facts, teacher=name)
    with job.alone(context.note):
        finished = _kept(context, job)
        if finished is None:
            how = context.execution(config)
            with Distiller(
                None, model, task=task, device=context.device, execution=how
            ) as distiller:
                history, seconds = _train(context, distiller, config, job, data.train, data.test)
            save_weights(job.folder / TEACHER_WEIGHTS, model.state_dict())
            finished = job.finish(history, seconds, None)
            job.forget()
        else:
            load_weights(model, job.folder / TEACHER_WEIGHTS, title)
    file = (job.folder / TEACHER_WEIGHTS).absolute()
    return Teacher(model, fingerprint_of(model, size), file, finished)


def _came_trained(title: str, seed: int, accuracy: float, weights: Path) -> RunResult:
    return RunResult(title, seed, accuracy, None, 0.0, (), None, None, str(weights.parent))


def teacher_rows(
    context: RunContext, seed: int, teachers: Mapping[str, Teacher]
) -> list[RunResult]:
    """Return a row of each teacher that has one, and measure ensembles of those that are here."""
    rows = [teacher.result for teacher in teachers.values()]
    models = {name: teacher.model for name, teacher in teachers.items()}
    for name, config in context.experiment.teachers_by_name.items():
        if not isinstance(config, EnsembleConfig) or not set(config.ensemble) <= set(models):
            continue
        title = title_of(name)
        if missing := [each for each in config.ensemble if teachers[each].absent]:
            context.note(f"{title} is not measured: {missing[0]}'s weights are missing")
            continue
        task = context.task(context.experiment.train)
        accuracy = accuracy_of(config.spec, models, context.data.test, task)
        context.console.print(
            f"[bold]{title}[/], {config.summary}: accuracy {accuracy:.2f} %", soft_wrap=True
        )
        rows.append(RunResult(title, seed, accuracy, None, 0.0, (), None, None, str(context.out)))
    return rows


def keep_answers(context: RunContext, seed: int) -> None:
    """Have the teachers of a seed say all that the experiment's students want, and keep it."""
    teachers = run_teachers(context, seed)
    models = {name: teacher.model for name, teacher in teachers.items()}
    stages = [stage for plan in context.experiment.plans for stage in plan if stage.strategies]
    for stage in stages:
        student = context.new_student(seed)
        with context.distiller(seed, student, models, stage) as distiller:
            context.cache.expect(distiller.teachers)
    asked = set[str]()
    for stage in stages:  # in the first of a teacher, what others want of it is computed too
        student, config = context.new_student(seed), context.experiment.stage_train(stage)
        if asked >= models.keys() & context.teachers_of(stage.strategies).keys():
            continue
        with context.distiller(seed, student, models, stage) as distiller:
            _signals(context, distiller, config, context.data.student, teachers)
            asked |= distiller.teachers.keys()


def _signals(
    context: RunContext,
    distiller: Distiller,
    config: TrainConfig,
    source: Source,
    teachers: Mapping[str, Teacher],
) -> SignalSource:
    """Decide how a student hears its teachers."""
    if not distiller.teachers:
        return LiveSignals({})
    facts = {"precision": config.precision, "compile": config.compile}
    identities = {
        name: Identity(teachers[name].fingerprint, _labels(context, name, teachers[name]), absent)
        for name in distiller.teachers
        for absent in (teachers[name].absent,)
    }
    return context.cache.source(
        Request(distiller.teachers, source, config.micro_batch, context.device, facts, identities)
    )


def _labels(context: RunContext, name: str, teacher: Teacher) -> dict[str, object]:
    """Say by what else a teacher's answers shall be found again."""
    return {
        "weights": str(teacher.weights),
        "accuracy": teacher.result.accuracy,
        "measured_on": context.data.teachers[name].fingerprint,
        "model": context.experiment.model_teachers[name].model,
        "images": context.data.name,
    }


def run_student(
    context: RunContext,
    seed: int,
    name: str,
    plan: Sequence[StageConfig],
    teachers: Mapping[str, Teacher],
) -> RunResult:
    """Train one student from the initial weights of its seed, or take what was trained before.

    Args:
        context: what it shares with others.
        seed: of weights, order and dropout.
        name: of its row; also of its folder.
        plan: its stages, one after the other.
        teachers: by name, those that it learns from among them.
    """
    data, models = context.data, {each: teachers[each].model for each in teachers}
    student = context.new_student(seed)
    stages, methods, used = [], [], dict[str, object]()
    for stage in plan:
        used |= _facts(context, context.teachers_of(stage.strategies), teachers)
        with context.distiller(seed, student, models, stage) as distiller:
            stages.append(resolve_stage(stage, distiller))
            for member in distiller.members:
                methods.append([str(member.origin), source_of(type(member.strategy))])
    weights = {each: teachers[each].weights for each in teachers}
    resolved = resolve(context.experiment, data, stages, seed, used, weights)
    chosen = resolved.model_dump(mode="json", include={"task_weight", "strategies", "stages"})
    facts = {
        "start": fingerprint_of(student, data.student_preprocess.size),
        "code": code_of(context.experiment.student.model),
        "train": context.experiment.train.model_dump(mode="json"),
        "teachers": used,
        "signals": context.experiment.cache.dtype if used else None,
        "methods": methods,
        **chosen,
    }
    job = context.job(name, seed, facts)
    with job.alone(context.note):
        kept = _kept(context, job)
        if kept is not None:
            return kept
        write_bytes(job.folder / CONFIG, as_toml(resolved).encode())
        history, seconds = _learn(context, student, job, stages, teachers)
        best_accuracy = None
        save_weights(job.folder / STUDENT_WEIGHTS, student.state_dict())
        if history.best_weights is not None:
            save_weights(job.folder / BEST_WEIGHTS, history.best_weights)
            student.load_state_dict(history.best_weights)
            task = context.task(context.experiment.train)
            best_accuracy = evaluate(student, data.test, task).accuracy
        result = job.finish(history, seconds, best_accuracy)
        job.forget()
        return result


def _facts(
    context: RunContext,
    used: Mapping[str, AnyTeacherConfig],
    teachers: Mapping[str, Teacher],
) -> dict[str, object]:
    """Return what of some teachers a student's result depends on, by name."""
    return {
        name: [teachers[name].fingerprint, str(context.data.teachers[name].preprocess)]
        if isinstance(each, TeacherConfig)
        else each.model_dump(mode="json")
        for name, each in used.items()
    }


def _learn(
    context: RunContext,
    student: nn.Module,
    job: Job,
    stages: Sequence[StageConfig],
    teachers: Mapping[str, Teacher],
) -> tuple[History, float]:
    """Go through the stages of a student; those that were finished before are read again."""
    history, seconds, carried = History(), 0.0, dict[str, Mapping[str, Any]]()
    models = {name: teacher.model for name, teacher in teachers.items()}
    for number, stage in enumerate(stages):
        config = context.experiment.stage_train(stage)
        source = context.data.student.for_teachers(
            models.keys() & context.teachers_of(stage.strategies).keys()
        )
        with context.distiller(job.seed, student, models, stage) as distiller:
            distiller.take_over(carried)
            where = f", stage {number + 1} of {len(stages)}" if len(stages) > 1 else ""
            before = len(history.epochs)
            test = context.data.test
            part, took = _train(
                context, distiller, config, job, source, test, teachers, number, where, before
            )
            carried |= distiller.carried()
        history.extend(part)
        seconds += took
    return history, seconds


def _kept(context: RunContext, job: Job) -> RunResult | None:
    result = here().agreed(job.finished())
    if result is not None:
        job.forget()  # where its process died before it could
        context.console.print(
            f"[bold]{result.name}, seed {result.seed}[/]: finished before, kept ({job.folder})",
            soft_wrap=True,
        )
    elif reason := job.why_not():
        context.console.print(
            f"[bold]{job.name}, seed {job.seed}[/] is done again: {escape(reason)}", soft_wrap=True
        )
    return result


def _train(
    context: RunContext,
    distiller: Distiller,
    config: TrainConfig,
    job: Job,
    source: Source,
    test: Source,
    teachers: Mapping[str, Teacher] = MappingProxyType({}),
    stage: int = 0,
    where: str = "",
    epochs_before: int = 0,
) -> tuple[History, float]:
    data = context.data
    job.begin()
    saver = context.saver(job, stage)
    title, last = f"{job.name}, seed {job.seed}{where}", epochs_before + config.epochs
    with (
        TrainingDisplay(context.console, title, last) as display,
        MetricsLog(job.folder / METRICS) as log,
    ):
        signals = _signals(context, distiller, config, source, teachers)
        try:
            history = train(
                distiller,
                source,
                config,
                job.seed,
                test=test,
                validation=None if job.kind == "teacher" else data.validation,
                workers=data.workers,
                signals=signals,
                observers=(display, log),
                saver=saver,
                epochs_before=epochs_before,
            )
        except NonFiniteLossError as error:
            job.failed(error)
            raise
    return history, saver.seconds
