"""Teachers and students of an experiment: from a seed to a folder of files.

What its runs share is in `context`. How they are compared is in `comparison`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from torch import nn

from kdcore.asking import Request
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
    TEACHER,
    TEACHER_WEIGHTS,
    Job,
    RunResult,
)
from kdcore.listening import LiveSignals, SignalSource
from kdcore.models.build import code_of
from kdcore.processes import here
from kdcore.progress import MetricsLog, TrainingDisplay
from kdcore.resolved import resolve, resolve_stage
from kdcore.sections import TrainConfig
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


def run_teacher(context: RunContext, seed: int) -> Teacher:
    """Load the experiment's teacher, take the one trained before, or train it."""
    experiment, size = context.experiment, context.data.teacher_preprocess.size
    model = context.new_teacher(seed).to(context.device)
    config = experiment.teacher_train
    task = context.task(config)
    weights = experiment.teacher.weights
    if weights is not None and (known := context.kept_answers) is not None:
        context.console.print(
            f"[bold]{TEACHER}[/]: {weights} is missing; its kept answers serve (accuracy "
            f"{known['accuracy']:.2f} %)",
            soft_wrap=True,
        )
        result = _came_trained(seed, known["accuracy"], weights)
        return Teacher(model, known["teachers"][TEACHER], weights, result, absent=True)
    if weights is not None:
        accuracy = evaluate(model, context.data.teacher_test, task).accuracy
        context.console.print(
            f"[bold]{TEACHER}[/] from {weights}: accuracy {accuracy:.2f} %"
            + ("; \\[teacher.train] is not used" if experiment.teacher.train else ""),
            soft_wrap=True,
        )
        result = _came_trained(seed, accuracy, weights)
        return Teacher(model, fingerprint_of(model, size), weights, result)
    facts = {
        "start": fingerprint_of(model, size),
        "code": code_of(experiment.teacher.model),
        "train": config.model_dump(mode="json"),
    }
    job = context.job(TEACHER, seed, facts, teaches=True)
    with job.alone(context.note):
        finished = _kept(context, job)
        if finished is None:
            how = context.execution(config)
            with Distiller(
                None, model, task=task, device=context.device, execution=how
            ) as distiller:
                history, seconds = _train(context, distiller, config, job)
            save_weights(job.folder / TEACHER_WEIGHTS, model.state_dict())
            finished = job.finish(history, seconds, None)
            job.forget()
        else:
            load_weights(model, job.folder / TEACHER_WEIGHTS, TEACHER)
    file = (job.folder / TEACHER_WEIGHTS).absolute()
    return Teacher(model, fingerprint_of(model, size), file, finished)


def _came_trained(seed: int, accuracy: float, weights: Path) -> RunResult:
    return RunResult(TEACHER, seed, accuracy, None, 0.0, (), None, None, str(weights.parent))


def keep_answers(context: RunContext, seed: int) -> None:
    """Have the teacher of a seed say all that the experiment's students want, and keep it."""
    teacher = run_teacher(context, seed)
    stages = [stage for plan in context.experiment.plans for stage in plan if stage.strategies]
    for stage in stages:
        student = context.new_student(seed)
        with context.distiller(seed, student, teacher.model, stage) as distiller:
            context.cache.expect(distiller.teachers)
    for stage in stages[:1]:  # in whose pass the others' wishes are computed too
        student, config = context.new_student(seed), context.experiment.stage_train(stage)
        with context.distiller(seed, student, teacher.model, stage) as distiller:
            _signals(context, distiller, config, context.data.student, teacher)


def _signals(
    context: RunContext,
    distiller: Distiller,
    config: TrainConfig,
    source: Source,
    teacher: Teacher | None,
) -> SignalSource:
    """Decide how a student hears its teacher."""
    if teacher is None or not distiller.teachers:
        return LiveSignals({})
    facts = {
        "teachers": {TEACHER: teacher.fingerprint},
        "precision": config.precision,
        "compile": config.compile,
    }
    labels = {
        "weights": str(teacher.weights),
        "accuracy": teacher.result.accuracy,
        "measured_on": context.data.teacher_fingerprint,
    }
    return context.cache.source(
        Request(
            distiller.teachers,
            source,
            config.micro_batch,
            context.device,
            facts,
            {**labels, "model": context.experiment.teacher.model, "images": context.data.name},
            teacher.absent,
        )
    )


def run_student(
    context: RunContext,
    seed: int,
    name: str,
    plan: Sequence[StageConfig],
    teacher: Teacher | None,
) -> RunResult:
    """Train one student from the initial weights of its seed, or take what was trained before.

    Args:
        context: what it shares with others.
        seed: of weights, order and dropout.
        name: of its row; also of its folder.
        plan: its stages, one after the other.
        teacher: whom it learns from.
    """
    data, model = context.data, teacher.model if teacher else None
    student = context.new_student(seed)
    stages, methods = [], []
    for stage in plan:
        with context.distiller(seed, student, model, stage) as distiller:
            stages.append(resolve_stage(stage, distiller))
            for member in distiller.members:
                methods.append([str(member.origin), source_of(type(member.strategy))])
    resolved = resolve(context.experiment, data, stages, seed, teacher.weights if teacher else None)
    chosen = resolved.model_dump(mode="json", include={"task_weight", "strategies", "stages"})
    listens = any(stage.strategies for stage in plan)
    facts = {
        "start": fingerprint_of(student, data.student_preprocess.size),
        "code": code_of(context.experiment.student.model),
        "train": context.experiment.train.model_dump(mode="json"),
        "teacher": teacher.fingerprint if teacher and listens else None,
        "signals": context.experiment.cache.dtype if listens else None,
        "methods": methods,
        **chosen,
    }
    job = context.job(name, seed, facts)
    with job.alone(context.note):
        kept = _kept(context, job)
        if kept is not None:
            return kept
        write_bytes(job.folder / CONFIG, as_toml(resolved).encode())
        history, seconds = _learn(context, student, job, stages, teacher)
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


def _learn(
    context: RunContext,
    student: nn.Module,
    job: Job,
    stages: Sequence[StageConfig],
    teacher: Teacher | None,
) -> tuple[History, float]:
    """Go through the stages of a student; those that were finished before are read again."""
    history, seconds, carried = History(), 0.0, dict[str, Mapping[str, Any]]()
    model = teacher.model if teacher else None
    for number, stage in enumerate(stages):
        config = context.experiment.stage_train(stage)
        with context.distiller(job.seed, student, model, stage) as distiller:
            distiller.take_over(carried)
            where = f", stage {number + 1} of {len(stages)}" if len(stages) > 1 else ""
            before = len(history.epochs)
            part, took = _train(context, distiller, config, job, teacher, number, where, before)
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
    teacher: Teacher | None = None,
    stage: int = 0,
    where: str = "",
    epochs_before: int = 0,
) -> tuple[History, float]:
    data, teaches = context.data, job.kind == "teacher"
    source = data.teacher if teaches else data.student
    job.begin()
    saver = context.saver(job, stage)
    title, last = f"{job.name}, seed {job.seed}{where}", epochs_before + config.epochs
    with (
        TrainingDisplay(context.console, title, last) as display,
        MetricsLog(job.folder / METRICS) as log,
    ):
        signals = _signals(context, distiller, config, source, teacher)
        try:
            history = train(
                distiller,
                source,
                config,
                job.seed,
                test=data.teacher_test if teaches else data.test,
                validation=None if teaches else data.validation,
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
