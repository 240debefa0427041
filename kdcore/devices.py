"""Which device things are on, and which there are."""

from itertools import chain

import torch
from torch import nn

from kdcore.errors import UserError


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
