"""Which device things are on, and which there are."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn

from kdcore.errors import RunError, UserError


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter or buffer; the CPU where it has none."""
    first = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def find_device(name: str) -> torch.device:
    """Return the device of a name; ``auto`` is the accelerator where there is one.

    Raises:
        UserError: there is no such device here.
    """
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        count = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
        raise UserError(
            f"there is no device {name!r} here; this machine has cpu"
            + (f" and {count} of {torch.accelerator.current_accelerator()}" if count else " alone")
            + " (--device)"
        ) from None
    return device


@contextmanager
def explained_where_memory_ends(samples: int) -> Iterator[None]:
    """Say in one line what to do where the block runs out of memory; nothing is tried again.

    Args:
        samples: that are computed at a time.

    Raises:
        RunError: memory ended.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _is_end_of_memory(error):
            raise
        raise RunError(
            f"out of memory with {samples} samples at a time ({str(error).splitlines()[0][:200]}): "
            "train.accumulate computes a batch in more parts, train.batch_size makes it smaller, "
            "train.precision = 'bf16-mixed' takes less of it; nothing was changed"
        ) from error


def _is_end_of_memory(error: Exception) -> bool:
    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or "DefaultCPUAllocator: " in str(error)
