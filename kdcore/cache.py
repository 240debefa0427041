"""Where a training gets what its teachers say of a batch: asked live, or read where it is kept.

A sample that is the same every epoch needs its teacher once. Both ways give the same bits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kdcore.data.source import Batch, Source
from kdcore.errors import ConfigError
from kdcore.signals import Signals
from kdcore.teacher import FrozenTeacher

BUDGET_BYTES = 2 * 2**30
"""Signals are kept where those of all samples take no more than this."""

Teachers = Mapping[str, FrozenTeacher]


class SignalSource(Protocol):
    """Whoever knows what teachers say of a batch."""

    def signals(self, batch: Batch) -> Mapping[str, Signals]:
        """Return what each teacher says, on the batch's device."""


class LiveSignals:
    """Teachers that are asked for each batch.

    Args:
        teachers: the teachers by name.
        batch_size: samples that they are given at a time.
    """

    def __init__(self, teachers: Teachers, batch_size: int | None = None) -> None:
        self._teachers = teachers
        self._batch_size = batch_size

    def signals(self, batch: Batch) -> dict[str, Signals]:
        """Run every teacher on the batch."""
        return {
            name: teacher.signals(batch.teacher_inputs, self._batch_size)
            for name, teacher in self._teachers.items()
        }


@dataclass(frozen=True)
class CachedSignals:
    """What the teachers said of every sample of one source, read by index.

    Attributes:
        tables: by teacher; each tensor is ``[samples, ...]``.
        device: where gathered signals are put.
    """

    tables: Mapping[str, Signals]
    device: torch.device

    def signals(self, batch: Batch) -> dict[str, Signals]:
        """Gather what the teachers said of the batch's samples."""

        def gather(tensor: Tensor) -> Tensor:
            return tensor.index_select(0, batch.indices.to(tensor.device)).to(self.device)

        return {name: table.map(gather) for name, table in self.tables.items()}


def signal_source(
    teachers: Teachers, source: Source, batch_size: int, choice: str, device: torch.device
) -> tuple[SignalSource, str]:
    """Decide how a training hears its teachers, and run them once over all samples to keep it.

    Args:
        teachers: the teachers by name.
        source: what will be learned from.
        batch_size: samples that the teachers are given at a time, live or kept.
        choice: ``"auto"``, ``"memory"`` or ``"off"``.
        device: of the training.

    Returns:
        The source of signals, and a line that says what was chosen and why.

    Raises:
        ConfigError: ``"memory"`` for samples that are not the same every epoch.
    """
    live = LiveSignals(teachers, batch_size)
    if choice == "memory" and source.views != 1:
        raise ConfigError("teacher_cache = 'memory' needs samples that are the same every epoch")
    if choice == "off":
        return live, "the teacher runs every epoch, as asked"
    if source.views != 1:
        return live, "the teacher runs every epoch: samples may differ from epoch to epoch"
    needed = bytes_needed(live, source, device)
    size = f"{needed / 2**20:,.1f} MiB"
    if choice == "auto" and needed > BUDGET_BYTES:
        return live, f"the teacher runs every epoch: what it says takes {size}, more than is kept"
    kept = keep_signals(live, source, batch_size, device)
    return kept, f"the teacher runs once, what it says is kept: {size}"


def bytes_needed(live: LiveSignals, source: Source, device: torch.device) -> int:
    """Return how many bytes the signals of all samples take, from those of one."""
    sample = source.batch(torch.arange(1)).to(device)
    signals = live.signals(sample)
    one = sum(tensor.nbytes for heard in signals.values() for _, tensor in heard.named())
    return one * len(source)


def keep_signals(
    live: LiveSignals, source: Source, batch_size: int, device: torch.device
) -> CachedSignals:
    """Run the teachers once over a source whose samples are the same every epoch."""
    tables: dict[str, Signals] = {}
    for indices in torch.split(torch.arange(len(source)), batch_size):
        for name, heard in live.signals(source.batch(indices).to(device)).items():
            table = tables.setdefault(name, heard.map(lambda t: _empty(len(source), t)))
            for (_, kept), (_, tensor) in zip(table.named(), heard.named(), strict=True):
                kept[indices] = tensor.cpu()
    return CachedSignals(tables, device)


def _empty(samples: int, like: Tensor) -> Tensor:
    return torch.empty((samples, *like.shape[1:]), dtype=like.dtype)
