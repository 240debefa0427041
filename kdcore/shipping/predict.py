"""What an exported student says of image files as they are."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from kdcore.data.files import FileImages
from kdcore.data.folder import ENDINGS, images_below
from kdcore.errors import DataError, ModelError, UserError
from kdcore.shipping.graph import of_pixels
from kdcore.shipping.opened import Opened

SHOWN = ("classification", "multi-label", "regression")


@dataclass(frozen=True)
class Prediction:
    """What a student says of one image.

    Attributes:
        image: the file, as it was given.
        values: by class, most first: its probability; or by value, in order, what it is.
        error: why the image could not be read; None where it could.
    """

    image: str
    values: tuple[tuple[str, float], ...] = ()
    error: str | None = None


def check_predicts(opened: Opened, where: str) -> None:
    """Refuse students that do not take images, or say nothing of an image as a whole.

    Raises:
        UserError: says what it takes or says instead.
    """
    card = opened.card
    if card.image is None:
        raise UserError(f"{where}: this student takes no images but what {card.data} gives")
    if card.task not in SHOWN:
        raise UserError(
            f"{where}: its task is {card.task}; predict shows {', '.join(SHOWN)} of images"
        )


def images_at(paths: Sequence[Path]) -> list[Path]:
    """Return image files as they are given, and for a folder those below it.

    Raises:
        UserError: a folder has none.
    """
    found: list[Path] = []
    for path in paths:
        inside = images_below(path) if path.is_dir() else [path]
        if not inside:
            raise UserError(f"{path} has no images in it (they end in {' '.join(ENDINGS)})")
        found += inside
    return found


def predict(opened: Opened, path: Path, top: int) -> Prediction:
    """Read an image file and ask a student of it.

    Args:
        opened: a student that `check_predicts` let pass.
        path: of the image, which may be unreadable.
        top: so many classes are told, the most probable.
    """
    image = opened.card.image
    assert image is not None
    if path.exists() and not path.is_file():  # a pipe would be waited for
        return Prediction(str(path), error=f"cannot read image {str(path)!r}: it is no file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # it is refused
            pixels = FileImages([path], path.parent).fitted(torch.zeros(1).long(), image.geometry)
    except DataError as error:
        return Prediction(str(path), error=str(error))
    logits = _logits(opened, pixels.permute(0, 3, 1, 2).contiguous())
    if not bool(torch.isfinite(logits).all()):
        return Prediction(str(path), error=f"{path}: the student's logits are not finite")
    return Prediction(str(path), _values(logits, opened.card.classes, opened.card.task, top))


def _logits(opened: Opened, pixels: Tensor) -> Tensor:
    """Run a student on one image, ``uint8 [1, 3, size, size]``; return its logits, ``[outputs]``.

    Raises:
        ModelError: it fails, or gives something else: the file is damaged, or was changed.
    """
    wrong = "does not give what its card says: it is damaged or was changed; export it again"
    try:
        logits = opened.run(of_pixels(pixels)).double()
    except Exception as error:  # what a runtime raises on a file that was changed is its own
        reason = (str(error).splitlines() or [""])[0]
        raise ModelError(
            f"the student fails on an image ({type(error).__name__}: {reason}): its file {wrong}"
        ) from error
    outputs = opened.card.outputs
    if logits.dim() != 2 or outputs not in (None, logits.shape[1]):
        raise ModelError(f"the student gives {list(logits.shape)}: its file {wrong}")
    return logits[0]


def _values(
    logits: Tensor, classes: Sequence[str], task: str, top: int
) -> tuple[tuple[str, float], ...]:
    names = classes or [str(place) for place in range(len(logits))]
    if task == "regression":
        return tuple(zip(names, logits.tolist(), strict=True))
    probabilities = logits.softmax(0) if task == "classification" else logits.sigmoid()
    order = probabilities.argsort(descending=True, stable=True)[:top].tolist()
    return tuple((names[place], float(probabilities[place])) for place in order)
