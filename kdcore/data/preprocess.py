"""How one model wants its images: the square they are brought to and how it is normalised.

Scaling and cutting is in `geometry`; where decoded images are kept is in `pixels`.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from kdcore.data.geometry import Geometry
from kdcore.sections import Interpolation


@dataclass(frozen=True)
class Preprocess:
    """A model's own view of an image.

    Attributes:
        size: side of the square in pixels.
        mean: subtracted from each channel, of values from 0 to 1.
        std: each channel is divided by it afterwards.
        resize: see `Geometry`, as what follows.
        interpolation: the like.
        squash: the like.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: int | None = None
    interpolation: Interpolation = "bilinear"
    squash: bool = False

    @property
    def geometry(self) -> Geometry:
        """How the square comes about."""
        return Geometry(self.size, self.resize, self.interpolation, self.squash)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Turn ``uint8 [batch, 3, size, size]`` into what the model is given, ``float32``."""
        scale, shift = _affine(self.mean, self.std, pixels.device)
        return torch.addcmul(shift, pixels.float(), scale)


@cache
def _affine(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return factor and summand of each channel, ``float32 [3, 1, 1]``."""
    means, deviations = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (mean, std))
    scale, shift = 1 / (255 * deviations), -means / deviations
    return scale.float().to(device), shift.float().to(device)
