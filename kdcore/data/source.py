"""Batches by sample index, as student and teacher are given them.

In what order the samples come is in `order`; what is done with a batch is the trainer's.
"""

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import default_collate

from kdcore.data.augment import Augment
from kdcore.data.geometry import Geometry
from kdcore.data.images import LabelledImages
from kdcore.data.pixels import PixelPool
from kdcore.data.preprocess import Preprocess
from kdcore.errors import DataError
from kdcore.nested import TeacherInputs, map_tensors, tensors_in
from kdcore.tasks import PADDING, UNLABELLED, Mixed, without_targets


@dataclass(frozen=True)
class Batch:
    """Some samples, seen by both models.

    Attributes:
        inputs: what the student is given.
        teacher_inputs: the same samples and view as the teacher is given them; the same object
            where both models want them alike, `TeacherInputs` where teachers differ among
            themselves, None where nobody asked for them.
        targets: ``int64 [batch]``, -100 where a sample has no label; or as the task has them.
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
        inputs, others = self._mapped(lambda tensor: tensor.to(device, non_blocking=True))
        return replace(
            self,
            inputs=inputs,
            teacher_inputs=others,
            targets=self.targets.to(device, non_blocking=True),
            indices=self.indices.to(device, non_blocking=True),
            mixed=self.mixed and self.mixed.to(device),
            host_indices=self.rows,
        )

    def pin_memory(self) -> "Batch":
        """Return the batch in memory that is copied to a device without waiting."""
        inputs, others = self._mapped(Tensor.pin_memory)
        return replace(
            self,
            inputs=inputs,
            teacher_inputs=others,
            targets=self.targets.pin_memory(),
            host_indices=self.rows,
            indices=self.indices.pin_memory(),
        )

    def _mapped(self, function: Callable[[Tensor], Tensor]) -> tuple[Any, Any]:
        """Apply a function to what the models are given; what they share stays shared."""
        inputs, others = map_tensors(self.inputs, function), self.teacher_inputs
        if others is self.inputs:
            return inputs, inputs
        if isinstance(others, TeacherInputs):
            return inputs, others.map(function, {id(self.inputs): inputs})
        return inputs, map_tensors(others, function)


class Source(ABC):
    """Samples that can be gathered by index."""

    targets: Tensor
    """Every sample's target, ``int64 [samples]``, -100 where it has no label; or of another shape,
    as the task has them, NaN among numbers; on the CPU."""

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
        """Hash of all that teachers are given, by index and view; None where it is not known."""
        return None

    def fingerprint_for(self, teacher: str) -> str | None:  # noqa: ARG002
        """Return the hash of all that one teacher is given; None where it is not known."""
        return self.fingerprint

    def for_teachers(self, names: Collection[str]) -> "Source":  # noqa: ARG002
        """Return the same samples and views; the inputs of teachers but these may be left out."""
        return self

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
        teacher: how the teacher does, or several by name; as the student if not given.
        pool: where decoded images are kept; a pool of its own if not given.
        augment: what is done to them before a model sees them; nothing if not given.

    Attributes:
        view_size: side in pixels of the images that views are made of.
    """

    def __init__(
        self,
        data: LabelledImages,
        student: Preprocess,
        teacher: Preprocess | Mapping[str, Preprocess] | None = None,
        pool: PixelPool | None = None,
        augment: Augment | None = None,
    ) -> None:
        self.data = data
        self.targets = data.targets
        self.augment = augment if augment and augment.active else None
        self.views = self.augment.settings.views if self.augment else 1
        self.pool = pool or PixelPool()
        self._student = student
        given = teacher if isinstance(teacher, Mapping) else {"": teacher or student}
        self._teachers: Mapping[str, Preprocess] = {}
        self._common: Preprocess | None = None
        self._serve(given)
        squares = {student.geometry, *(each.geometry for each in given.values())}
        # Views are of the largest images, so that all models see one crop and one flip, and of
        # the rim that a model leaves out, so that it leaves the same out of a view.
        self.view_size = max(each.resize or each.size for each in squares)
        if self.augment:
            self.view_size = self.augment.settings.image_size or self.view_size
        self._whole = _whole(squares, self.view_size) if self.augment else Geometry(self.view_size)
        decoded = {self._whole} if self.augment else squares
        self._pixels = {each: self.pool.ask(data.images, each) for each in decoded}
        if pool is None:
            self.pool.keep()

    def _serve(self, teachers: Mapping[str, Preprocess]) -> None:
        """Make, from now on, what these teachers want; as the student's where there is none."""
        kinds = set(teachers.values()) or {self._student}
        self._common = kinds.pop() if len(kinds) == 1 else None
        self._teachers = {} if self._common else dict(teachers)

    def for_teachers(self, names: Collection[str]) -> "ImageSource":
        """Return the same samples and views for some of its teachers alone."""
        if self._common:
            return self
        other = copy.copy(self)
        other._serve({name: self._teachers[name] for name in names})
        return other

    @property
    def fingerprint(self) -> str:
        """Hash of images, their order, all teachers' preprocessing and the views."""
        return self._hash(str(self._common or sorted(self._teachers.items())))

    def fingerprint_for(self, teacher: str) -> str:
        """Return the hash of images, their order, one teacher's preprocessing and the views.

        Views are made at one size, the largest that any model wants: with them, that counts too.
        """
        return self._hash(str(self._common or self._teachers[teacher]))

    def _hash(self, preprocess: str) -> str:
        parts = [self.data.images.fingerprint(), preprocess]
        if self.augment:
            parts += [self.augment.canonical, str(self.view_size)]
            parts.append(self.pool.device.type)  # where views are computed
            if self.augment.mixes:
                parts.append(str(self.targets.tolist()))
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def batch(self, indices: Tensor, view: int = 0, *, teacher: bool = True) -> Batch:
        """Gather, augment and normalise images."""
        student, mixed = self._student, None
        squares = {student.geometry}
        if teacher:
            squares |= {each.geometry for each in (self._common, *self._teachers.values()) if each}
        if self.augment is None:
            pixels = {each: self._gather(each, indices) for each in squares}
        else:
            whole = self._whole
            seen = self.augment.augment(self._gather(whole, indices), indices, view)
            if mix := self.augment.partners(indices, view, self.targets, whole.size):
                theirs = self._gather(whole, mix.partners)
                seen = mix.pixels(seen, self.augment.augment(theirs, mix.partners, view))
                mixed = Mixed(self.targets[mix.partners], mix.share).to(seen.device)
            pixels = {each: each.fit(seen) for each in squares}
        inputs = student.normalise(pixels[student.geometry])
        given = self._given(inputs, pixels) if teacher else None
        targets = self.targets[indices].to(inputs.device, non_blocking=True)
        here = indices.to(inputs.device, non_blocking=True)
        return Batch(inputs, given, targets, here, view, mixed, indices)

    def _given(self, inputs: Tensor, pixels: Mapping[Geometry, Tensor]) -> Tensor | TeacherInputs:
        """Return what teachers are given: one tensor for all that want the same."""
        made = {self._student: inputs}
        for each in (self._common, *self._teachers.values()):
            if each and each not in made:
                made[each] = each.normalise(pixels[each.geometry])
        if self._common:
            return made[self._common]
        return TeacherInputs({name: made[each] for name, each in self._teachers.items()})

    def _gather(self, square: Geometry, indices: Tensor) -> Tensor:
        pixels, rows = self._pixels[square]
        return pixels.gather(rows[indices])


