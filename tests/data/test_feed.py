"""Batches made here and made ahead by other processes are the same."""

import os

import pytest
import torch

from kdcore.data.augment import Augment
from kdcore.data.feed import Feed, Plan, describe_feed, workers_for
from kdcore.data.images import ArrayImages, LabelledImages
from kdcore.data.pixels import PixelPool
from kdcore.data.preprocess import Preprocess
from kdcore.data.source import Batch, DatasetSource, ImageSource, Source
from kdcore.errors import DataError
from kdcore.sections import AugmentConfig

CPU = torch.device("cpu")
PLAIN = Preprocess(8, (0.5,) * 3, (0.5,) * 3)
PLANS = [
    Plan([torch.tensor([3, 0]), torch.tensor([5])], 0, torch.tensor([3, 0, 5])),
    Plan([torch.tensor([1, 4, 2])], 1, torch.tensor([1, 4, 2])),
    Plan([torch.tensor([3, 0])], 2, torch.tensor([3, 0])),
]


def _source(budget: int, mixup: float = 0.0) -> ImageSource:
    torch.manual_seed(0)
    images = ArrayImages(torch.randint(256, (6, 3, 8, 8), dtype=torch.uint8))
    data = LabelledImages(images, torch.tensor([0, 1, 0, -100, 1, 0]), ("a", "b"))
    pool = PixelPool(CPU, budget)
    settings = AugmentConfig(crop=2, flip=True, mixup=mixup, seed=7)
    source = ImageSource(data, PLAIN, Preprocess(4, (0.1,) * 3, (0.5,) * 3), pool)
    if mixup or budget:
        source = ImageSource(data, PLAIN, None, pool, Augment(settings))
    pool.keep()
    return source


def _equal(one: Batch, other: Batch) -> bool:
    tensors = [
        (one.inputs, other.inputs),
        (one.teacher_inputs, other.teacher_inputs),
        (one.targets, other.targets),
        (one.indices, other.indices),
    ]
    if one.mixed or other.mixed:
        assert one.mixed is not None
        assert other.mixed is not None
        tensors += [
            (one.mixed.targets, other.mixed.targets),
            (one.mixed.share, other.mixed.share),
        ]
    return all(torch.equal(a, b) for a, b in tensors) and one.view == other.view


@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_batches_are_the_same_made_here_or_ahead_from_memory_or_decoded(mixup: float) -> None:
    memory = _source(10**9, mixup)
    here = list(Feed(memory, CPU).batches(PLANS))
    assert [[len(batch.indices) for batch in step] for step in here] == [[2, 1], [3], [2]]
    decoded = ImageSource(memory.data, PLAIN, None, PixelPool(CPU, 0), memory.augment)
    for source, workers in ((memory, 2), (decoded, 0), (decoded, 2)):
        made = list(Feed(source, CPU, workers=workers).batches(PLANS))
        for one, other in zip(here, made, strict=True):
            assert all(_equal(a, b) for a, b in zip(one, other, strict=True))
    first, last = here[0][0], here[2][0]
    assert not torch.equal(first.inputs, last.inputs)  # the control: another view of the same


def test_the_teachers_inputs_may_be_left_out() -> None:
    source = _source(0)
    (whole,), *_ = Feed(source, CPU).batches(PLANS[2:])
    (part,), *_ = Feed(source, CPU, teacher=False).batches(PLANS[2:])
    assert whole.teacher_inputs.shape[-1] == 4
    assert torch.equal(part.inputs, whole.inputs)
    assert part.teacher_inputs is None


class _Dying(Source):
    views = 1
    targets = torch.zeros(6, dtype=torch.int64)

    def batch(self, indices: torch.Tensor, view: int = 0, **_: object) -> Batch:
        if 5 in indices:
            os._exit(3)
        return Batch(indices, indices, self.targets[indices], indices, view, None, indices)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_dies_is_told_of_in_one_line_with_its_samples(workers: int) -> None:
    words = r"reads ahead died at sample 3, 0, 5 \(.*workers = 0"
    with pytest.raises(DataError, match=words):
        list(Feed(_Dying(), CPU, workers=workers).batches(PLANS))


class _Failing:
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[float, int]:
        if index == 2:
            raise OSError("no such\nthing")
        return 0.0, 1


def test_a_sample_that_cannot_be_read_is_named() -> None:
    with pytest.raises(DataError, match=r"^photos\[2\] cannot be read: OSError: no such thing$"):
        DatasetSource(_Failing(), "photos")


def test_images_that_are_kept_need_no_workers_and_what_is_asked_for_is_done() -> None:
    assert workers_for(in_memory=True, asked=None) == 0
    assert 1 <= workers_for(in_memory=False, asked=None) <= 8
    assert workers_for(in_memory=True, asked=3) == 3
    assert workers_for(in_memory=False, asked=0) == 0


def test_what_was_chosen_is_said_in_one_line() -> None:
    assert describe_feed(True, 3 * 2**20, CPU, 0) == (
        "images: decoded once, kept in memory (3.0 MiB)"
    )
    assert describe_feed(False, 2**20, CPU, 2) == (
        "images: decoded whenever they are read (1.0 MiB would not be kept); 2 processes read ahead"
    )


class _Unreadable(Source):
    views = 1
    targets = torch.zeros(4, dtype=torch.int64)

    def batch(self, *_: object, **__: object) -> Batch:
        raise DataError("cats/1.jpg is damaged")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_failure_is_told_in_its_own_words_wherever_it_happened(workers: int) -> None:
    with pytest.raises(DataError, match=r"^cats/1.jpg is damaged$"):
        list(Feed(_Unreadable(), CPU, workers=workers).batches(PLANS))


class _Lying(Source):
    views = 2
    targets = torch.zeros(6, dtype=torch.int64)

    def batch(self, indices: torch.Tensor, view: int = 0, *, teacher: bool = True) -> Batch:  # noqa: ARG002
        return Batch(indices, indices, self.targets[indices], indices)


def test_batches_of_another_view_than_was_planned_are_refused() -> None:
    with pytest.raises(DataError, match=r"asked for view 1 of .* and gave view 0"):
        list(Feed(_Lying(), CPU).batches(PLANS))
