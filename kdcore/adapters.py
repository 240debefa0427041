"""Modules that make a student's and a teacher's activations comparable.

Those without parameters treat each sample alone and have a canonical name, by which what they
give can be stored and found again. What is compared, and how, is in the strategies.
"""

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdcore.errors import TapError


class FixedAdapter(nn.Module):
    """An adapter without parameters, whose result for a sample depends on that sample alone."""

    @property
    @abstractmethod
    def canonical(self) -> str:
        """What it does, as a string that is equal for two adapters that do the same."""


class Flatten(FixedAdapter):
    """``[batch, ...]`` to ``[batch, values]``, channels first, then rows, then columns."""

    canonical = "flatten"

    def forward(self, x: Tensor) -> Tensor:
        """Flatten everything behind the batch dimension."""
        return x.flatten(1)


class AveragePool(FixedAdapter):
    """``[batch, ...]``, flattened, averaged over neighbours to ``[batch, width]``.

    Where the width divides that of the input, neighbours are averaged in runs of equal length;
    otherwise the runs differ in length by one and may overlap (adaptive pooling).

    Args:
        width: values a sample in the result.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    @property
    def canonical(self) -> str:
        """Its name and width."""
        return f"flatten,average-pool:{self.width}"

    def forward(self, x: Tensor) -> Tensor:
        """Average neighbours of the flattened input."""
        flat = x.flatten(1)
        if flat.shape[1] % self.width == 0:
            return flat.reshape(len(flat), self.width, -1).mean(2)
        return F.adaptive_avg_pool1d(flat, self.width)


class Resize(FixedAdapter):
    """Feature maps to another height and width, token sequences to another length.

    Bilinear (linear for tokens) where a side grows, the average of what falls together where
    none does.

    Args:
        size: ``(height, width)`` of maps, ``(tokens,)`` of sequences.
    """

    def __init__(self, *size: int) -> None:
        super().__init__()
        self.size = size

    @property
    def canonical(self) -> str:
        """Its name and size."""
        return f"resize:{'x'.join(map(str, self.size))}"

    def forward(self, x: Tensor) -> Tensor:
        """Resize ``[batch, channels, height, width]`` or ``[batch, tokens, width]``."""
        if x.ndim == 3:
            return self._resized(x.transpose(1, 2)).transpose(1, 2)
        return self._resized(x)

    def _resized(self, x: Tensor) -> Tensor:
        if x.shape[2:] == self.size:
            return x
        if all(new <= old for new, old in zip(self.size, x.shape[2:], strict=True)):
            if x.ndim == 3:
                return F.adaptive_avg_pool1d(x, self.size)
            return F.adaptive_avg_pool2d(x, (self.size[0], self.size[1]))
        mode = "linear" if x.ndim == 3 else "bilinear"
        return F.interpolate(x, size=self.size, mode=mode, align_corners=False)


def canonical_of(adapter: nn.Module) -> str:
    """Return the canonical name of one of this module's own adapters, empty for any other.

    What is derived from them, or only says that it is one of them, is not taken at its word:
    what is stored under the name would be read for another's.
    """
    if isinstance(adapter, FixedAdapter) and type(adapter) in (Flatten, AveragePool, Resize):
        return adapter.canonical
    return ""


def regressor(
    student: torch.Size, teacher: torch.Size, kernel_size: Literal[1, 3] = 3
) -> nn.Module:
    """Build a trained map from the student's activation to the shape of the teacher's.

    Args:
        student: shape of the student's activation: ``[batch, channels, height, width]`` of a map,
            ``[batch, tokens, width]`` of a sequence, ``[batch, width]`` of a vector.
        teacher: shape of the teacher's, of equally many dimensions.
        kernel_size: side of the convolution for maps.

    Returns:
        A convolution with bias for maps, a linear layer for the others; then, where height and
        width or token counts differ, a `Resize` to the teacher's.

    Raises:
        TapError: the two differ in rank, or are of a rank that has no regressor.
    """
    if len(student) != len(teacher) or len(student) not in (2, 3, 4):
        raise TapError(
            f"no regressor from the student's {list(student)} to the teacher's {list(teacher)}: "
            "both must be maps [batch, channels, height, width], token sequences "
            "[batch, tokens, width] or vectors [batch, width]; choose other taps"
        )
    if len(student) == 2:
        return nn.Linear(student[1], teacher[1])
    if len(student) == 3:
        layer: nn.Module = nn.Linear(student[2], teacher[2])
        size = teacher[1:2]
        same = student[1] == teacher[1]
    else:
        layer = nn.Conv2d(student[1], teacher[1], kernel_size, padding=kernel_size // 2)
        size = teacher[2:]
        same = student[2:] == teacher[2:]
    return layer if same else nn.Sequential(layer, Resize(*size))


def require_maps(*shapes: torch.Size) -> None:
    """Refuse activations that are no feature maps.

    Args:
        shapes: as `adapt_shapes` is given them.

    Raises:
        TapError: one is not ``[batch, channels, height, width]``.
    """
    for shape in shapes:
        if len(shape) != 4:
            raise TapError(
                f"needs feature maps [batch, channels, height, width], a tap gives {list(shape)}; "
                "choose other taps"
            )


def pool_to_narrower(student: torch.Size, teacher: torch.Size) -> tuple[FixedAdapter, FixedAdapter]:
    """Build the pair of adapters that flatten both activations and pool the wider of them.

    Args:
        student: shape of the student's activation, batch first.
        teacher: shape of the teacher's.

    Returns:
        Adapters of student and teacher; both give ``[batch, width]`` of the narrower.
    """
    widths = student[1:].numel(), teacher[1:].numel()
    narrower = min(widths)
    first, second = (Flatten() if width == narrower else AveragePool(narrower) for width in widths)
    return first, second