def _whole(squares: Collection[Geometry], size: int) -> Geometry:
    """Return how images become the squares that views are made of.

    Raises:
        DataError: some models want images squashed, others cut.
    """
    if len({each.squash for each in squares}) > 1:
        raise DataError(
            "augment: one view is to serve all models, but some want images squashed and others "
            "cut to a square: set squash of one of them"
        )
    ways = {each.interpolation for each in squares}
    first = next(iter(squares))
    return Geometry(size, None, ways.pop() if len(ways) == 1 else "bilinear", first.squash)


READ_TWICE = 8
"""So many samples of a user's data set are read twice, to see whether they are the same."""


class Samples(Sized, Protocol):
    """A map-style data set of ``(input, target)`` pairs, such as PyTorch's `TensorDataset`."""

    def __getitem__(self, index: int, /) -> Any: ...


class DatasetSource(Source):
    """A user's own data set, gathered sample by sample.

    Args:
        dataset: ``(input, target)`` pairs. A target is a whole number or a tensor of them, where
            -100 is no label; a floating-point number or tensor, where NaN is none; or None for a
            sample that has none at all. All are of one shape.
        name: what errors call it.
        same_every_epoch: whether a sample is the same each time that it is read.

    Raises:
        DataError: it is empty, a sample is no pair, or targets are not of one kind and shape.
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
        self.targets = collect([self._pair(i)[1] for i in range(len(dataset))], name)
        self._places = torch.arange(len(dataset))
        self._fingerprint: str | None = None

    def _pair(self, index: int) -> tuple[Any, Any]:
        try:
            sample = self.dataset[index]
        except Exception as error:  # a user's data set may fail in any way
            reason = " ".join(str(error).split())
            raise DataError(
                f"{self.name}[{index}] cannot be read: {type(error).__name__}: {reason}"
            ) from error
        if not isinstance(sample, tuple | list) or len(sample) != 2:
            raise DataError(
                f"{self.name}[{index}] is {type(sample).__name__}, expected (input, target)"
            )
        return sample[0], sample[1]

    def subset(self, indices: Tensor) -> "DatasetSource":
        """Return the samples at these indices, ``int64 [samples]``, in this order."""
        return self._with(self.targets[indices], self._places[indices])

    def labelled(self, targets: Tensor) -> "DatasetSource":
        """Return the same samples with other targets."""
        assert len(targets) == len(self)
        return self._with(targets, self._places)

    def _with(self, targets: Tensor, places: Tensor) -> "DatasetSource":
        other = copy.copy(self)
        other.targets, other._places, other._fingerprint = targets, places, None
        return other

    @property
    def content(self) -> str | None:
        """Hash of all inputs, where two readings of a few of them are alike; None otherwise.

        Unlike a fingerprint it promises nothing: it is for telling that data were changed.
        """
        few = torch.arange(min(READ_TWICE, len(self)))
        if self.views != 1 and not _alike(self.batch(few).inputs, self.batch(few).inputs):
            return None
        return self._hashed()

    @property
    def fingerprint(self) -> str | None:
        """Hash of all inputs, where they are the same whenever they are read; reads them once."""
        return self._hashed() if self.views == 1 else None

    def _hashed(self) -> str:
        if self._fingerprint is None:
            digest = hashlib.sha256()
            for indices in torch.split(torch.arange(len(self)), 256):
                for tensor in tensors_in(self.batch(indices).inputs):
                    digest.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
                    flat = tensor.detach().contiguous().flatten()
                    digest.update(flat.view(torch.uint8).numpy().data)
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def batch(self, indices: Tensor, view: int = 0, *, teacher: bool = True) -> Batch:  # noqa: ARG002
        """Gather samples and stack them.

        Raises:
            DataError: inputs differ in shape.
        """
        samples = [self._pair(place)[0] for place in self._places[indices].tolist()]
        try:
            inputs = default_collate(samples)
        except (RuntimeError, TypeError) as error:
            raise DataError(
                f"{self.name}: inputs of a batch cannot be stacked: {' '.join(str(error).split())}"
            ) from error
        return Batch(inputs, inputs, self.targets[indices], indices, view, None, indices)


def _alike(one: Any, other: Any) -> bool:
    pairs = zip(tensors_in(one), tensors_in(other), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


def collect(given: Sequence[Any], name: str) -> Tensor:
    """Return the targets of all samples as one tensor; None is a sample without any.

    Raises:
        DataError: one is no number or tensor, or is of another shape or kind than those before.
    """
    targets = [None if each is None else _as_tensor(each, name, i) for i, each in enumerate(given)]
    known = [(index, each) for index, each in enumerate(targets) if each is not None]
    if not known:
        return torch.full((len(targets),), UNLABELLED)
    first, like = known[0]
    for index, each in known:
        if each.shape != like.shape or each.dtype != like.dtype:
            raise DataError(
                f"{name}[{index}]: the target is {_kind(each)}, that of {name}[{first}] "
                f"{_kind(like)}; all must be of one kind and shape"
            )
    (nothing,) = without_targets(like.unsqueeze(0))
    nothing = nothing.masked_fill(nothing == PADDING, UNLABELLED)  # of another sample's length
    return torch.stack([nothing if each is None else each for each in targets])


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _as_tensor(target: Any, name: str, index: int) -> Tensor:
    """Return whole numbers as int64, others as float32 or what they are."""
    try:
        if isinstance(target, Tensor):
            found = target.detach().cpu()
        elif isinstance(target, float):
            found = torch.tensor(target)
        else:
            found = torch.as_tensor(target)
        if not found.is_complex():
            return found if found.is_floating_point() else found.to(torch.int64)
    except (TypeError, ValueError, RuntimeError):
        pass
    raise DataError(
        f"{name}[{index}]: the target is {type(target).__name__}, expected the class as a whole "
        "number, or -100 where there is none; numbers, or tensors of either, for other tasks"
    )
