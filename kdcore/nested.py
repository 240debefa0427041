"""What models are given: one tensor, or a sequence or mapping of them, treated alike."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdcore.errors import DataError, unknown


@dataclass(frozen=True)
class TeacherInputs:
    """The same samples as several teachers are given them, where these want them differently.

    Attributes:
        by_name: by the teachers' names: a tensor ``[batch, ...]``, a tuple or a mapping.
    """

    by_name: Mapping[str, Any]

    def map(
        self, function: Callable[[Tensor], Tensor], known: Mapping[int, Any] | None = None
    ) -> "TeacherInputs":
        """Apply a function to each tensor; what teachers share is mapped once and stays shared.

        Args:
            function: what to apply.
            known: by the identity of inputs, what was made of them already.
        """
        done = dict(known or {})
        for inputs in self.by_name.values():
            if id(inputs) not in done:
                done[id(inputs)] = map_tensors(inputs, function)
        return TeacherInputs({name: done[id(each)] for name, each in self.by_name.items()})


def inputs_of(given: Any, teacher: str) -> Any:
    """Return what one teacher is given, where all are given the same, or each its own.

    Raises:
        DataError: there is nothing for it.
    """
    if not isinstance(given, TeacherInputs):
        return given
    if teacher not in given.by_name:
        raise DataError(f"teacher inputs: {unknown('teacher', teacher, given.by_name)}")
    return given.by_name[teacher]


def map_tensors(inputs: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply a function to each tensor, and leave everything else as it is."""
    if isinstance(inputs, Tensor):
        return function(inputs)
    if isinstance(inputs, Mapping):
        return {key: map_tensors(value, function) for key, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return tuple(map_tensors(value, function) for value in inputs)
    if isinstance(inputs, TeacherInputs):
        return inputs.map(function)
    return inputs


def tensors_in(inputs: Any) -> tuple[Tensor, ...]:
    """Return the tensors that a model is given, in their order."""
    if isinstance(inputs, Tensor):
        return (inputs,)
    if isinstance(inputs, Mapping):
        inputs = tuple(inputs.values())
    if isinstance(inputs, tuple | list):
        return tuple(tensor for value in inputs for tensor in tensors_in(value))
    return ()


def first_samples(inputs: Any, count: int) -> Any:
    """Return the first samples of a batch."""
    return map_tensors(inputs, lambda tensor: tensor[:count])


def to_device(inputs: Any, device: torch.device) -> Any:
    """Move a batch to a device."""
    return map_tensors(inputs, lambda tensor: tensor.to(device, non_blocking=True))


def chunks(inputs: Any, size: int) -> list[Any]:
    """Split a batch into batches of one size; the last is filled up with its first sample."""
    count = len(tensors_in(inputs)[0])

    def cut(tensor: Tensor, start: int) -> Tensor:
        part = tensor[start : start + size]
        missing = size - len(part)
        if not missing:
            return part
        filled = torch.cat([part, part[:1].expand(missing, *part.shape[1:])])
        # Concatenation may change the layout, and with it the kernels and their last bits.
        channels_last = torch.channels_last
        if part.ndim == 4 and part.is_contiguous(memory_format=channels_last):
            return filled.contiguous(memory_format=channels_last)
        return filled

    return [
        map_tensors(inputs, lambda tensor, start=start: cut(tensor, start))  # type: ignore[misc]
        for start in range(0, count, size)
    ]


def in_precision(tensor: Tensor, precision: torch.dtype) -> Tensor:
    """Return a floating-point tensor in one precision, everything else as it is."""
    return tensor.to(precision) if tensor.is_floating_point() else tensor


def in_one_layout(tensor: Tensor) -> Tensor:
    """Return a tensor in the layout that signals have: maps channels last, all else row by row.

    In what order a loss adds up depends on the layout; a convolving student computes in this one.
    """
    last = torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
    return tensor.contiguous(memory_format=last)
