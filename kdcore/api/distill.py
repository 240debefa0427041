"""Distillation in one call, for people who do not keep a training loop of their own."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from kdcore.asking import Identity, Request
from kdcore.beforehand import try_losses
from kdcore.cache import SignalCache
from kdcore.catalog import own_version
from kdcore.contract import Setup
from kdcore.data.named import source_from
from kdcore.data.source import DatasetSource, Samples, Source
from kdcore.devices import device_of, find_device
from kdcore.distiller import Distiller
from kdcore.errors import ConfigError, DataError, ResumeError
from kdcore.execution import Execution
from kdcore.files import locked
from kdcore.fingerprint import digest_of, machine_facts, source_of, structure_of
from kdcore.frames import as_html, frame
from kdcore.frozen_teacher import AnyTeacher
from kdcore.history import EpochRecord, History, Observer, accuracy_of
from kdcore.listening import SignalSource
from kdcore.nested import to_device
from kdcore.probe import evaluating
from kdcore.processes import here
from kdcore.saving import Saver
from kdcore.sections import CacheConfig, CheckpointConfig, TrainConfig
from kdcore.selection import Entry
from kdcore.taps import logits_of, run_model
from kdcore.tasks import Classification, Task, check_targets, labelled_samples
from kdcore.trainer import train
from kdcore.validation import describe_validation
from kdcore.weights import Moving

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

Data = Samples | tuple[Tensor, Tensor] | Source


@dataclass(frozen=True)
class Result:
    """A distilled student.

    Attributes:
        student: the model that was handed over, trained in place; no hooks are left on it.
        scores: on the evaluation data by name, of the last weights; the one that counts first.
        history: one record an epoch, and the best weights where there was validation data.
        seconds: from the first step to the last evaluation, before it was continued included.
    """

    student: nn.Module
    scores: Mapping[str, float]
    history: History
    seconds: float

    @property
    def accuracy(self) -> float:
        """The accuracy in per cent; a `ScoreError` where the task has none."""
        return accuracy_of(self.scores)

    def to_pandas(self) -> "pd.DataFrame":
        """Return the history as a table of pandas: a row an epoch.

        Columns are ``epoch``, ``loss``, ``loss LABEL`` of each loss, the scores by name,
        ``validation NAME`` of those on the validation data, ``lr``, ``samples`` and ``seconds``.
        """
        return frame(map(_flat, self.history.epochs))

    def __rich__(self) -> "Table":
        """Lay the history out for a terminal."""
        from rich.table import Table

        rows = [_flat(record) for record in self.history.epochs]
        table = Table(pad_edge=False)
        for name in rows[0] if rows else ():
            table.add_column(name, justify="right")
        for row in rows:
            table.add_row(*map(_cell, row.values()))
        return table

    def _repr_html_(self) -> str:
        """Return the history for a notebook."""
        return as_html(self.__rich__())


def _cell(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _flat(record: EpochRecord) -> dict[str, float]:
    return {
        "epoch": record.epoch,
        "loss": record.loss,
        **{f"loss {label}": value for label, value in record.losses.items()},
        **record.scores,
        **{f"validation {name}": value for name, value in record.validation.items()},
        "lr": record.lr,
        "samples": record.samples,
        "seconds": record.seconds,
    }


@dataclass(frozen=True)
class Kept:
    """What several trainings share of what their teachers say.

    Attributes:
        cache: where it is kept.
        identities: who the teachers are, by name.
    """

    cache: SignalCache
    identities: Mapping[str, Identity]


def distill(
    teacher: AnyTeacher | Mapping[str, AnyTeacher] | None,
    student: nn.Module,
    train_data: Data,
    eval_data: Data,
    strategies: Iterable[Entry] = (),
    *,
    task: Task | None = None,
    validation_data: Data | None = None,
    task_weight: float | Moving | None = None,
    seed: int = 0,
    device: str = "auto",
    observers: Iterable[Observer] = (),
    resume: Path | str | None = None,
    **training: Any,
) -> Result:
    """Train a student to do its task and to follow a teacher.

    Args:
        teacher: the model to learn from, a `MovingAverageTeacher` for the student's own average, or
            several by name, among them a `TeacherEnsemble`; None to train the student alone.
        student: the model to train, in place.
        train_data: a data set of ``(input, target)`` pairs, or a pair of tensors
            ``[samples, ...]`` and ``int64 [samples]``; -100 is no label. Targets of other tasks
            are as these have them, NaN among numbers for none.
        eval_data: the same, to score the student on after each epoch; it chooses nothing.
        strategies: names, mappings or `Strategy` instances, as `Distiller` takes them.
        task: what the student is for, such as `kdcore.Regression()`; classification if not given.
        validation_data: the same again, to choose the best weights on.
        task_weight: weight of the task's loss; if not given, what the strategies' papers use.
        seed: of order, dropout and adapters; the student's initial weights are as handed over.
        device: ``"auto"`` for the accelerator where there is one; or its name.
        observers: told of each step and each epoch, see `kdcore.history.Observer`.
        resume: folder in which the training is saved after each epoch (and every ten minutes), and
            from which the same call continues it; models have to come with the weights that
            they came with before.
        training: keys of ``[train]``: epochs, batch_size, optimizer, lr, schedule, ...

    Returns:
        `Result`: the student with its last weights, its scores, and the history.

    Raises:
        ConfigError: a key of the training or an entry of `strategies` is wrong.
        DataError: the data is empty, or its targets are not the task's.
        NonFiniteLossError: a loss became infinite or not a number.
        ResumeError: what was saved in the folder is of another training.
    """
    config = training_of(training)
    task = task_for(task, config)
    entries = tuple(strategies)
    if not task.learns and not entries:
        raise ConfigError("a task without a loss learns from strategies alone: give some")
    held_out = validation_data
    return Training(
        teacher=teacher,
        student=student,
        entries=entries,
        train=source_of_data(train_data, "train_data"),
        test=source_of_data(eval_data, "eval_data"),
        validation=None if held_out is None else source_of_data(held_out, "validation_data"),
        config=config,
        task=task,
        task_weight=task_weight,
        seed=seed,
        device=find_device(device),
    ).run(observers=observers, resume=resume)


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training in one call, ready to be run.

    Attributes:
        teacher: as `distill` takes it.
        student: trained in place.
        entries: strategies, as `Distiller` takes them.
        train: what is learned from.
        test: what the student is scored on after each epoch.
        validation: what the best weights are chosen on; None where nothing is.
        config: budget and optimizer.
        task: what the student is for.
        task_weight: weight of its loss; what the strategies' papers use if None.
        seed: of order, dropout and adapters.
        device: where it runs.
        kept: what it shares with other trainings of what its teachers say; None to share nothing.
    """

    teacher: AnyTeacher | Mapping[str, AnyTeacher] | None
    student: nn.Module
    entries: tuple[Entry, ...]
    train: Source
    test: Source
    validation: Source | None
    config: TrainConfig
    task: Task
    task_weight: float | Moving | None
    seed: int
    device: torch.device
    kept: Kept | None = None

    def run(
        self, *, observers: Iterable[Observer] = (), resume: Path | str | None = None
    ) -> Result:
        """Train the student; arguments, result and errors are those of `distill`."""
        with self._set_up() as distiller:
            signals = self._signals(distiller)
            saver = None
            if resume is not None:
                facts = _facts(distiller, self._sources, self.config, self.seed, self.device)
                saver = Saver(Path(resume), CheckpointConfig(), facts)
            with nullcontext() if resume is None else _alone(Path(resume)):
                started = time.perf_counter()
                history = train(
                    distiller,
                    self.train,
                    self.config,
                    self.seed,
                    test=self.test,
                    validation=self.validation,
                    signals=signals,
                    observers=tuple(observers),
                    saver=saver,
                )
                taken = time.perf_counter() - started
                seconds = saver.seconds.training if saver else taken
        return Result(self.student, history.epochs[-1].scores, history, seconds)

    def rehearse(self) -> None:
        """Set it up and compute a few losses, without training; what it shares hears its wishes.

        Raises:
            UserError: it cannot be set up.
            StrategyError: a strategy fails, or its loss is none.
        """
        with self._set_up() as distiller:
            if self.kept is not None:
                self.kept.cache.expect(distiller.teachers)
            try_losses(distiller, self.train)

    @contextmanager
    def _set_up(self) -> Iterator[Distiller]:
        self._check_labels()
        sample = self.train.batch(torch.arange(min(2, len(self.train))))
        outputs = self._outputs(sample.inputs)
        with Distiller(
            self.teacher,
            self.student,
            self.entries,
            task_weight=self.task_weight,
            sample_input=sample.inputs,
            teacher_sample_input=sample.teacher_inputs,
            setup=Setup(targets=self.train.targets),
            task=self.task,
            seed=self.seed,
            device=self.device,
            execution=Execution.of(self.config.precision, self.device, self.config.compile),
        ) as distiller:
            for name, data in self._sources.items():
                if data is not None:
                    check_targets(self.task, data.targets, outputs, f"{name}_data")
            yield distiller

    @property
    def _sources(self) -> dict[str, Source | None]:
        return {"train": self.train, "eval": self.test, "validation": self.validation}

    def _check_labels(self) -> None:
        for name, data in self._sources.items():
            if name == "train" or data is None or not self.task.learns:
                continue
            if not bool(labelled_samples(data.targets).any()):
                raise DataError(f"{name}_data has no labels to score predictions against")

    def _outputs(self, inputs: Any) -> int:
        """Return how many values the student gives a row; 0 where it has no logits."""
        with evaluating(self.student):
            logits = logits_of(run_model(self.student, to_device(inputs, device_of(self.student))))
        return 0 if logits is None else self.task.row_shape(logits.shape)[-1]

    def _signals(self, distiller: Distiller) -> SignalSource:
        """Decide how the teachers are heard."""
        most = here().largest_share(self.config.micro_batch)
        asked = distiller.teachers, self.train, most, self.device
        if self.kept is None:
            return SignalCache(CacheConfig(), lambda _: None).source(Request(*asked))
        facts = {"precision": self.config.precision, "compile": self.config.compile}
        return self.kept.cache.source(Request(*asked, facts, self.kept.identities))


