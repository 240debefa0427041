"""What models are given: one tensor, or a sequence or mapping of them, treated alike."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def map_tensors(inputs: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply a function to each tensor, and leave everything else as it is."""
    if isinstance(inputs, Tensor):
        return function(inputs)
    if isinstance(inputs, Mapping):
        return {key: map_tensors(value, function) for key, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return tuple(map_tensors(value, function) for value in inputs)
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
