"""How models' layers are computed in a training: in what number format, and whether compiled.

Adapters and losses are not part of it: they stay in float32 (float64 for such a student), and are
not compiled.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from kdcore.errors import ConfigError

FORMATS = {"32": None, "bf16-mixed": torch.bfloat16, "fp16-mixed": torch.float16}


@dataclass(frozen=True)
class Execution:
    """How layers are computed.

    Attributes:
        autocast: the number format of PyTorch's automatic mixed precision; None for none.
        backend: what compiles the models, one of PyTorch's compilers; None for nothing.
    """

    autocast: torch.dtype | None = None
    backend: str | None = None

    @classmethod
    def of(cls, precision: str, device: torch.device, compiled: bool) -> "Execution":
        """Return what a training's settings ask for.

        Args:
            precision: ``"32"``, ``"bf16-mixed"`` or ``"fp16-mixed"``.
            device: where it is computed.
            compiled: whether models are compiled, by PyTorch's default.

        Raises:
            ConfigError: the device does not compute in that format.
        """
        if precision == "fp16-mixed" and device.type == "cpu":
            raise ConfigError(
                "precision = 'fp16-mixed' needs a GPU: a CPU would compute in another format "
                "without a word; use 'bf16-mixed' or '32'"
            )
        return cls(FORMATS[precision], "inductor" if compiled else None)

    def casting(self, device: torch.device) -> AbstractContextManager[object]:
        """Return a context in which layers are computed in the number format."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(device.type, self.autocast)

    @property
    def scales_losses(self) -> bool:
        """Whether gradients are so small in the number format that losses must be scaled up."""
        return self.autocast == torch.float16

    def prepare(self) -> None:
        """Forget what was compiled before: taps on another instance of a class would not fire."""
        if self.backend is not None:
            torch.compiler.reset()


PLAIN = Execution()


def in_best_layout(model: nn.Module) -> nn.Module:
    """Lay a model's weights out channels last where it convolves images, which is faster.

    The weights are the same; what is computed with them is, up to rounding.
    """
    if any(isinstance(module, nn.Conv2d) for module in model.modules()):
        return model.to(memory_format=torch.channels_last)
    return model
