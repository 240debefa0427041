import pytest
import torch

from kdcore.data.images import ArrayImages
from kdcore.data.preprocess import Pixels, Preprocess


def _images(count: int = 6, side: int = 8) -> ArrayImages:
    torch.manual_seed(0)
    return ArrayImages(torch.randint(256, (count, 3, side, side), dtype=torch.uint8))


def test_normalising_subtracts_the_mean_and_divides_by_the_deviation_of_each_channel() -> None:
    pixels = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    given = Preprocess(1, (0.5, 0.25, 0.0), (0.5, 0.125, 2.0)).normalise(pixels).flatten()
    expected = [(0 / 255 - 0.5) / 0.5, (128 / 255 - 0.25) / 0.125, (255 / 255 - 0.0) / 2.0]
    assert given.tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("budget", [10**9, 0])
def test_images_are_the_same_whether_they_are_kept_or_decoded_each_time(budget: int) -> None:
    images = _images()
    pixels = Pixels(images, 8, budget)
    assert pixels.in_memory == (budget > 0)
    for _ in range(2):
        assert torch.equal(pixels.gather(torch.tensor([4, 1])), images.pixels[[4, 1]])


def test_images_of_another_size_are_brought_to_the_size_asked_for() -> None:
    assert Pixels(_images(side=12), 8).gather(torch.tensor([0, 1])).shape == (2, 3, 8, 8)


def test_kept_images_lie_channels_last_which_convolutions_are_faster_on() -> None:
    gathered = Pixels(_images(), 8).gather(torch.tensor([2, 3]))
    assert gathered.is_contiguous(memory_format=torch.channels_last)
