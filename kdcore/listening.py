"""Where a training gets what its teachers say of a batch: asked live, or read where it is kept.

Both give the same bits. Whether it is kept, and where, is decided in `cache`.
"""

from collections.abc import Mapping
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from kdcore.data.source import Batch
from kdcore.frozen_teacher import FrozenTeacher
from kdcore.nested import in_precision, inputs_of
from kdcore.signals import LOGITS, Signals

T = TypeVar("T")
Teachers = Mapping[str, FrozenTeacher]
Arrays = Mapping[str, Tensor]


class SignalSource(Protocol):
    """Whoever knows what teachers say of a batch."""

    @property
    def needs_inputs(self) -> bool:
        """Whether batches must hold the teachers' inputs."""

    def signals(self, batch: Batch) -> Mapping[str, Signals]:
        """Return what each teacher says, on the batch's device."""


class LiveSignals:
    """Teachers that are asked for each batch.

    Args:
        teachers: the teachers by name.
        batch_size: samples that they are given at a time.
        dtype: number format in which signals are kept; they are rounded to it live, too.
    """

    needs_inputs = True

    def __init__(
        self, teachers: Teachers, batch_size: int | None = None, dtype: str = "float32"
    ) -> None:
        self.teachers = teachers
        self.batch_size = batch_size
        self._dtype: torch.dtype | None = None if dtype == "float32" else getattr(torch, dtype)

    def signals(self, batch: Batch) -> dict[str, Signals]:
        """Run every teacher on the batch."""
        return {
            name: teacher.signals(inputs_of(batch.teacher_inputs, name), self.batch_size).map(
                self._rounded
            )
            for name, teacher in self.teachers.items()
        }

    def _rounded(self, tensor: Tensor) -> Tensor:
        if self._dtype is None or not tensor.is_floating_point():
            return tensor
        return tensor.to(self._dtype).to(tensor.dtype)


class KeptSignals:
    """What teachers said of every sample and view of one source, read by index.

    Args:
        arrays: each ``[views * samples, ...]``, by the name that `array_name` gives it, and as
            `stored` has it.
        teachers: whose signals are read.
        samples: samples of the source.
        device: where gathered signals are put.
    """

    needs_inputs = False

    def __init__(
        self, arrays: Arrays, teachers: Teachers, samples: int, device: torch.device
    ) -> None:
        self._tables = {
            name: Signals(
                arrays.get(array_name(name, LOGITS)),
                {key: arrays[array_name(name, f"tap {key}")] for key in teacher.wanted},
            )
            for name, teacher in teachers.items()
        }
        self._precision = {name: teacher.precision for name, teacher in teachers.items()}
        self._samples = samples
        self._device = device

    def signals(self, batch: Batch) -> dict[str, Signals]:
        """Gather what the teachers said of the batch's samples."""
        first = batch.view * self._samples

        def gather(table: Tensor, precision: torch.dtype) -> Tensor:
            # On the CPU the rows are known there: asking the device for them would wait for it.
            rows = batch.rows if table.device.type == "cpu" else batch.indices
            found = table.index_select(0, rows + first if first else rows).to(self._device)
            return restored(in_precision(found, precision))

        return {
            name: table.map(lambda t, p=self._precision[name]: gather(t, p))  # type: ignore[misc]
            for name, table in self._tables.items()
        }


class JoinedSignals:
    """Some teachers that are asked for each batch, beside others whose answers are read.

    Args:
        sources: each knows what some of the teachers say.
    """

    def __init__(self, *sources: SignalSource) -> None:
        self.sources = sources

    @property
    def needs_inputs(self) -> bool:
        """Whether one of them is asked."""
        return any(source.needs_inputs for source in self.sources)

    def signals(self, batch: Batch) -> dict[str, Signals]:
        """Return what each teacher says."""
        return {
            name: heard for source in self.sources for name, heard in source.signals(batch).items()
        }


def stored(signal: Tensor) -> Tensor:
    """Return a signal as its array has it: maps ``[batch, height, width, channels]``."""
    return signal.permute(0, 2, 3, 1) if signal.ndim == 4 else signal


def restored(rows: Tensor) -> Tensor:
    """Return rows of an array as the signal that they are, in its layout; undoes `stored`."""
    return rows.permute(0, 3, 1, 2) if rows.ndim == 4 else rows


def renamed(arrays: Mapping[str, T], old: str, new: str) -> dict[str, T]:
    """Return arrays, or what is said of them, of one teacher by the names of another's."""
    return {
        array_name(new, name.removeprefix(array_name(old, ""))): each
        for name, each in arrays.items()
    }


def array_name(teacher: str, signal: str) -> str:
    """Return by what name a signal is kept; `Signals.named` has the signals' own."""
    return f"{teacher}: {signal}"
