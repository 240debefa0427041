"""Decoded images of one experiment: kept once where they fit, decoded each time where they do not.

How a model wants them is in `preprocess`; which of them a batch holds is in `source`.
"""

import torch
from torch import Tensor

from kdcore.data.geometry import Geometry
from kdcore.data.images import Images

CPU = torch.device("cpu")

BUDGET_BYTES = 4 * 2**30
"""Decoded images are kept where all of them take no more than this."""


class Pixels:
    """Some images as squares of one kind.

    Args:
        images: the sequence that they are taken from.
        geometry: how they are brought to the square.
    """

    def __init__(self, images: Images, geometry: Geometry) -> None:
        self._images = images
        self._geometry = geometry
        self._size = geometry.size
        self._wanted = torch.zeros(len(images), dtype=torch.bool)
        self._kept: Tensor | None = None
        self._position = torch.empty(0)

    def want(self, rows: Tensor) -> None:
        """Say that these will be read; before any is."""
        assert self._kept is None
        self._wanted[rows] = True

    @property
    def nbytes(self) -> int:
        """What all wanted images take when they are kept."""
        return int(self._wanted.sum()) * 3 * self._size**2

    def keep(self, device: torch.device) -> None:
        """Decode all wanted images once, and keep them on a device."""
        if self._kept is None:
            rows = self._wanted.nonzero().flatten()
            self._kept = self._images.fitted(rows, self._geometry).flatten(1).to(device)
            self._position = torch.zeros(len(self._wanted), dtype=torch.int64)
            self._position[rows] = torch.arange(len(rows))

    def gather(self, rows: Tensor) -> Tensor:
        """Return some images, ``uint8 [rows, 3, size, size]``, in channels-last layout.

        Args:
            rows: ``int64 [rows]``, on the CPU.

        Returns:
            The images, on the device where they are kept.
        """
        if self._kept is None:
            values = self._images.fitted(rows, self._geometry)
        else:
            places = self._position[rows].to(self._kept.device, non_blocking=True)
            values = self._kept.index_select(0, places)
        # The convolutions of CPUs, and of GPUs in half precision, are faster on this layout.
        return values.view(-1, self._size, self._size, 3).permute(0, 3, 1, 2)


class PixelPool:
    """The decoded images that all sources of an experiment share.

    Args:
        device: where they are kept.
        budget: bytes that they may take; 0 to decode them each time.

    Attributes:
        device: where batches are made: as given, or the CPU once it is known that they do not fit.
    """

    def __init__(self, device: torch.device = CPU, budget: int = BUDGET_BYTES) -> None:
        self.device = device
        self._budget = budget
        self._fits: bool | None = None
        self._pixels: dict[tuple[int, Geometry], tuple[Images, Pixels]] = {}

    def ask(self, images: Images, geometry: Geometry) -> tuple[Pixels, Tensor]:
        """Return where some images will be kept as squares, and the row of each.

        Args:
            images: the images.
            geometry: how they are brought to the square.
        """
        base, rows = images.origin()
        # The sequence is held too, so that its identity is not given to another.
        _, pixels = self._pixels.setdefault((id(base), geometry), (base, Pixels(base, geometry)))
        pixels.want(rows)
        return pixels, rows

    @property
    def nbytes(self) -> int:
        """What all images that were asked for take when they are kept."""
        return sum(pixels.nbytes for _, pixels in self._pixels.values())

    @property
    def in_memory(self) -> bool:
        """Whether they fit, and once `keep` was called, whether they are kept."""
        if self._fits is not None:
            return self._fits
        return self.nbytes <= min(self._budget, _room(self.device))

    def keep(self) -> None:
        """Decode what was asked for and keep it, where it fits; after all was asked for."""
        if not self.in_memory:
            self.device = CPU
        self._fits = self.in_memory
        if self._fits:
            for _, pixels in self._pixels.values():
                pixels.keep(self.device)


def _room(device: torch.device) -> int:
    """Return how many bytes of a device images may take: half of what is free."""
    if device.type != "cuda":
        return 2**62
    return torch.cuda.mem_get_info(device)[0] // 2
