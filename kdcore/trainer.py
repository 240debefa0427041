"""The training loop: order, step, check, evaluate, report.

It knows the distiller and its losses, not the strategies behind them.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from kdcore.averaging import WeightAverage
from kdcore.data.feed import Feed, Plan
from kdcore.data.order import Order
from kdcore.data.source import Batch, Source
from kdcore.distiller import Distiller, Losses
from kdcore.errors import NonFiniteLossError, StrategyError
from kdcore.evaluation import evaluate
from kdcore.history import EpochRecord, History, Observer
from kdcore.listening import LiveSignals, SignalSource
from kdcore.optimizers import build_optimizer, build_schedule, clip, step_unless
from kdcore.readings import Readings, StepRecord, mean_of
from kdcore.sections import TrainConfig
from kdcore.tasks import Counts


def train(
    distiller: Distiller,
    source: Source,
    config: TrainConfig,
    seed: int,
    *,
    test: Source | None = None,
    validation: Source | None = None,
    signals: SignalSource | None = None,
    workers: int = 0,
    read_every: int | None = None,
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
        workers: processes that make batches ahead; 0 to make them here.
        read_every: optimizer steps between two readings of losses; as fits the device if not
            given.
        observers: told of each step and epoch, of steps whenever they are read.

    Raises:
        NonFiniteLossError: a loss became infinite or not a number; that step and those after it
            were not taken. Running statistics (of batch normalisation) have seen its batch, and
            where losses are read now and then, strategies' memory may have.
        StrategyError: a strategy failed, or has a parameter that no loss depends on.
    """
    training = _Training(distiller, source, config, seed, signals, workers, read_every, observers)
    torch.manual_seed(seed)
    modes = [(module, module.training) for module in distiller.student.modules()]
    distiller.train()
    history = History()
    try:
        training.run(history, test, validation)
    finally:
        training.release()
        for module, mode in modes:
            module.training = mode
    return history


class _Training:
    """What a training consists of, and how it goes."""

    def __init__(
        self,
        distiller: Distiller,
        source: Source,
        config: TrainConfig,
        seed: int,
        signals: SignalSource | None,
        workers: int,
        read_every: int | None,
        observers: Sequence[Observer],
    ) -> None:
        self._distiller = distiller
        self._config = config
        self._observers = observers
        self._signals = signals or LiveSignals(distiller.teachers, config.micro_batch)
        self._order = Order(source.targets, config.batch_size, config.labelled_share, seed)
        wanted = self._signals.needs_inputs
        feed = Feed(source, distiller.device, workers=workers, teacher=wanted)
        self._batches = feed.batches(_plans(self._order, source, config))
        self._optimizer = build_optimizer(distiller.parameters(), config)
        self._schedule = build_schedule(self._optimizer, config, self._order.steps)
        scales = distiller.execution.scales_losses
        self._scaler = torch.amp.GradScaler(distiller.device.type, enabled=scales)
        # A scaler keeps the optimizer's flag for itself: losses are looked at before each step.
        every = 1 if scales else read_every
        self._readings = Readings(config.epochs * self._order.steps, distiller.device, every)
        decay = config.weight_average
        self._average = WeightAverage(distiller.student, decay) if decay else None

    def run(self, history: History, test: Source | None, validation: Source | None) -> None:
        """Train and measure epoch by epoch; leave the student with the weights that count."""
        distiller = self._distiller
        for epoch in range(self._config.epochs):
            started = time.perf_counter()
            records, lr = self._epoch(epoch)
            seconds = time.perf_counter() - started
            with self._averaged():
                accuracy, chosen = _score(distiller, test), _score(distiller, validation)
                losses = mean_of(records)
                total = losses.pop("total")
                samples = sum(record.samples for record in records)
                record = EpochRecord(
                    epoch + 1, total, losses, accuracy, chosen, lr, samples, seconds
                )
                history.add(record, distiller.student)
            for observer in self._observers:
                observer.on_epoch(record)
        if self._average:
            self._average.apply()

    def _epoch(self, epoch: int) -> tuple[list[StepRecord], float]:
        """Take all steps of one epoch; return their losses and the last learning rate."""
        distiller, optimizer, schedule = self._distiller, self._optimizer, self._schedule
        distiller.epoch = epoch
        records: list[StepRecord] = []
        lr = self._config.lr
        for _ in range(self._order.steps):
            batches = next(self._batches)
            optimizer.zero_grad()
            losses = _backward(distiller, batches, self._signals, self._scaler)
            self._readings.add(epoch, distiller.step, [b.indices for b in batches], losses)
            _check_gradients(distiller)
            if self._scaler.is_enabled():
                records += self._read()
                self._scaler.unscale_(optimizer)
            clip(distiller.parameters(), self._config.clip_norm)
            self._step()
            if self._readings.due:  # before memory and steps are counted that were not taken
                records += self._read()
            lr = float(schedule.get_last_lr()[0])
            schedule.step()
            distiller.advance()
            if self._average:
                self._average.update()
        records += self._read()
        _check_weights(distiller)
        return records, lr

    def _step(self) -> None:
        if self._scaler.is_enabled():
            self._scaler.step(self._optimizer)
            self._scaler.update()
        else:
            step_unless(self._optimizer, self._readings.stopped)

    def _read(self) -> list[StepRecord]:
        records: list[StepRecord] = []
        for record in self._readings.read():
            records.append(record)
            for observer in self._observers:
                observer.on_step(record)
        return records

    def _averaged(self) -> AbstractContextManager[None]:
        """Give the student the average of its weights for a while, where there is one."""
        return self._average.applied() if self._average else nullcontext()

    def release(self) -> None:
        """Leave no gradients."""
        self._optimizer.zero_grad()


def _plans(order: Order, source: Source, config: TrainConfig) -> Iterator[Plan]:
    """Go through the steps of all epochs."""
    for epoch in range(config.epochs):
        for indices in order.epoch(epoch):
            # Each micro-batch has its share of the labelled, which come first.
            parts = [indices[first :: config.accumulate] for first in range(config.accumulate)]
            yield Plan([part for part in parts if len(part)], source.view(epoch))


def _score(distiller: Distiller, source: Source | None) -> float | None:
    return evaluate(distiller.student, source, distiller.task).accuracy if source else None


def _backward(
    distiller: Distiller,
    batches: Sequence[Batch],
    signals: SignalSource,
    scaler: torch.amp.GradScaler,
) -> dict[str, Tensor]:
    """Add up the gradients of one optimizer step and return its losses."""
    counts = _count(distiller, batches)
    sums: dict[str, Tensor] = {}
    for batch in batches:
        losses = distiller(
            batch.inputs,
            batch.targets,
            indices=batch.indices,
            signals=signals.signals(batch),
            counts=counts,
            mixed=batch.mixed,
        )
        scaler.scale(losses.total).backward()
        for label, value in _values(losses):
            sums[label] = sums[label] + value if label in sums else value
    return sums


def _count(distiller: Distiller, batches: Sequence[Batch]) -> Counts:
    first, *others = [distiller.task.count(len(batch.indices), batch.targets) for batch in batches]
    return sum(others, start=first)


def _values(losses: Losses) -> Iterator[tuple[str, Tensor]]:
    yield "total", losses.total.detach()
    yield "task", losses.task.detach()
    for label, value in losses.auxiliary.items():
        yield label, value.detach()


def _check_gradients(distiller: Distiller) -> None:
    """Refuse, at the first step, parameters of strategies that nothing trains."""
    if distiller.step:
        return
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
