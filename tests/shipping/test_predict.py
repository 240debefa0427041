from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdcore.errors import UserError
from kdcore.models.tutorial import LightNN
from kdcore.shipping.opened import Opened, open_student
from kdcore.shipping.predict import check_predicts, predict
from tests.shipping.models import IMAGE, card


def _opened(**more: object) -> Opened:
    torch.manual_seed(0)
    return open_student(LightNN().eval(), card(**more))  # type: ignore[arg-type]  # a card's


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """Write an image of the student's size."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def _logits(photo: Path) -> np.ndarray:
    torch.manual_seed(0)
    student = LightNN().eval().double()
    pixels = np.asarray(Image.open(photo)).transpose(2, 0, 1)[None] / 255
    mean, std = (np.array(each).reshape(3, 1, 1) for each in (IMAGE.mean, IMAGE.std))
    with torch.no_grad():
        return np.asarray(student(torch.from_numpy((pixels - mean) / std))[0])


def test_the_most_probable_classes_are_told_with_their_probabilities(photo: Path) -> None:
    logits = _logits(photo)
    probabilities = np.exp(logits) / np.exp(logits).sum()
    order = probabilities.argsort()[::-1]
    found = predict(_opened(), photo, 3)
    assert [name for name, _ in found.values] == ["abcdefghij"[place] for place in order[:3]]
    told = [value for _, value in found.values]
    assert told == pytest.approx(probabilities[order[:3]].tolist(), rel=1e-4)
    assert (found.image, found.error) == (str(photo), None)


def test_labels_have_a_probability_each_and_values_are_told_in_order(photo: Path) -> None:
    logits = _logits(photo)
    labels = dict(predict(_opened(task="multi-label"), photo, 10).values)
    expected = {"abcdefghij"[p]: 1 / (1 + np.exp(-logit)) for p, logit in enumerate(logits)}
    assert labels == pytest.approx(expected, rel=1e-4)
    values = predict(_opened(task="regression", classes=()), photo, 1).values
    assert [name for name, _ in values] == list(map(str, range(10)))
    assert [value for _, value in values] == pytest.approx(logits.tolist(), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("content", [None, b"no image"])
def test_an_unreadable_image_is_told(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "it.png"
    if content is not None:
        file.write_bytes(content)
    found = predict(_opened(), file, 1)
    assert found.values == ()
    assert found.error is not None
    assert found.error.startswith(f"cannot read image {str(file)!r}")


def test_students_that_say_nothing_of_whole_images_are_refused() -> None:
    check_predicts(_opened(), "it")
    with pytest.raises(UserError, match="takes no images"):
        check_predicts(open_student(LightNN(), card(None)), "it")
    with pytest.raises(UserError, match="its task is segmentation"):
        check_predicts(_opened(task="segmentation"), "it")
