"""Teachers and students of an experiment: from a seed to a folder of files.

What its runs share is made once, in `RunContext`. How they are compared is in `comparison`.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from rich.console import Console
from rich.markup import escape
from torch import nn

from kdcore.cache import Request, SignalCache, answers_for
from kdcore.catalog import WRAPPERS, Catalog, own_version
from kdcore.configfile import as_toml
from kdcore.contract import Setup
from kdcore.data.prepared import PreparedData, prepare_data
from kdcore.data.source import Source
from kdcore.devices import find_device
from kdcore.distiller import Distiller
from kdcore.errors import ModelError
from kdcore.evaluation import evaluate
from kdcore.execution import Execution, in_best_layout
from kdcore.experiment import Experiment, StrategyConfig
from kdcore.files import load_weights, make_folder, save_weights, write_bytes
from kdcore.fingerprint import digest_of, fingerprint_of, machine_facts, source_of
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
from kdcore.models.build import build_model
from kdcore.progress import MetricsLog, TrainingDisplay
from kdcore.resolved import resolve
from kdcore.sections import TrainConfig
from kdcore.selection import select
from kdcore.tasks import Classification, Task
from kdcore.trainer import History, train


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


class RunContext:
    """What all runs of an experiment share: data, device, folder and display.

    Args:
        experiment: the experiment.
        out: folder for all files.
        console: where progress is printed.
        catalog: where strategies are looked up.

    Raises:
        UserError: the data, the device or the folder cannot be used.
    """

    def __init__(
        self, experiment: Experiment, out: Path, console: Console, catalog: Catalog | None = None
    ) -> None:
        self.experiment = experiment
        self.console = console
        self.catalog = catalog or Catalog()
        for strategies in experiment.strategy_lists:
            select(strategies, (TEACHER,), self.catalog)  # what is misspelt fails at once
        self.device = find_device(experiment.device)
        self.out = make_folder(out)
        wrappers = Catalog(WRAPPERS)
        self.wrappers = {name: wrappers.load(name)[0] for name in experiment.wrappers}
        self.data: PreparedData = prepare_data(experiment, self.device)
        self.cache = SignalCache(experiment.cache, self.note)
        self._starts: dict[int, str] = {}

    def note(self, text: str) -> None:
        """Print a line about the training that runs."""
        self.console.print(f"  {text}", markup=False, highlight=False, soft_wrap=True)

    @property
    def classes(self) -> int:
        """How many classes the data has."""
        return len(self.data.classes)

    def task(self, config: TrainConfig) -> Task:
        """Return the task of a training."""
        return Classification(config.label_smoothing)

    def new_student(self, seed: int) -> nn.Module:
        """Build the student with the initial weights of a seed, the same for every run."""
        torch.manual_seed(seed)
        size = self.data.student_preprocess.size
        student = build_model(self.experiment.student, self.classes, size, "student")
        start = digest_of(student.state_dict())
        if self._starts.setdefault(seed, start) != start:
            raise ModelError(
                f"student {self.experiment.student.model!r} began with other weights than before: "
                "return a new model each time, and draw its weights from torch's random stream"
            )
        return in_best_layout(student)

    def new_teacher(self, seed: int) -> nn.Module:
        """Build the teacher, with its weights where the experiment names a file that is there."""
        torch.manual_seed(seed)
        config, size = self.experiment.teacher, self.data.teacher_preprocess.size
        if self.kept_answers is not None:
            config = config.model_copy(update={"weights": None})
        return in_best_layout(build_model(config, self.classes, size, "teacher"))

    @cached_property
    def kept_answers(self) -> Mapping[str, Any] | None:
        """Facts of a teacher whose weights are missing but whose answers are kept."""
        weights = self.experiment.teacher.weights
        if weights is None or weights.exists():
            return None
        wanted = {
            "weights": str(weights),
            "model": self.experiment.teacher.model,
            "data": self.data.student.fingerprint,
            "measured_on": self.data.teacher_fingerprint,
        }
        return answers_for(self.experiment.cache, wanted)

    def distiller(
        self,
        seed: int,
        student: nn.Module,
        teacher: nn.Module | None,
        strategies: Sequence[StrategyConfig],
        task_weight: float | None,
    ) -> Distiller:
        """Set up one run of the student."""
        sample = self.data.student.batch(torch.arange(min(2, len(self.data.student))))
        return Distiller(
            teacher,
            student,
            strategies,
            task_weight=task_weight,
            sample_input=sample.inputs,
            teacher_sample_input=sample.teacher_inputs,
            setup=Setup(class_count=self.classes, targets=self.data.student.targets),
            task=self.task(self.experiment.train),
            seed=seed,
            device=self.device,
            catalog=self.catalog,
            wrappers=self.wrappers,
            execution=self.execution(self.experiment.train),
        )

    def execution(self, config: TrainConfig) -> Execution:
        """Return how models' layers are computed in a training."""
        return Execution.of(config.precision, self.device, config.compile)

    def job(
        self, name: str, seed: int, facts: Mapping[str, object], *, teaches: bool = False
    ) -> Job:
        """Return a job that depends on the given facts and on those that all runs depend on."""
        shared = {
            "name": name,
            "seed": seed,
            "data": self.data.teacher_fingerprint if teaches else self.data.fingerprint,
            **machine_facts(self.device),
            "kdcore": own_version(),
            "wrappers": {name: _source(each) for name, each in self.wrappers.items()},
            "augment": self.experiment.augment.model_dump(mode="json"),
        }
        kind: Literal["teacher", "student"] = "teacher" if teaches else "student"
        return Job(kind, name, seed, {**shared, **facts}, self.out)


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
    facts = {"start": fingerprint_of(model, size), "train": config.model_dump(mode="json")}
    job = context.job(TEACHER, seed, facts, teaches=True)
    finished = _kept(context, job)
    if finished is None:
        how = context.execution(config)
        with Distiller(None, model, task=task, device=context.device, execution=how) as distiller:
            history, seconds = _train(context, distiller, config, job)
        save_weights(job.folder / TEACHER_WEIGHTS, model.state_dict())
        finished = job.finish(history, seconds, None)
    else:
        load_weights(model, job.folder / TEACHER_WEIGHTS, TEACHER)
    file = (job.folder / TEACHER_WEIGHTS).absolute()
    return Teacher(model, fingerprint_of(model, size), file, finished)


