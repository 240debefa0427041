"""The training loop: order, step, check, evaluate, report.

It knows the distiller and its losses, not the strategies behind them.
"""

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from kdcore.cache import LiveSignals, SignalSource
from kdcore.data.order import Order
from kdcore.data.source import Batch, Source
from kdcore.distiller import Distiller, Losses
from kdcore.errors import NonFiniteLossError, StrategyError
from kdcore.evaluation import evaluate
from kdcore.experiment import TrainConfig
from kdcore.optimizers import build_optimizer, build_schedule, clip
from kdcore.tasks import Counts


@dataclass(frozen=True)
class StepRecord:
    """What one optimizer step gave.

    Attributes:
        epoch: from 0.
        step: optimizer steps taken before, from 0.
        steps: optimizer steps of the whole training.
        samples: samples of the step.
        losses: ``"total"``, ``"task"`` and the auxiliary losses by label, unweighted.
    """

    epoch: int
    step: int
    steps: int
    samples: int
    losses: Mapping[str, float]


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch gave.

    Attributes:
        epoch: from 1.
        loss: mean of the total loss over the epoch's optimizer steps.
        losses: the same of ``"task"`` and of each auxiliary loss, unweighted.
        accuracy: per cent on the test samples, None where there are none.
        validation: per cent on the validation samples, None where there are none.
        lr: learning rate of the last step.
        samples: samples that were trained on.
        seconds: time of the epoch, evaluation left out.
    """

    epoch: int
    loss: float
    losses: Mapping[str, float]
    accuracy: float | None
    validation: float | None
    lr: float
    samples: int
    seconds: float


class Observer(Protocol):
    """Something that is told how a training goes."""

    def on_step(self, record: StepRecord) -> None:
        """Hear of an optimizer step."""

    def on_epoch(self, record: EpochRecord) -> None:
        """Hear of an epoch."""


@dataclass
class History:
    """A whole training.

    Attributes:
        epochs: one record an epoch.
        best_epoch: the epoch, from 1, of the highest validation accuracy; None without one.
        best_weights: the student's state dict after it.
    """

    epochs: list[EpochRecord] = field(default_factory=list)
    best_epoch: int | None = None
    best_weights: dict[str, Tensor] | None = None

    def add(self, record: EpochRecord, distiller: Distiller) -> None:
        """Append an epoch, and keep the student where it is the best on the validation split."""
        self.epochs.append(record)
        if record.validation is None:
            return
        best = None if self.best_epoch is None else self.epochs[self.best_epoch - 1].validation
        if best is None or record.validation > best:
            self.best_epoch = record.epoch
            self.best_weights = copy.deepcopy(distiller.student.state_dict())


def train(
    distiller: Distiller,
    source: Source,
    config: TrainConfig,
    seed: int,
    *,
    test: Source | None = None,
    validation: Source | None = None,
    signals: SignalSource | None = None,
    observers: Sequence[Observer] = (),
) -> History:
    """Train the student of a distiller.

    The random stream of dropout begins anew from the seed, so that it does not depend on what
    was built or trained before.

    Args:
        distiller: student, strategies and teachers.
        source: what to learn from.
        config: the budget and the optimizer.
        seed: of order and dropout.
        test: samples to report the accuracy on after each epoch; they choose nothing.
        validation: samples to choose the best weights on.
        signals: what the teachers say of the source's samples; they are asked if not given.
        observers: told of each step and epoch.

    Raises:
        NonFiniteLossError: a loss became infinite or not a number; the step is not taken.
        StrategyError: a strategy failed, or has a parameter that no loss depends on.
    """
    signals = signals or LiveSignals(distiller.teachers)
    order = Order(source.targets, config.batch_size, config.labelled_share, seed)
    optimizer = build_optimizer(distiller.parameters(), config)
    schedule = build_schedule(optimizer, config, order.steps)
    history = History()
    torch.manual_seed(seed)
    modes = [(module, module.training) for module in distiller.student.modules()]
    distiller.train()
    for epoch in range(config.epochs):
        distiller.epoch = epoch
        records = []
        started = time.perf_counter()
        for indices in order.epoch(epoch):
            optimizer.zero_grad()
            losses = _backward(distiller, source, indices, config.accumulate, signals)
            _check(distiller, losses)
            clip(distiller.parameters(), config.clip_norm)
            optimizer.step()
            lr = float(schedule.get_last_lr()[0])
            schedule.step()
            record = StepRecord(
                epoch, distiller.step, config.epochs * order.steps, len(indices), losses
            )
            distiller.advance()
            records.append(record)
            for observer in observers:
                observer.on_step(record)
        _check_weights(distiller)
        seconds = time.perf_counter() - started
        accuracy = evaluate(distiller.student, test, distiller.task).accuracy if test else None
        score = evaluate(distiller.student, validation, distiller.task) if validation else None
        summary = EpochRecord(
            epoch + 1,
            _mean(records, "total"),
            {label: _mean(records, label) for label in records[0].losses if label != "total"},
            accuracy,
            score.accuracy if score else None,
            lr,
            sum(record.samples for record in records),
            seconds,
        )
        history.add(summary, distiller)
        for observer in observers:
            observer.on_epoch(summary)
    optimizer.zero_grad()
    for module, training in modes:
        module.training = training
    return history


def _backward(
    distiller: Distiller, source: Source, indices: Tensor, parts: int, signals: SignalSource
) -> dict[str, float]:
    """Add up the gradients of one optimizer step and return its losses."""
    batches = [source.batch(part).to(distiller.device) for part in indices.chunk(parts)]
    counts = _count(distiller, batches)
    sums: dict[str, Tensor] = {}
    for batch in batches:
        losses = distiller(
            batch.inputs,
            batch.targets,
            indices=batch.indices,
            signals=signals.signals(batch),
            counts=counts,
        )
        losses.total.backward()
        for label, value in _values(losses):
            sums[label] = sums[label] + value if label in sums else value
    return dict(zip(sums, torch.stack(list(sums.values())).tolist(), strict=True))


def _count(distiller: Distiller, batches: Sequence[Batch]) -> Counts:
    total = None
    for batch in batches:
        counts = distiller.task.count(len(batch.indices), batch.targets)
        total = counts if total is None else total + counts
    assert total is not None
    return total


def _values(losses: Losses) -> Iterator[tuple[str, Tensor]]:
    yield "total", losses.total.detach()
    yield "task", losses.task.detach()
    for label, value in losses.auxiliary.items():
        yield label, value.detach()


def _check(distiller: Distiller, losses: Mapping[str, float]) -> None:
    """Refuse to step on losses that are no numbers, or past parameters that nothing trains."""
    for label in sorted(losses, key=lambda label: label == "total"):
        if not abs(losses[label]) < float("inf"):
            raise NonFiniteLossError(
                f"the loss {label!r} is {losses[label]} in epoch {distiller.epoch}, step "
                f"{distiller.step}; the step was not taken: try a lower lr, clip_norm, or a "
                "smaller weight"
            )
    if distiller.step == 0:
        for name, parameter in distiller.strategies.named_parameters():
            if parameter.requires_grad and parameter.grad is None:
                raise StrategyError(
                    f"strategy {name.split('.')[0]!r}: its parameter {name} has no gradient: no "
                    "loss depends on it"
                )


def _check_weights(distiller: Distiller) -> None:
    """Refuse to evaluate or keep weights that a gradient has ruined."""
    for name, tensor in distiller.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor) and not bool(torch.isfinite(tensor).all()):
            raise NonFiniteLossError(
                f"{name} is not finite after epoch {distiller.epoch}, though every loss was: a "
                "loss has a gradient that is not; nothing was saved"
            )


def _mean(records: Sequence[StepRecord], label: str) -> float:
    return sum(record.losses[label] for record in records) / len(records)
