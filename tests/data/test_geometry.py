"""Squares of images: sizes, middle, proportions, and what Pillow makes of the same."""

import numpy as np
import pytest
import torch
from PIL import Image

from kdcore.data.geometry import Geometry
from kdcore.sections import Interpolation

WIDE = torch.arange(3 * 12 * 20, dtype=torch.int64).remainder(251).to(torch.uint8).view(3, 12, 20)
SMOOTH = (
    torch.linspace(0, 255, 40).view(1, 1, 40) * torch.linspace(0.2, 1, 30).view(1, 30, 1)
).expand(3, -1, -1)


def test_what_has_the_size_is_unchanged() -> None:
    square = WIDE[:, :, :12]
    for interpolation in ("bilinear", "bicubic"):
        assert Geometry(12, interpolation=interpolation).fit(square) is square
    assert Geometry(12, 12, squash=True).fit(square) is square


def test_the_middle_is_cut_out_of_the_shorter_side_as_it_is() -> None:
    assert torch.equal(Geometry(12).fit(WIDE), WIDE[:, :, 4:16])


def test_a_rim_is_left_out_where_the_shorter_side_is_scaled_to_more_than_the_square() -> None:
    square = WIDE[:, :, :12]
    assert torch.equal(Geometry(8, 12).fit(square), square[:, 2:10, 2:10])
    assert not torch.equal(Geometry(8, 12).fit(square), Geometry(8).fit(square))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_it_is_what_pillow_makes_of_an_image_but_for_rounding(interpolation: Interpolation) -> None:
    pixels = SMOOTH.round().to(torch.uint8)
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    method = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    scaled = picture.resize((21, 16), method[interpolation])
    expected = np.asarray(scaled.crop((4, 2, 16, 14))).astype(int)
    found = Geometry(12, 16, interpolation).fit(pixels).permute(1, 2, 0).numpy().astype(int)
    assert abs(found - expected).max() <= 1


def test_squashed_images_keep_their_rims_and_lose_their_proportions() -> None:
    pixels = SMOOTH.round().to(torch.uint8)
    squashed = Geometry(10, squash=True).fit(pixels)
    assert squashed.shape == (3, 10, 10)
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    expected = np.asarray(picture.resize((10, 10), Image.Resampling.BILINEAR)).astype(int)
    assert abs(squashed.permute(1, 2, 0).numpy().astype(int) - expected).max() <= 1
    assert not torch.equal(squashed, Geometry(10).fit(pixels))
    rimless = Geometry(8, 10, squash=True).fit(pixels)
    assert torch.equal(rimless, squashed[:, 1:9, 1:9])
