"""Batches by sample index, as student and teacher are given them.

In what order the samples come is in `order`; what is done with a batch is the trainer's.
"""

import operator
from abc import ABC, abstractmethod
from collections.abc import Sized
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import default_collate

from kdcore.data.images import LabelledImages
from kdcore.data.preprocess import Pixels, Preprocess
from kdcore.errors import DataError
from kdcore.nested import to_device
from kdcore.tasks import UNLABELLED


@dataclass(frozen=True)
class Batch:
    """Some samples, seen by both models.

    Attributes:
        inputs: what the student is given.
        teacher_inputs: the same samples and view as the teacher is given them; the same object
            where both models want them alike.
        targets: ``int64 [batch]``, -100 where a sample has no label.
        indices: ``int64 [batch]``, each sample's index in its source.
        view: which augmented view of the samples this is.
    """

    inputs: Any
    teacher_inputs: Any
    targets: Tensor
    indices: Tensor
    view: int = 0

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        inputs = to_device(self.inputs, device)
        shared = self.teacher_inputs is self.inputs
        return replace(
            self,
            inputs=inputs,
            teacher_inputs=inputs if shared else to_device(self.teacher_inputs, device),
            targets=self.targets.to(device, non_blocking=True),
            indices=self.indices.to(device, non_blocking=True),
        )


class Source(ABC):
    """Samples that can be gathered by index."""

    targets: Tensor
    """Every sample's target, ``int64 [samples]``, -100 where it has no label."""

    same_every_epoch: bool
    """Whether a sample is the same each time that it is gathered."""

    def __len__(self) -> int:
        return len(self.targets)

    @abstractmethod
    def batch(self, indices: Tensor) -> Batch:
        """Gather samples, on the CPU."""


class ImageSource(Source):
    """Images as a student and a teacher want them.

    Args:
        data: the images and their targets.
        student: how the student wants them.
        teacher: how the teacher does; as the student if not given.
    """

    same_every_epoch = True

    def __init__(
        self, data: LabelledImages, student: Preprocess, teacher: Preprocess | None = None
    ) -> None:
        self.data = data
        self.targets = data.targets
        self._preprocess = (student, teacher or student)
        self._pixels = {
            size: Pixels(data.images, size) for size in {p.size for p in self._preprocess}
        }

    @property
    def in_memory(self) -> bool:
        """Whether the decoded images are kept."""
        return all(pixels.in_memory for pixels in self._pixels.values())

    def batch(self, indices: Tensor) -> Batch:
        """Gather and normalise images."""
        gathered = {size: pixels.gather(indices) for size, pixels in self._pixels.items()}
        student, teacher = self._preprocess
        inputs = student.normalise(gathered[student.size])
        same = student == teacher
        other = inputs if same else teacher.normalise(gathered[teacher.size])
        return Batch(inputs, other, self.targets[indices], indices)


class Samples(Sized, Protocol):
    """A map-style data set of ``(input, target)`` pairs, such as PyTorch's `TensorDataset`."""

    def __getitem__(self, index: int, /) -> Any: ...


class DatasetSource(Source):
    """A user's own data set, gathered sample by sample.

    Args:
        dataset: ``(input, target)`` pairs; a target of -100 is no label.
        name: what errors call it.
        same_every_epoch: whether a sample is the same each time that it is read.

    Raises:
        DataError: it is empty, or a sample is no pair of an input and a whole number.
    """

    def __init__(self, dataset: Samples, name: str, *, same_every_epoch: bool = False) -> None:
        if not hasattr(dataset, "__getitem__"):
            raise DataError(
                f"{name} is {type(dataset).__name__}, which has no samples by index: hand over the "
                "data set itself, or a pair of tensors"
            )
        if len(dataset) == 0:
            raise DataError(f"{name} is empty")
        self.dataset = dataset
        self.name = name
        self.same_every_epoch = same_every_epoch
        self.targets = torch.tensor([self._target(i) for i in range(len(dataset))])

    def _target(self, index: int) -> int:
        target = self._pair(index)[1]
        try:
            number: Any = target.item() if isinstance(target, Tensor) else target
            return UNLABELLED if number is None else operator.index(number)
        except (TypeError, ValueError, RuntimeError):
            raise DataError(
                f"{self.name}[{index}]: the target is {type(target).__name__}, expected the "
                "class as a whole number, or -100 where there is none"
            ) from None

    def _pair(self, index: int) -> tuple[Any, Any]:
        sample = self.dataset[index]
        if not isinstance(sample, tuple | list) or len(sample) != 2:
            raise DataError(
                f"{self.name}[{index}] is {type(sample).__name__}, expected (input, target)"
            )
        return sample[0], sample[1]

    def batch(self, indices: Tensor) -> Batch:
        """Gather samples and stack them."""
        inputs = default_collate([self._pair(int(index))[0] for index in indices])
        return Batch(inputs, inputs, self.targets[indices], indices)