def _source(wrapper: object) -> str:
    return source_of(wrapper if isinstance(wrapper, ModuleType) else type(wrapper))


def _came_trained(seed: int, accuracy: float, weights: Path) -> RunResult:
    return RunResult(TEACHER, seed, accuracy, None, 0.0, (), None, None, str(weights.parent))


def keep_answers(context: RunContext, seed: int) -> None:
    """Have the teacher of a seed say all that the experiment's students want, and keep it."""
    teacher = run_teacher(context, seed)
    lists = [strategies for strategies in context.experiment.strategy_lists if strategies]
    for expected in (True, False):
        for strategies in lists:
            student = context.new_student(seed)
            with context.distiller(seed, student, teacher.model, strategies, None) as distiller:
                if expected:
                    context.cache.expect(distiller.teachers)
                else:
                    _signals(context, distiller, context.data.student, teacher)


def _signals(
    context: RunContext, distiller: Distiller, source: Source, teacher: Teacher | None
) -> SignalSource:
    """Decide how a student hears its teacher."""
    config = context.experiment.train
    if teacher is None:
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
    strategies: Sequence[StrategyConfig],
    task_weight: float | None,
    teacher: Teacher | None,
) -> RunResult:
    """Train one student from the initial weights of its seed, or take what was trained before.

    Args:
        context: what it shares with others.
        seed: of weights, order and dropout.
        name: of its row; also of its folder.
        strategies: what it learns by, beside its task.
        task_weight: weight of its task's loss.
        teacher: whom it learns from.
    """
    config, data = context.experiment.train, context.data
    student = context.new_student(seed)
    with context.distiller(
        seed, student, teacher.model if teacher else None, strategies, task_weight
    ) as distiller:
        resolved = resolve(
            context.experiment, data, distiller, seed, teacher.weights if teacher else None
        )
        chosen = resolved.model_dump(mode="json", include={"task_weight", "strategies"})
        facts = {
            "start": fingerprint_of(student, data.student_preprocess.size),
            "train": config.model_dump(mode="json"),
            "teacher": teacher.fingerprint if teacher and strategies else None,
            "signals": context.experiment.cache.dtype if strategies else None,
            "methods": [
                [str(member.origin), source_of(type(member.strategy))]
                for member in distiller.members
            ],
            **chosen,
        }
        job = context.job(name, seed, facts)
        kept = _kept(context, job)
        if kept is not None:
            return kept
        write_bytes(job.folder / CONFIG, as_toml(resolved).encode())
        history, seconds = _train(context, distiller, config, job, teacher)
    best_accuracy = None
    save_weights(job.folder / STUDENT_WEIGHTS, student.state_dict())
    if history.best_weights is not None:
        save_weights(job.folder / BEST_WEIGHTS, history.best_weights)
        student.load_state_dict(history.best_weights)
        best_accuracy = evaluate(student, data.test, distiller.task).accuracy
    return job.finish(history, seconds, best_accuracy)


def _kept(context: RunContext, job: Job) -> RunResult | None:
    result = job.finished()
    if result is not None:
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
) -> tuple[History, float]:
    data, teaches = context.data, job.kind == "teacher"
    source = data.teacher if teaches else data.student
    started = time.perf_counter()
    with (
        TrainingDisplay(context.console, f"{job.name}, seed {job.seed}", config.epochs) as display,
        MetricsLog(job.folder / METRICS) as log,
    ):
        signals = _signals(context, distiller, source, teacher)
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
        )
    return history, time.perf_counter() - started
