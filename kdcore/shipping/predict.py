"""What an exported student says of image files as they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kdcore.data.files import FileImages
from kdcore.errors import DataError, UserError
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


def predict(opened: Opened, path: Path, top: int) -> Prediction:
    """Read an image file and ask a student of it.

    Args:
        opened: a student that `check_predicts` let pass.
        path: of the image, which may be unreadable.
        top: so many classes are told, the most probable.
    """
    image = opened.card.image
    assert image is not None
    try:
        pixels = FileImages([path], path.parent).fitted(torch.zeros(1).long(), image.geometry)
    except DataError as error:
        return Prediction(str(path), error=str(error))
    (logits,) = opened.run(of_pixels(pixels.permute(0, 3, 1, 2).contiguous()))
    return Prediction(
        str(path), _values(logits.double(), opened.card.classes, opened.card.task, top)
    )


def _values(
    logits: Tensor, classes: Sequence[str], task: str, top: int
) -> tuple[tuple[str, float], ...]:
    names = classes or [str(place) for place in range(len(logits))]
    if task == "regression":
        return tuple(zip(names, logits.tolist(), strict=True))
    probabilities = logits.softmax(0) if task == "classification" else logits.sigmoid()
    order = probabilities.argsort(descending=True, stable=True)[:top].tolist()
    return tuple((names[place], float(probabilities[place])) for place in order)
