"""The training loop: order, step, check, evaluate, save, report.

It knows the distiller and its losses, not the strategies behind them.
"""

import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from kdcore.averaging import WeightAverage
from kdcore.data.feed import Feed, Plan
from kdcore.data.order import Order
from kdcore.data.source import Batch, Source
from kdcore.devices import explained_where_memory_ends
from kdcore.distiller import Distiller, Losses
from kdcore.errors import ModelError, NonFiniteLossError, ResumeError, RunError, StrategyError
from kdcore.evaluation import evaluate
from kdcore.fingerprint import digest_of
from kdcore.history import EpochTotals, History, Observer
from kdcore.listening import LiveSignals, SignalSource
from kdcore.optimizers import build_optimizer, build_schedule, clip, load_optimizer, step_unless
from kdcore.parallel import Unit, check_alike, check_inside
from kdcore.processes import here, idling
from kdcore.randomness import derive_seed, random_state, seed_all, set_random_state
from kdcore.readings import Readings
from kdcore.saving import Saver
from kdcore.sections import TrainConfig
from kdcore.sharding import like, whole, whole_state
from kdcore.shares import GradientShares


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
    saver: Saver | None = None,
    epochs_before: int = 0,
) -> History:
    """Train the student of a distiller, from where it was saved if it was.

    The random stream of dropout begins anew from the seed, so that it does not depend on what
    was built or trained before. Where several processes call it together (`processes`), each
    computes its share of every batch.

    Args:
        distiller: student, strategies and teachers.
        source: what to learn from.
        config: the budget and the optimizer.
        seed: of order and dropout.
        test: samples to report scores on after each epoch; they choose nothing.
        validation: samples to choose the best weights on.
        signals: what the teachers say of the source's samples; they are asked if not given.
        workers: processes that make batches ahead; 0 to make them here.
        read_every: optimizer steps between two readings of losses; as fits the device if not
            given.
        observers: told of each step and epoch, of steps whenever they are read.
        saver: saves the training now and then, and has what was saved of it; it is not saved if
            not given.
        epochs_before: epochs of earlier stages; order, views and records are counted on from there.

    Raises:
        NonFiniteLossError: a loss became infinite or not a number; that step and those after it
            were not taken. Running statistics (of batch normalisation) have seen its batch, and
            where losses are read now and then, strategies' memory may have.
        StrategyError: a strategy failed, or has a parameter that no loss depends on.
        RunError: memory ended, or a checkpoint cannot be written.
        ResumeError: what was saved is of another training.
        Interrupted: a signal asked to stop; the training is saved.
    """
    modes = [(module, module.training) for module in distiller.student.modules()]
    try:
        with Unit(distiller, shard=config.shard) as unit:
            training = _Training(
                distiller,
                unit,
                source,
                config,
                seed,
                signals,
                workers,
                read_every,
                observers,
                saver,
                epochs_before,
            )
            seed_all(_dropout_seed(seed, epochs_before))
            if saver and (saved := saver.load()):
                training.load_state(saved)
            distiller.train()
            with (
                saver.working() if saver else nullcontext(),
                explained_where_memory_ends(config.micro_batch),
            ):
                training.run(test, validation)
    finally:
        for parameter in distiller.parameters():
            parameter.grad = None
        for module, mode in modes:
            module.training = mode
    return training.history


