"""The handwritten digits: shape, range, split, and what is said without scikit-learn."""

import sys

import pytest
import torch

from kdcore.data.digits import load_digits
from kdcore.errors import DataError


def test_every_digit_is_on_one_side_of_a_split_of_four_to_one() -> None:
    data = load_digits()
    assert len(data.train) + len(data.test) == 1797
    assert len(data.test) == pytest.approx(1797 / 5, abs=3)
    assert data.train.classes == data.test.classes == tuple("0123456789")
    shares = data.test.targets.bincount() / data.train.targets.bincount()
    assert shares.tolist() == pytest.approx([0.25] * 10, abs=0.01)


def test_digits_are_grey_images_of_the_whole_range() -> None:
    image = load_digits().train.images.read(0)
    assert image.dtype == torch.uint8
    assert image.shape == (3, 32, 32)
    assert image[0].equal(image[1])
    assert image[0].equal(image[2])
    assert image.min() == 0
    # 15 is the first digit's brightest value of 16; bilinear scaling only lowers peaks.
    assert 200 < image.max() <= 255


def test_upsampling_keeps_the_mean_of_each_eighth() -> None:
    from sklearn import datasets

    stored = torch.from_numpy(datasets.load_digits().images)
    data = load_digits()
    means = torch.stack(
        [
            side.images.read(index)[0].double().mean()
            for side in (data.train, data.test)
            for index in range(len(side))
        ]
    )
    expected = stored.mean(dim=(1, 2)) * 255 / 16
    assert torch.allclose(means.sort().values, expected.sort().values, atol=2)


def test_the_split_is_always_the_same() -> None:
    first, second = load_digits(), load_digits()
    assert first.train.images.fingerprint() == second.train.images.fingerprint()
    assert first.test.targets.equal(second.test.targets)


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(DataError, match=r'pip install "kdcore\[digits\]"') as caught:
        load_digits()
    assert "\n" not in str(caught.value)
