import pytest
import torch

from kdcore.data.preprocess import Preprocess


def test_normalising_subtracts_the_mean_and_divides_by_the_deviation_of_each_channel() -> None:
    pixels = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    given = Preprocess(1, (0.5, 0.25, 0.0), (0.5, 0.125, 2.0)).normalise(pixels).flatten()
    expected = [(0 / 255 - 0.5) / 0.5, (128 / 255 - 0.25) / 0.125, (255 / 255 - 0.0) / 2.0]
    assert given.tolist() == pytest.approx(expected, rel=1e-6)