def training_of(keys: Mapping[str, Any]) -> TrainConfig:
    """Check the keys of a training.

    Raises:
        ConfigError: one is unknown or out of bounds.
    """
    try:
        return TrainConfig.model_validate(dict(keys))
    except ValidationError as error:
        raise ConfigError(describe_validation(error, "training", TrainConfig)) from None


def task_for(task: Task | None, config: TrainConfig) -> Task:
    """Return the task of a training: classification if none is given.

    Raises:
        ConfigError: its label smoothing would be ignored.
    """
    if task is None:
        return Classification(config.label_smoothing)
    if config.label_smoothing:
        raise ConfigError(
            "label_smoothing would be ignored: give it to the task, where it is one of classes, as "
            "kdcore.Classification(label_smoothing=0.1)"
        )
    return task


def _alone(folder: Path) -> AbstractContextManager[None]:
    """Refuse a folder that another training saves itself in."""

    def busy() -> None:
        raise ResumeError(
            f"another training is saved in {folder}: wait for it, or give this one another folder"
        )

    return locked(folder, busy)


def _digest(source: Source) -> str:
    """Return the hash of samples, as far as they are the same whenever they are read."""
    inputs = source.content if isinstance(source, DatasetSource) else source.fingerprint
    return digest_of({"inputs": inputs, "targets": source.targets})


def _facts(
    distiller: Distiller,
    sources: Mapping[str, Source | None],
    config: TrainConfig,
    seed: int,
    device: torch.device,
) -> dict[str, object]:
    """Return what the result of a training depends on, as far as it can be known."""
    return {
        "seed": seed,
        "task": distiller.task.facts(),
        "train": config.model_dump(mode="json"),
        "task_weight": repr(distiller.task_weight),
        "strategies": [
            [each.label, each.teacher, repr((each.weight, each.strategy)), source_of(each.strategy)]
            for each in distiller.members
        ],
        "student": structure_of(distiller.student),
        "teachers": {
            name: structure_of(teacher.model) for name, teacher in distiller.teachers.items()
        },
        "ensembles": {name: repr(each) for name, each in distiller.ensembles.items()},
        "averages": {name: each.decay for name, each in distiller.moving.items()},
        "data": {name: source and _digest(source) for name, source in sources.items()},
        "kdcore": own_version(),
        **machine_facts(device),
    }


def source_of_data(data: Data, name: str) -> Source:
    """Return data as a source.

    Args:
        data: what was handed over.
        name: of it, for errors.

    Raises:
        DataError: it is empty, or no data set.
    """
    return data if isinstance(data, Source) else source_from(data, name)