class _Training:
    """What a training consists of, and how it goes."""

    def __init__(
        self,
        distiller: Distiller,
        unit: Unit,
        source: Source,
        config: TrainConfig,
        seed: int,
        signals: SignalSource | None,
        workers: int,
        read_every: int | None,
        observers: Sequence[Observer],
        saver: Saver | None,
        epochs_before: int,
    ) -> None:
        self.history = History(metric=distiller.task.metric)
        self._totals = EpochTotals()
        self._distiller = distiller
        self._source = source
        self._config = config
        self._observers = observers
        self._saver = saver
        self._before = epochs_before
        self._unit = unit
        self._processes = unit.processes
        most = unit.processes.largest_share(config.micro_batch)
        self._signals = signals or LiveSignals(distiller.teachers, most)
        self._order = Order(source.targets, config.batch_size, config.labelled_share, seed)
        wanted = self._signals.needs_inputs
        self._feed = Feed(source, distiller.device, workers=workers, teacher=wanted)
        if unit.processes.count > 1:
            _check_alike(distiller, source, config, seed)
        self._optimizer = build_optimizer(distiller, config)
        check_inside(distiller, self._optimizer)
        self._schedule = build_schedule(self._optimizer, config, self._order.steps)
        scales = distiller.execution.scales_losses
        self._scaler = torch.amp.GradScaler(distiller.device.type, enabled=scales)
        # A scaler keeps the optimizer's flag for itself: losses are looked at before each step.
        every = 1 if scales else read_every
        self._readings = Readings(config.epochs * self._order.steps, distiller.device, every)
        plain = unit.processes.count == 1 and not config.compile and not scales
        self._shares = GradientShares(distiller, config.epochs * self._order.steps, plain=plain)
        self._finite = _finite(distiller)
        decay = config.weight_average
        self._average = WeightAverage(distiller.student, decay) if decay else None

    def run(self, test: Source | None, validation: Source | None) -> None:
        """Train and measure epoch by epoch; leave the student with the weights that count."""
        distiller = self._distiller
        steps = zip(self._plans(), self._feed.batches(self._plans()), strict=True)
        for epoch in range(len(self.history.epochs), self._config.epochs):
            distiller.epoch = epoch
            self._unit.check()
            self._steps(steps)
            with self._averaged():
                self._unit.same_buffers()
                scores, chosen = _scores(distiller, test), _scores(distiller, validation)
                record = self._totals.record(self._before + epoch + 1, scores, chosen)
                self.history.add(record, distiller.student)
            self._totals = EpochTotals()
            for observer in self._observers:
                observer.on_epoch(record)
            done = epoch + 1
            if self._saver and (done == self._config.epochs or self._saver.due_after(done)):
                self._save()
        if self._average:
            self._average.apply()

    def _steps(self, steps: Iterator[tuple[Plan, list[Batch]]]) -> None:
        """Take the steps that an epoch has yet to take."""
        started = time.perf_counter() - self._totals.seconds
        while self._totals.steps < self._order.steps:
            self._step(*next(steps))
            self._totals.steps += 1
            self._totals.seconds = time.perf_counter() - started
            if self._saver and self._saver.due(self._distiller.step):
                self._save()
        self._read()
        _check_weights(self._distiller, self._finite)
        self._totals.seconds = time.perf_counter() - started

    def _step(self, plan: Plan, batches: Sequence[Batch]) -> None:
        """Take one optimizer step."""
        distiller, optimizer = self._distiller, self._optimizer
        optimizer.zero_grad()
        with idling(plan.idle):
            losses, shares = self._backward(plan, batches)
        now = self._before + distiller.epoch, distiller.step
        self._readings.add(*now, plan.samples, losses, shares)
        _check_gradients(distiller, self._processes.count)
        if self._scaler.is_enabled():
            self._read()
            self._scaler.unscale_(optimizer)
        clip(distiller.parameters(), self._config.clip_norm)
        if self._scaler.is_enabled():
            self._scaler.step(optimizer)
            self._scaler.update()
        else:
            step_unless(optimizer, self._readings.stopped)
        if self._readings.due:  # before memory and steps are counted that were not taken
            self._read()
        self._totals.lr = float(self._schedule.get_last_lr()[0])
        self._schedule.step()
        if plan.idle:
            distiller.forget_rows()
        distiller.advance()
        if self._average:
            self._average.update()

    def _backward(
        self, plan: Plan, batches: Sequence[Batch]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Add up the gradients of one optimizer step; return its losses, summed likewise.

        Their shares in the gradient are returned, too, where they are measured.
        """
        # Of all processes' samples, whose targets each has: nobody needs to be asked.
        counts = self._distiller.task.count(len(plan.samples), self._source.targets[plan.samples])
        sums: dict[str, Tensor] = {}
        shares: dict[str, Tensor] = {}
        for number, batch in enumerate(batches, start=1):
            with self._unit.micro_batch(last=number == len(batches)):
                signals = self._signals.signals(batch)
                with _explained_where_one_is_too_few(len(batch.indices)):
                    losses = self._unit.module(
                        batch.inputs,
                        batch.targets,
                        indices=batch.indices,
                        signals=signals,
                        counts=counts,
                        mixed=batch.mixed,
                    )
                if number == 1 and self._shares.due:
                    shares = self._shares.of(losses)
                total = losses.total * 0.0 if plan.idle else losses.total
                self._scaler.scale(total).backward()
            for label, value in _values(losses):
                share = torch.zeros_like(value) if plan.idle else value
                sums[label] = sums[label] + share if label in sums else share
        return sums, shares

    def _read(self) -> None:
        for record in self._readings.read():
            self._totals.add(record)
            for observer in self._observers:
                observer.on_step(record)

    def _plans(self) -> Iterator[Plan]:
        """Go through the steps that are left, of all epochs."""
        done, accumulate = self._totals.steps, self._config.accumulate
        first = self._before + len(self.history.epochs)
        for epoch in range(first, self._before + self._config.epochs):
            for samples in self._order.epoch(epoch)[done:]:
                parts, idle = self._processes.parts(samples, accumulate)
                yield Plan(parts, self._source.view(epoch), samples, idle)
            done = 0

    def _save(self) -> None:
        """Save everything that the steps to come depend on, once it is known to be good."""
        assert self._saver is not None
        self._read()
        self._unit.same_buffers()
        _check_weights(self._distiller, self._finite)
        self._saver.save(self._distiller.step, self._state())

    def _state(self) -> dict[str, object]:
        weights = self._distiller.state_dict()
        average = self._average and whole_state(self._average.state_dict())
        return {
            "model": {
                "weights": whole_state(weights),
                "metadata": dict(weights._metadata),  # type: ignore[attr-defined]  # PyTorch's
                "unsaved": dict(_unsaved(self._distiller)),
                "learning": _learning(self._distiller),
            },
            "optimizer": {
                "optimizer": whole_state(self._optimizer.state_dict()),
                "schedule": self._schedule.state_dict(),
                "scaler": self._scaler.state_dict(),
                "average": average,
            },
            "training": {
                "history": self.history.state_dict(),
                "totals": asdict(self._totals),
                "streams": self._processes.all(self._streams()),
            },
        }

    def _streams(self) -> dict[str, object]:
        """Return where the random streams of this process are."""
        return {
            "random": random_state(self._distiller.device),
            "losses": self._distiller.streams(),
        }

    def load_state(self, saved: Mapping[str, Any]) -> None:
        """Take back what was saved."""
        model, kept, training = saved["model"], saved["optimizer"], saved["training"]
        if model["learning"] != _learning(self._distiller):
            raise ResumeError(
                "what was saved is of a training of other parameters: the same, of the same "
                "shapes, must have requires_grad=True"
            )
        own = self._distiller.state_dict(keep_vars=True)
        weights = OrderedDict(
            (name, like(own[name], each) if isinstance(each, Tensor) else each)
            for name, each in model["weights"].items()
        )
        weights._metadata = model["metadata"]  # type: ignore[attr-defined]  # PyTorch's
        self._distiller.load_state_dict(weights)
        for name, buffer in _unsaved(self._distiller):
            buffer.copy_(model["unsaved"][name])
        load_optimizer(self._optimizer, kept["optimizer"])
        self._schedule.load_state_dict(kept["schedule"])
        self._scaler.load_state_dict(kept["scaler"])
        if self._average:
            self._average.load_state_dict(kept["average"])
        self.history = History.of(training["history"])
        self._totals = EpochTotals(**training["totals"])
        streams = training["streams"]
        if len(streams) == self._processes.count:
            own = streams[self._processes.rank]
            set_random_state(own["random"], self._distiller.device)
            self._distiller.set_streams(own["losses"])

    def _averaged(self) -> AbstractContextManager[None]:
        """Give the student the average of its weights for a while, where there is one."""
        return self._average.applied() if self._average else nullcontext()


@contextmanager
def _explained_where_one_is_too_few(samples: int) -> Iterator[None]:
    """Say in one line that batch normalisation has no statistics of a single value.

    Raises:
        RunError: it was given one.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise RunError(
            f"batch normalisation was given {samples} sample(s), of which it has no statistics: "
            "choose train.batch_size so that the last batch of an epoch, divided by accumulate and "
            "by processes, leaves two or more to each"
        ) from error


def _learning(distiller: Distiller) -> list[str]:
    """Return the names and shapes of the parameters that are trained, in their order."""
    named = distiller.named_parameters()
    return [f"{name} {list(each.shape)}" for name, each in named if each.requires_grad]


def _unsaved(distiller: Distiller) -> Iterator[tuple[str, Tensor]]:
    """Go through the buffers that are no part of a state dict, but change as others do."""
    saved = distiller.state_dict(keep_vars=True).keys()
    for name, buffer in distiller.named_buffers():
        if name not in saved:
            yield name, buffer


def _scores(distiller: Distiller, source: Source | None) -> dict[str, float]:
    return evaluate(distiller.student, source, distiller.task) if source else {}


def _values(losses: Losses) -> Iterator[tuple[str, Tensor]]:
    yield "total", losses.total.detach()
    yield "task", losses.task.detach()
    for label, value in losses.auxiliary.items():
        yield label, value.detach()


def _check_alike(distiller: Distiller, source: Source, config: TrainConfig, seed: int) -> None:
    """Refuse processes that were given other data or teachers than the first."""
    teachers = distiller.teachers.items()
    check_alike(
        {
            "seed": seed,
            "train": config.model_dump(mode="json"),
            "targets": digest_of({"targets": source.targets}),
            "teachers": {name: digest_of(each.model.state_dict()) for name, each in teachers},
        }
    )


def _dropout_seed(seed: int, epochs_before: int) -> int:
    """Return the seed of dropout: of each stage, and of each process, its own."""
    rank = here().rank
    stage = derive_seed(seed, "epoch", epochs_before) if epochs_before else seed
    return derive_seed(stage, "process", rank) if rank else stage


def _check_gradients(distiller: Distiller, processes: int) -> None:
    """Refuse, at the first step, parameters that nothing trains.

    Those of strategies always; those of the student where several processes would wait for each
    other's gradients of them.
    """
    if distiller.step:
        return
    idle = [
        name
        for name, parameter in distiller.student.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    if idle and processes > 1:
        raise ModelError(
            f"{len(idle)} of the student's parameters have no gradient, such as {idle[0]}: no "
            "loss depends on them, and several processes need one of each; leave them out with "
            "trainable, or freeze them"
        )
    for name, parameter in distiller.strategies.named_parameters():
        if parameter.requires_grad and parameter.grad is None:
            raise StrategyError(
                f"strategy {name.split('.')[0]!r}: its parameter {name} has no gradient: no "
                "loss depends on it"
            )


def _finite(distiller: Distiller) -> frozenset[str]:
    """Return the names of weights and buffers that are finite; a mask may be made of infinities."""
    held = distiller.state_dict(keep_vars=True).items()
    tensors = {name: whole(each) for name, each in held if isinstance(each, Tensor)}
    return frozenset(name for name, each in tensors.items() if bool(torch.isfinite(each).all()))


def _check_weights(distiller: Distiller, finite: frozenset[str]) -> None:
    """Refuse to evaluate or keep weights that a gradient has ruined."""
    ruined = finite - _finite(distiller)
    for name in distiller.state_dict(keep_vars=True):
        if name in ruined:
            raise NonFiniteLossError(
                f"{name} is not finite after epoch {distiller.epoch}, though every loss was: a "
                "loss has a gradient that is not; nothing was saved"
            )
