"""How the training of a job is carried out: found finished, or trained, shown, logged and saved.

Whose training it is, is decided in `faculty` and `run`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

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


def signals_of(
    context: RunContext,
    distiller: Distiller,
    config: TrainConfig,
    source: Source,
    identities: Mapping[str, Identity],
) -> SignalSource:
    """Decide how a student hears its teachers.

    Args:
        context: what it shares with others.
        distiller: the student, with its teachers.
        config: of its training.
        source: what it learns from.
        identities: of its teachers, by name; others may be there.
    """
    if not distiller.teachers:
        return LiveSignals({})
    facts = {"precision": config.precision, "compile": config.compile}
    most = here().largest_share(config.micro_batch)
    return context.cache.source(
        Request(distiller.teachers, source, most, context.device, facts, identities)
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
    context: RunContext,
    distiller: Distiller,
    config: TrainConfig,
    job: Job,
    source: Source,
    test: Source,
    identities: Mapping[str, Identity] = MappingProxyType({}),
    stage: int = 0,
    where: str = "",
    epochs_before: int = 0,
) -> tuple[History, float]:
    """Train what a job is of, or one stage of it, from where it was saved.

    Args:
        context: what it shares with others.
        distiller: the model that is trained.
        config: of the training.
        job: whose folder its files are in.
        source: what is learned from.
        test: what is measured on after each epoch.
        identities: of its teachers, by name.
        stage: which one of the job, from 0.
        where: what to add to its title.
        epochs_before: epochs of earlier stages.

    Returns:
        Its history, and the seconds that it took.
    """
    data = context.data
    job.begin()
    saver = context.saver(job, stage)
    title, last = f"{job.name}, seed {job.seed}{where}", epochs_before + config.epochs
    with (
        TrainingDisplay(
            context.console, title, last, distiller.task.metric, data.things
        ) as display,
        MetricsLog(job.folder / METRICS) as log,
        _tensorboard(context, job, stage) as board,
    ):
        signals = signals_of(context, distiller, config, source, identities)
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
                observers=(display, log, *board),
                saver=saver,
                epochs_before=epochs_before,
            )
        except NonFiniteLossError as error:
            job.failed(error)
            raise
    return history, saver.seconds
