"""How one model wants its images: the size they are brought to and how they are normalised.

Resizing is `images.fit`; which images there are is elsewhere.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from kdcore.data.images import Images, fit

IN_MEMORY_BYTES = 4 * 2**30
"""Decoded images are kept where they take no more than this."""

THREADS = 4


@dataclass(frozen=True)
class Preprocess:
    """A model's own view of an image.

    Attributes:
        size: side of the square in pixels.
        mean: subtracted from each channel, of values from 0 to 1.
        std: each channel is divided by it afterwards.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def normalise(self, pixels: Tensor) -> Tensor:
        """Turn ``uint8 [batch, 3, size, size]`` into what the model is given, ``float32``."""
        mean = torch.tensor(self.mean, device=pixels.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(3, 1, 1)
        return pixels.float().div_(255).sub_(mean).div_(std)


class Pixels:
    """Images at one size, by index: decoded once where they fit, each time where they do not.

    Args:
        images: the images.
        size: side in pixels that they are brought to.
        budget: bytes that the decoded images may take.
    """

    def __init__(self, images: Images, size: int, budget: int = IN_MEMORY_BYTES) -> None:
        self.images = images
        self.size = size
        self.in_memory = len(images) * 3 * size * size <= budget
        self._decoded: Tensor | None = None

    def gather(self, indices: Tensor) -> Tensor:
        """Return some images, ``uint8 [indices, 3, size, size]``."""
        if not self.in_memory:
            return self._decode(indices.tolist())
        if self._decoded is None:
            self._decoded = self._decode(range(len(self.images)))
        return self._decoded[indices]

    def _decode(self, indices: range | list[int]) -> Tensor:
        shape = (len(indices), 3, self.size, self.size)
        # The CPU's convolutions are faster on this layout, which gathering keeps.
        result = torch.empty(shape, dtype=torch.uint8, memory_format=torch.channels_last)

        def decode(position: int) -> None:
            result[position] = fit(self.images.read(indices[position]), self.size)

        with ThreadPoolExecutor(THREADS) as pool:
            for _ in pool.map(decode, range(len(indices))):
                pass
        return result
