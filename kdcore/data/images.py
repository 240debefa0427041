"""Decoded images by index, with their labels: what a data set is before a model sees it.

How a model's square comes of one is in `geometry`; normalising and batching are elsewhere.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kdcore.data.geometry import Geometry
from kdcore.tasks import labelled_samples

THREADS = 4
CHUNK = 1024


class Images(ABC):
    """A sequence of RGB images that can be read by index, again and again alike."""

    @abstractmethod
    def __len__(self) -> int:
        """Return how many images there are."""

    @abstractmethod
    def read(self, index: int) -> Tensor:
        """Return one image as it was stored, ``uint8`` of shape ``[3, height, width]``.

        Raises:
            DataError: the image cannot be read; names its file.
        """

    @property
    @abstractmethod
    def common_size(self) -> tuple[int, int] | None:
        """Height and width where all images are known to share them."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a hash that changes when an image or their order does."""

    def name(self, index: int) -> str:
        """Return what a message should call one image."""
        return f"image {index}"

    def origin(self) -> "tuple[Images, Tensor]":
        """Return the sequence that these are taken from, and the index of each in it."""
        return self, torch.arange(len(self))

    def fitted(self, indices: Tensor, geometry: Geometry) -> Tensor:
        """Return some images as squares, ``uint8 [indices, size, size, 3]``."""
        size = geometry.size
        result = torch.empty((len(indices), size, size, 3), dtype=torch.uint8)

        def read(position: int) -> None:
            image = geometry.fit(self.read(int(indices[position])))
            result[position] = image.permute(1, 2, 0)

        with ThreadPoolExecutor(THREADS) as pool:
            for _ in pool.map(read, range(len(indices))):
                pass
        return result


class ArrayImages(Images):
    """Images in one tensor, ``uint8`` of shape ``[images, 3, height, width]``."""

    def __init__(self, pixels: Tensor) -> None:
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3:
            raise ValueError(f"expected uint8 [images, 3, height, width], got {pixels.shape}")
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, index: int) -> Tensor:
        """Return one image; see `Images.read`."""
        return self.pixels[index]

    def fitted(self, indices: Tensor, geometry: Geometry) -> Tensor:
        """Return some images as squares; see `Images.fitted`."""
        parts = [geometry.fit(self.pixels[part]) for part in torch.split(indices, CHUNK)]
        return torch.cat([part.permute(0, 2, 3, 1) for part in parts]).contiguous()

    @property
    def common_size(self) -> tuple[int, int]:
        """Height and width of every image."""
        return self.pixels.shape[2], self.pixels.shape[3]

    def fingerprint(self) -> str:
        """Return the hash of all pixels."""
        digest = hashlib.sha256(str(tuple(self.pixels.shape)).encode())
        digest.update(self.pixels.contiguous().numpy().data)
        return digest.hexdigest()


class Subset(Images):
    """Some images of another sequence, in a given order."""

    def __init__(self, images: Images, indices: Sequence[int]) -> None:
        self.images = images
        self.indices = list(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> Tensor:
        """Return one image; see `Images.read`."""
        return self.images.read(self.indices[index])

    def origin(self) -> tuple[Images, Tensor]:
        """Return what the whole sequence is taken from, and the index of each in it."""
        base, rows = self.images.origin()
        return base, rows[torch.tensor(self.indices, dtype=torch.int64)]

    @property
    def common_size(self) -> tuple[int, int] | None:
        """Height and width where the whole sequence shares them."""
        return self.images.common_size

    def fingerprint(self) -> str:
        """Return the hash of the whole sequence and of the choice."""
        return hashlib.sha256(f"{self.images.fingerprint()}{self.indices}".encode()).hexdigest()

    def name(self, index: int) -> str:
        """Return what the whole sequence calls this image."""
        return self.images.name(self.indices[index])


@dataclass(frozen=True)
class LabelledImages:
    """Images with one target each.

    Attributes:
        images: the images.
        targets: ``int64 [images]``, index of the class, or `UNLABELLED`; or numbers,
            ``float32 [images, values]``, NaN where one is not known.
        classes: names of the classes, or of the values, by index.
        groups: what each sample belongs to, such as a patient, where no split may part them.
    """

    images: Images
    targets: Tensor
    classes: tuple[str, ...]
    groups: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        assert len(self.targets) == len(self.images)
        assert self.groups is None or len(self.groups) == len(self.images)
        assert self.targets.dtype == (torch.int64 if self.targets.ndim == 1 else torch.float32)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labelled(self) -> Tensor:
        """Indices of the samples that have a label, ``int64 [labelled]``."""
        return labelled_samples(self.targets).nonzero().flatten()

    def subset(self, indices: Sequence[int]) -> "LabelledImages":
        """Return the samples at these indices, in this order."""
        chosen = torch.as_tensor(list(indices), dtype=torch.int64)
        groups = None if self.groups is None else tuple(self.groups[index] for index in indices)
        images = Subset(self.images, indices)
        return replace(self, images=images, targets=self.targets[chosen], groups=groups)


@dataclass(frozen=True)
class ImageData:
    """A data set: what to train on, what to test on, and what a user should know about it.

    Attributes:
        name: what reports call it.
        train: images to learn from; some may be `UNLABELLED`.
        test: images that decide nothing, all labelled.
        notes: lines to print, such as the files that were skipped.
    """

    name: str
    train: LabelledImages
    test: LabelledImages
    notes: tuple[str, ...] = ()
