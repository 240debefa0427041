"""Decoded images are kept once for all who want them, or decoded each time: the same either way."""

import pytest
import torch
from torch import Tensor

from kdcore.data.geometry import Geometry
from kdcore.data.images import ArrayImages, Images, Subset
from kdcore.data.pixels import PixelPool

CPU = torch.device("cpu")


class Counting(Images):
    """Images of any sizes that count how often each is read."""

    def __init__(self, *sides: int) -> None:
        torch.manual_seed(0)
        self.stored = [torch.randint(256, (3, s, s + 2), dtype=torch.uint8) for s in sides]
        self.reads = [0] * len(sides)

    def __len__(self) -> int:
        return len(self.stored)

    def read(self, index: int) -> Tensor:
        self.reads[index] += 1
        return self.stored[index]

    @property
    def common_size(self) -> None:
        return None

    def fingerprint(self) -> str:
        return "counting"


def _array(count: int = 6, side: int = 8) -> ArrayImages:
    torch.manual_seed(0)
    return ArrayImages(torch.randint(256, (count, 3, side, side), dtype=torch.uint8))


@pytest.mark.parametrize("budget", [10**9, 0])
@pytest.mark.parametrize("images", [_array(), _array(side=12), Counting(9, 8, 13, 8, 20, 11)])
def test_images_are_the_same_whether_they_are_kept_or_decoded_each_time(
    images: Images, budget: int
) -> None:
    pool = PixelPool(CPU, budget)
    pixels, rows = pool.ask(images, Geometry(8))
    assert pool.in_memory == (budget > 0)
    pool.keep()
    exact, _ = PixelPool(CPU, 10**9).ask(images, Geometry(8))
    for _ in range(2):
        seen = pixels.gather(rows[[4, 1]])
        assert seen.shape == (2, 3, 8, 8)
        assert torch.equal(seen, exact.gather(torch.tensor([4, 1])))
    if images.common_size == (8, 8):
        assert torch.equal(seen, torch.stack([images.read(4), images.read(1)]))


def test_what_several_sources_want_is_decoded_once() -> None:
    images = Counting(9, 9, 9, 9)
    pool = PixelPool()
    first, rows = pool.ask(Subset(images, [2, 0]), Geometry(8))
    again, nested = pool.ask(Subset(Subset(images, [3, 2]), [1]), Geometry(8))
    pool.keep()
    assert torch.equal(first.gather(rows[:1]), again.gather(nested))
    assert images.reads == [1, 0, 1, 0]  # what nobody wants is not decoded


def test_what_is_not_kept_is_decoded_each_time() -> None:  # the control
    images = Counting(9, 9)
    pool = PixelPool(budget=0)
    pixels, rows = pool.ask(images, Geometry(8))
    pool.keep()
    for _ in range(3):
        pixels.gather(rows)
    assert images.reads == [3, 3]


def test_the_bytes_of_all_sizes_and_sequences_count_against_one_budget() -> None:
    pool = PixelPool(CPU, budget=3 * 3 * 8 * 8)
    pool.ask(_array(2), Geometry(8))
    assert pool.nbytes == 2 * 3 * 8 * 8
    assert pool.in_memory
    pool.ask(_array(2), Geometry(8))
    assert not pool.in_memory


def test_images_lie_channels_last_which_convolutions_are_faster_on() -> None:
    pool = PixelPool()
    pixels, rows = pool.ask(_array(), Geometry(8))
    pool.keep()
    assert pixels.gather(rows).is_contiguous(memory_format=torch.channels_last)


def test_what_was_decided_stays_whatever_memory_is_free_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = PixelPool()
    pool.ask(_array(), Geometry(8))
    pool.keep()
    monkeypatch.setattr("kdcore.data.pixels._room", lambda _: 0)
    assert pool.in_memory
    late = PixelPool()  # the control
    late.ask(_array(), Geometry(8))
    assert not late.in_memory
