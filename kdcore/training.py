"""How the training of a job is carried out: found finished, or trained, shown, logged and saved.

Whose training it is, is decided in `teacher_runs` and `run`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.markup import escape

from kdcore.asking import Identity, Request
from kdcore.context import RunContext
from kdcore.data.source import Source
from kdcore.distiller import Distiller
from kdcore.errors import NonFiniteLossError
from kdcore.history import History
from kdcore.job import METRICS, Job, RunResult
from kdcore.listening import LiveSignals, SignalSource
from kdcore.processes import here
from kdcore.progress import MetricsLog, TrainingDisplay
from kdcore.saving import Seconds
from kdcore.sections import TrainConfig
from kdcore.tensorboard import FOLDER as TENSORBOARD
from kdcore.tensorboard import TensorBoard
from kdcore.trainer import train


def finished_before(context: RunContext, job: Job) -> RunResult | None:
    """Return the result of a job that is done; where one seems to be, say why it is not."""
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


@dataclass(frozen=True)
class Lesson:
    """One training, or one stage of it: who learns what, and from whom.

    Attributes:
        distiller: the model that is trained, with its teachers.
        config: of the training.
        source: what is learned from.
        identities: of its teachers, by name; others may be there.
        stage: which one it is, from 0.
        stages: how many there are.
        epochs_before: epochs of earlier stages.
    """

    distiller: Distiller
    config: TrainConfig
    source: Source
    identities: Mapping[str, Identity] = field(default_factory=dict)
    stage: int = 0
    stages: int = 1
    epochs_before: int = 0


def signals_of(context: RunContext, lesson: Lesson) -> SignalSource:
    """Decide how a student hears its teachers.

    Args:
        context: what it shares with others.
        lesson: its training.
    """
    distiller, config = lesson.distiller, lesson.config
    if not distiller.teachers:
        return LiveSignals({})
    facts = {"precision": config.precision, "compile": config.compile}
    most = here().largest_share(config.micro_batch)
    return context.cache.source(
        Request(distiller.teachers, lesson.source, most, context.device, facts, lesson.identities)
    )


@contextmanager
def _tensorboard(context: RunContext, job: Job, stage: int) -> Iterator[tuple[TensorBoard, ...]]:
    """Write for TensorBoard, where that is wanted; each stage counts its own steps."""
    if not context.experiment.log.tensorboard:
        yield ()
        return
    with TensorBoard(job.folder / TENSORBOARD / f"stage{stage + 1}") as board:
        yield (board,)


def train_job(
    context: RunContext, job: Job, lesson: Lesson, test: Source
) -> tuple[History, Seconds]:
    """Train what a job is of, or one stage of it, from where it was saved.

    Args:
        context: what it shares with others.
        job: whose folder its files are in.
        lesson: the training.
        test: what is measured on after each epoch.

    Returns:
        Its history, and what it took.
    """
    data, distiller, before = context.data, lesson.distiller, lesson.epochs_before
    job.begin()
    where = f", stage {lesson.stage + 1} of {lesson.stages}" if lesson.stages > 1 else ""
    title, last = f"{job.name}, seed {job.seed}{where}", before + lesson.config.epochs
    with (
        TrainingDisplay(
            context.console, title, last, distiller.task.metric, data.things
        ) as display,
        MetricsLog(job.folder / METRICS) as log,
        _tensorboard(context, job, lesson.stage) as board,
    ):
        before_asking = context.cache.asking_seconds
        signals = signals_of(context, lesson)
        # Made now: teachers were asked, or waited for, and what the student takes begins.
        saver = context.saver(job, lesson.stage, context.cache.asking_seconds - before_asking)
        try:
            history = train(
                distiller,
                lesson.source,
                lesson.config,
                job.seed,
                test=test,
                validation=None if job.kind == "teacher" else data.validation,
                workers=data.workers,
                signals=signals,
                observers=(display, log, *board),
                saver=saver,
                epochs_before=before,
            )
        except NonFiniteLossError as error:
            job.failed(error)
            raise
    return history, saver.seconds
