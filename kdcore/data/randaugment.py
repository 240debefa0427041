"""The operations of RandAugment, each done at once to all images of a batch that are to have it.

Which image gets which is drawn in `augment`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

BINS = 31
"""How many magnitudes there are, from 0."""


@dataclass(frozen=True)
class Operation:
    """One of the operations.

    Attributes:
        name: as torchvision calls it.
        apply: takes ``uint8 [images, 3, size, size]`` and how strongly; returns the like.
        strengths: takes the size in pixels; returns how strong each magnitude is, ``[BINS]``.
        signed: whether it has an opposite, of negative strength, that is as likely.
    """

    name: str
    apply: Callable[[Tensor, float], Tensor]
    strengths: Callable[[int], Tensor]
    signed: bool


def _affine(
    pixels: Tensor,
    translate: tuple[int, int] = (0, 0),
    shear: tuple[float, float] = (0.0, 0.0),
    center: list[float] | None = None,
) -> Tensor:
    moved: Tensor = F.affine(
        pixels, angle=0.0, translate=list(translate), scale=1.0, shear=list(shear), center=center
    )
    return moved


def _shear_x(pixels: Tensor, strength: float) -> Tensor:
    return _affine(pixels, shear=(math.degrees(math.atan(strength)), 0.0), center=[0.0, 0.0])


def _shear_y(pixels: Tensor, strength: float) -> Tensor:
    return _affine(pixels, shear=(0.0, math.degrees(math.atan(strength))), center=[0.0, 0.0])


def _contrast(pixels: Tensor, strength: float) -> Tensor:
    # torchvision adds the pixels up in float32, which depends on their order in large images.
    factor = 1 + strength
    grey = F.rgb_to_grayscale(pixels)
    mean = grey.sum((1, 2, 3), keepdim=True).float() / grey[0].numel()
    return pixels.float().mul_(factor).add_(mean, alpha=1 - factor).clamp_(0, 255).to(torch.uint8)


def _up_to(most: float) -> Callable[[int], Tensor]:
    return lambda _: torch.linspace(0.0, most, BINS)


def _nothing(_: int) -> Tensor:
    return torch.zeros(BINS)


def _distances(size: int) -> Tensor:
    return torch.linspace(0.0, 150.0 / 331.0 * size, BINS)


def _bits(_: int) -> Tensor:
    return (8 - torch.arange(BINS) / ((BINS - 1) / 4)).round()


def _thresholds(_: int) -> Tensor:
    return torch.linspace(1.0, 0.0, BINS)


# Names, order and strengths are those of torchvision's RandAugment.
OPERATIONS = (
    Operation("Identity", lambda x, _: x, _nothing, signed=False),
    Operation("ShearX", _shear_x, _up_to(0.3), signed=True),
    Operation("ShearY", _shear_y, _up_to(0.3), signed=True),
    Operation("TranslateX", lambda x, s: _affine(x, (int(s), 0)), _distances, signed=True),
    Operation("TranslateY", lambda x, s: _affine(x, (0, int(s))), _distances, signed=True),
    Operation("Rotate", lambda x, s: F.rotate(x, s), _up_to(30.0), signed=True),
    Operation("Brightness", lambda x, s: F.adjust_brightness(x, 1 + s), _up_to(0.9), signed=True),
    Operation("Color", lambda x, s: F.adjust_saturation(x, 1 + s), _up_to(0.9), signed=True),
    Operation("Contrast", _contrast, _up_to(0.9), signed=True),
    Operation("Sharpness", lambda x, s: F.adjust_sharpness(x, 1 + s), _up_to(0.9), signed=True),
    Operation("Posterize", lambda x, s: F.posterize(x, int(s)), _bits, signed=False),
    Operation("Solarize", lambda x, s: F.solarize(x, 255 * s), _thresholds, signed=False),
    Operation("AutoContrast", lambda x, _: F.autocontrast(x), _nothing, signed=False),
    Operation("Equalize", lambda x, _: F.equalize(x), _nothing, signed=False),
)


def randaugment(
    pixels: Tensor, operations: Sequence[int], negative: Sequence[bool], magnitude: int
) -> Tensor:
    """Apply to each image its own operation.

    Args:
        pixels: ``uint8 [batch, 3, size, size]``.
        operations: each image's operation, by its place in `OPERATIONS`.
        negative: whether an image gets the opposite of an operation that has one.
        magnitude: how strongly, from 0 to 30.

    Returns:
        ``uint8 [batch, 3, size, size]``, each image as if it were alone in the batch.
    """
    groups: dict[tuple[int, bool], list[int]] = {}
    for place, (number, opposite) in enumerate(zip(operations, negative, strict=True)):
        groups.setdefault((number, opposite and OPERATIONS[number].signed), []).append(place)
    result = pixels.clone(memory_format=torch.contiguous_format)
    for (number, opposite), places in groups.items():
        operation = OPERATIONS[number]
        strength = float(operation.strengths(pixels.shape[-1])[magnitude])
        chosen = torch.tensor(places).to(pixels.device, non_blocking=True)
        result[chosen] = operation.apply(result[chosen], -strength if opposite else strength)
    return result
