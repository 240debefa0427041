"""Batches by sample index, as student and teacher are given them.

In what order the samples come is in `order`; what is done with a batch is the trainer's.
"""

import hashlib
import operator
from abc import ABC, abstractmethod
from collections.abc import Sized
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import default_collate

from kdcore.data.augment import Augment
from kdcore.data.images import LabelledImages, fit
from kdcore.data.pixels import PixelPool
from kdcore.data.preprocess import Preprocess
from kdcore.errors import DataError
from kdcore.nested import map_tensors, to_device
from kdcore.tasks import UNLABELLED, Mixed


@dataclass(frozen=True)
class Batch:
    """Some samples, seen by both models.

    Attributes:
        inputs: what the student is given.
        teacher_inputs: the same samples and view as the teacher is given them; the same object
            where both models want them alike, None where nobody asked for them.
        targets: ``int64 [batch]``, -100 where a sample has no label.
        indices: ``int64 [batch]``, each sample's index in its source.
        view: which augmented view of the samples this is.
        mixed: what the samples were mixed with, None where they were not.
        host_indices: the same as `indices`, on the CPU, where it is known there.
    """

    inputs: Any
    teacher_inputs: Any
    targets: Tensor
    indices: Tensor
    view: int = 0
    mixed: Mixed | None = None
    host_indices: Tensor | None = None

    @property
    def rows(self) -> Tensor:
        """The indices on the CPU."""
        return self.indices.cpu() if self.host_indices is None else self.host_indices

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        if self.targets.device == device:
            return self
        inputs = to_device(self.inputs, device)
        shared = self.teacher_inputs is self.inputs
        return replace(
            self,
            inputs=inputs,
            teacher_inputs=inputs if shared else to_device(self.teacher_inputs, device),
            targets=self.targets.to(device, non_blocking=True),
            indices=self.indices.to(device, non_blocking=True),
            mixed=self.mixed and self.mixed.to(device),
            host_indices=self.rows,
        )

    def pin_memory(self) -> "Batch":
        """Return the batch in memory that is copied to a device without waiting."""
        inputs = map_tensors(self.inputs, Tensor.pin_memory)
        other = self.teacher_inputs
        shared = other is self.inputs
        return replace(
            self,
            inputs=inputs,
            teacher_inputs=inputs if shared else map_tensors(other, Tensor.pin_memory),
            targets=self.targets.pin_memory(),
            host_indices=self.rows,
            indices=self.indices.pin_memory(),
        )


class Source(ABC):
    """Samples that can be gathered by index."""

    targets: Tensor
    """Every sample's target, ``int64 [samples]``, -100 where it has no label; on the CPU."""

    views: int | None
    """How many views there are of each sample: 1 where it is the same whenever it is gathered,
    None where that is not known or never ends. Of one view a sample is always the same."""

    def __len__(self) -> int:
        return len(self.targets)

    def view(self, epoch: int) -> int:
        """Return the view that an epoch, from 0, sees."""
        return epoch % self.views if self.views else epoch

    @property
    def fingerprint(self) -> str | None:
        """Hash of all that a teacher is given, by index and view; None where it is not known."""
        return None

    @abstractmethod
    def batch(self, indices: Tensor, view: int = 0, *, teacher: bool = True) -> Batch:
        """Gather samples, on whatever device the source has them.

        Args:
            indices: ``int64 [batch]``, on the CPU.
            view: which view of them.
            teacher: whether the teacher's inputs are wanted; otherwise they may be missing.
        """


def gathered(source: Source, indices: Tensor, view: int, *, teacher: bool = True) -> Batch:
    """Gather samples of a source, and hold what it says of them against what was asked for.

    Raises:
        DataError: the batch says that it is of other samples or of another view.
    """
    batch = source.batch(indices, view, teacher=teacher)
    # On a device that the host would have to wait for they are taken at their word.
    known = batch.host_indices is not None or batch.indices.device.type == "cpu"
    if batch.view != view or (known and not torch.equal(batch.rows, indices)):
        raise DataError(
            f"{type(source).__name__}.batch was asked for view {view} of {indices.tolist()[:3]}... "
            f"and gave view {batch.view} of {batch.rows.tolist()[:3]}...: hand both on as given"
        )
    return batch


class ImageSource(Source):
    """Images as a student and a teacher want them.

    Args:
        data: the images and their targets.
        student: how the student wants them.
        teacher: how the teacher does; as the student if not given.
        pool: where decoded images are kept; a pool of its own if not given.
        augment: what is done to them before a model sees them; nothing if not given.
    """

    def __init__(
        self,
        data: LabelledImages,
        student: Preprocess,
        teacher: Preprocess | None = None,
        pool: PixelPool | None = None,
        augment: Augment | None = None,
    ) -> None:
        self.data = data
        self.targets = data.targets
        self.augment = augment if augment and augment.active else None
        self.views = self.augment.settings.views if self.augment else 1
        self.pool = pool or PixelPool()
        self._preprocess = (student, teacher or student)
        sizes = {preprocess.size for preprocess in self._preprocess}
        # Views are of the larger images, so that both models see one crop and one flip.
        decoded = {max(sizes)} if self.augment else sizes
        self._pixels = {size: self.pool.ask(data.images, size) for size in decoded}
        if pool is None:
            self.pool.keep()

    @property
    def fingerprint(self) -> str:
        """Hash of images, their order, the teacher's preprocessing and the views."""
        student, teacher = self._preprocess
        parts = [self.data.images.fingerprint(), str(teacher)]
        if self.augment:
            parts += [self.augment.canonical, str(max(student.size, teacher.size))]
            parts.append(self.pool.device.type)  # where views are computed
            if self.augment.mixes:
                parts.append(str(self.targets.tolist()))
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def batch(self, indices: Tensor, view: int = 0, *, teacher: bool = True) -> Batch:
        """Gather, augment and normalise images."""
        student, other = self._preprocess
        mixed = None
        if self.augment is None:
            sizes = {student.size, other.size} if teacher else {student.size}
            pixels = {size: self._gather(size, indices) for size in sizes}
        else:
            (size,) = self._pixels
            seen = self.augment.augment(self._gather(size, indices), indices, view)
            if mix := self.augment.partners(indices, view, self.targets, size):
                theirs = self._gather(size, mix.partners)
                seen = mix.pixels(seen, self.augment.augment(theirs, mix.partners, view))
                mixed = Mixed(self.targets[mix.partners], mix.share).to(seen.device)
            sizes = {student.size, other.size} if teacher else {student.size}
            pixels = {each: fit(seen, each) for each in sizes}
        inputs = student.normalise(pixels[student.size])
        given = None
        if teacher:
            given = inputs if student == other else other.normalise(pixels[other.size])
        targets = self.targets[indices].to(inputs.device, non_blocking=True)
        here = indices.to(inputs.device, non_blocking=True)
        return Batch(inputs, given, targets, here, view, mixed, indices)

    def _gather(self, size: int, indices: Tensor) -> Tensor:
        pixels, rows = self._pixels[size]
        return pixels.gather(rows[indices])


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
        self.views = 1 if same_every_epoch else None
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

    def batch(self, indices: Tensor, view: int = 0, *, teacher: bool = True) -> Batch:  # noqa: ARG002
        """Gather samples and stack them."""
        inputs = default_collate([self._pair(int(index))[0] for index in indices])
        return Batch(inputs, inputs, self.targets[indices], indices, view, None, indices)
