"""How an image becomes the square that a model is given: sizes, interpolation, proportions.

Normalising it is in `preprocess`.
"""

from dataclasses import dataclass

from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from kdcore.sections import Interpolation


@dataclass(frozen=True)
class Geometry:
    """The way from a decoded image to a square.

    Attributes:
        size: side of the square in pixels.
        resize: what the shorter side is scaled to before the middle square of `size` is cut out
            of it; `size` where it is None. A square smaller than the side leaves the rim out.
        interpolation: of the scaling, antialiased either way.
        squash: whether both sides are scaled to that, and the proportions are lost.
    """

    size: int
    resize: int | None = None
    interpolation: Interpolation = "bilinear"
    squash: bool = False

    def fit(self, image: Tensor) -> Tensor:
        """Bring an image to the square.

        Args:
            image: ``uint8 [..., 3, height, width]``.

        Returns:
            ``uint8 [..., 3, size, size]``. What has the size is unchanged, unless the rim is left
            out.
        """
        height, width = image.shape[-2:]
        shorter = self.resize or self.size
        if height == width == shorter == self.size:
            return image
        sides = [shorter, shorter] if self.squash else _scaled(height, width, shorter)
        if sides != [height, width]:
            image = transforms.resize(
                image, sides, interpolation=InterpolationMode(self.interpolation), antialias=True
            )
        square: Tensor = transforms.center_crop(image, [self.size, self.size])
        return square


def _scaled(height: int, width: int, shorter: int) -> list[int]:
    """Return the sides of an image whose shorter side has been scaled to a length.

    The longer is rounded down, as torchvision, timm and transformers do.
    """
    return [shorter * side // min(height, width) for side in (height, width)]
