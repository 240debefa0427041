"""Checks on what the core does around a strategy: keeps, compiles, saves, spreads."""

import io
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from kdcore.asking import Request
from kdcore.cache import SignalCache
from kdcore.data.source import DatasetSource, Source
from kdcore.execution import Execution
from kdcore.sections import CacheConfig, TrainConfig
from kdcore.testing.case import BATCH, Case, Trial
from kdcore.testing.check import NotApplicableError
from kdcore.testing.pair import in_two_processes
from kdcore.trainer import train

COMPILED = 1e-4
"""What compiling may change in a loss, as a share of it."""


def state_survives_saving(case: Case) -> Iterator[str]:
    """Find what is saved in another form, or under other names, than it is loaded."""
    with Trial(case) as trial:
        trial.learn(2)
        before = trial.distiller.state_dict()
        file = io.BytesIO()
        torch.save(before, file)
    file.seek(0)
    with Trial(case, seed=1) as other:
        other.distiller.load_state_dict(torch.load(file, weights_only=True))
        after = other.distiller.state_dict()
    different = [name for name in before if not _same(before[name], after.get(name))]
    if different or before.keys() != after.keys():
        yield f"not as it was saved: {', '.join(different) or 'other names'}"


def kept_answers_change_nothing(case: Case) -> Iterator[str]:
    """Find losses that need a teacher which runs: what it said may be kept and read instead."""
    live, kept = (_trained(case, mode) for mode in ("off", "memory"))
    for step, (one, other) in enumerate(zip(live, kept, strict=True), start=1):
        if one != other:
            yield f"in epoch {step} the loss is {one} with a live teacher, and {other} without"
            return


def compiled_models_give_the_same(case: Case) -> Iterator[str]:
    """Find losses that need models which are not compiled."""
    with Trial(case) as plain, Trial(case, execution=Execution(backend="aot_eager")) as compiled:
        expected, loss = plain.auxiliary(), compiled.auxiliary()
        torch.autograd.backward(loss)
        allowed = COMPILED * abs(expected.item()) + COMPILED * 1e-2
        if not abs(loss.item() - expected.item()) <= allowed:
            yield f"of compiled models the loss is {loss.item()} instead of {expected.item()}"


def two_processes_agree(case: Case) -> Iterator[str]:
    """Find strategies that fail, or fall apart, where two processes train one student."""
    first, second = in_two_processes(weights_of_a_training, case)
    for name, tensor in first.items():
        if not _same(tensor, second.get(name)):
            yield f"after three steps {name} is not the same in two processes"
            return
        if isinstance(tensor, Tensor) and not bool(tensor.isfinite().all()):
            yield f"after three steps in two processes {name} is not finite"
            return


def weights_of_a_training(case: Case) -> dict[str, Any]:
    """Train by this process's share and return what is saved: the same in every process."""
    with Trial(case) as trial:
        train(trial.distiller, _source(trial), _budget(epochs=1), 0)
        return dict(_flat(trial.distiller.state_dict()))


def _trained(case: Case, mode: str) -> list[float]:
    with Trial(case) as trial:
        source = _source(trial)
        request = Request(trial.distiller.teachers, source, BATCH, torch.device("cpu"))
        config = CacheConfig.model_validate({"mode": mode})
        signals = SignalCache(config, lambda _: None).source(request)
        if mode == "memory" and signals.needs_inputs:
            raise NotApplicableError("what the teacher says cannot be kept")
        history = train(trial.distiller, source, _budget(epochs=2), 0, signals=signals)
    return [record.loss for record in history.epochs]


def _budget(epochs: int) -> TrainConfig:
    return TrainConfig(epochs=epochs, batch_size=BATCH, lr=1e-2)


def _source(trial: Trial) -> Source:
    samples = TensorDataset(trial.samples.inputs, trial.samples.targets)
    return DatasetSource(samples, "samples", same_every_epoch=True)


def _flat(state: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in state.items():
        if name == "generators":  # each process draws numbers of its own
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{where}{name}.")
        elif isinstance(value, Tensor):
            yield f"{where}{name}", value


def _same(one: object, other: object) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return one == other
