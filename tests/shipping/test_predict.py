import os
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from kdcore.errors import ModelError, UserError
from kdcore.models.tutorial import LightNN
from kdcore.shipping.graph import Inputs
from kdcore.shipping.opened import Opened, open_student
from kdcore.shipping.predict import check_predicts, images_at, predict
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


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGBA", "P", "I;16", "CMYK"])
def test_images_of_every_kind_are_read(mode: str, tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (20, 30)).astype(np.uint8)
    wide = Image.fromarray(grey.astype(np.uint16) * 257)
    image = wide if mode == "I;16" else Image.fromarray(grey).convert(mode)
    file = tmp_path / ("it.tif" if mode == "CMYK" else "it.png")
    image.save(file)
    found = predict(_opened(), file, 1)
    assert found.error is None
    assert len(found.values) == 1


def test_an_image_that_lies_on_its_side_is_put_upright(photo: Path, tmp_path: Path) -> None:
    image, exif = Image.open(photo), Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter to the right
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "side.png", exif=exif)
    assert predict(_opened(), tmp_path / "side.png", 10).values == (
        predict(_opened(), photo, 10).values
    )
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "bare.png")  # the control
    assert predict(_opened(), tmp_path / "bare.png", 10).values != (
        predict(_opened(), photo, 10).values
    )


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "it.png")
    assert predict(_opened(), tmp_path / "it.png", 1).error == (
        f"cannot read image {str(tmp_path / 'it.png')!r}: it is no file"
    )


def test_an_image_of_absurdly_many_pixels_is_one_error_and_no_warning(tmp_path: Path) -> None:
    Image.new("1", (9500, 9500)).save(tmp_path / "huge.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = predict(_opened(), tmp_path / "huge.png", 1)
    assert found.error is not None
    assert "9500 x 9500 pixels are absurdly many" in found.error


def test_of_a_folder_all_images_are_asked_of(photo: Path, tmp_path: Path) -> None:
    below = tmp_path / "new" / "below"
    below.mkdir(parents=True)
    (below / "b.png").write_bytes(photo.read_bytes())
    (tmp_path / "new" / "a.JPG").write_bytes(photo.read_bytes())
    (tmp_path / "new" / "notes.txt").write_text("no image")
    found = images_at([photo, tmp_path / "new"])
    assert found == [photo, tmp_path / "new" / "a.JPG", below / "b.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty has no images in it"):
        images_at([tmp_path / "empty"])


def test_a_student_that_fails_or_gives_something_else_is_one_error(photo: Path) -> None:
    def fails(_: Inputs) -> Tensor:
        raise RuntimeError("no such node\nand more")

    opened = _opened()
    with pytest.raises(ModelError, match=r"fails on an image \(RuntimeError: no such node\): its"):
        predict(replace(opened, run=fails), photo, 1)
    with pytest.raises(ModelError, match=r"gives \[1, 3\]: its file does not give what its card"):
        predict(replace(opened, run=lambda _: torch.zeros(1, 3)), photo, 1)
    nothing = predict(replace(opened, run=lambda _: torch.full((1, 10), torch.nan)), photo, 1)
    assert nothing.error is not None
    assert "not finite" in nothing.error


def test_students_that_say_nothing_of_whole_images_are_refused() -> None:
    check_predicts(_opened(), "it")
    with pytest.raises(UserError, match="takes no images"):
        check_predicts(open_student(LightNN(), card(None)), "it")
    with pytest.raises(UserError, match="its task is segmentation"):
        check_predicts(_opened(task="segmentation"), "it")
