"""What is exported of a student: the module with its normalisation inside, and its inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter, Signature
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.data.preprocess import Preprocess
from kdcore.data.source import ImageSource, Source
from kdcore.errors import ModelError
from kdcore.taps import logits_of

IMAGE = "image"
LOGITS = "logits"
"""What the graph's one input of images, and its output, are called."""


class FromPixels(nn.Module):
    """A student that takes images as they are read: ``uint8 [batch, 3, size, size]``.

    Args:
        student: the student.
        image: how it wants images.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, student: nn.Module, image: Preprocess) -> None:
        super().__init__()
        self.student = student
        mean, std = (
            torch.tensor(each, dtype=torch.float64).view(3, 1, 1)
            for each in (image.mean, image.std)
        )
        self.register_buffer("scale", (1 / (255 * std)).float())
        self.register_buffer("shift", (-mean / std).float())

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits."""
        return _logits(self.student(torch.addcmul(self.shift, image.float(), self.scale)))


class FromInputs(nn.Module):
    """A student that takes what it was trained with, and returns its logits alone.

    Args:
        student: the student.
        names: what its inputs are called, in order.
    """

    def __init__(self, student: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.student = student

        def forward(*inputs: Tensor, **named: Tensor) -> Tensor:
            return _logits(student(*inputs, **named))

        kind = Parameter.POSITIONAL_OR_KEYWORD
        # Exporters ask for the names, and cannot call again what takes any.
        forward.__signature__ = Signature([Parameter(name, kind) for name in names])  # type: ignore[attr-defined]
        self.forward = forward


def _logits(output: object) -> Tensor:
    logits = logits_of(output)
    assert logits is not None  # it has been trained
    return logits


@dataclass(frozen=True)
class Inputs:
    """What an exported student is given.

    Attributes:
        positional: tensors by position, each ``[batch, ...]``.
        named: tensors by name, the like.
    """

    positional: tuple[Tensor, ...]
    named: Mapping[str, Tensor]

    @classmethod
    def of(cls, inputs: Any) -> "Inputs":
        """Sort what a data set gives a model.

        Raises:
            ModelError: it is neither a tensor, nor a sequence or mapping of tensors.
        """
        named = dict(inputs) if isinstance(inputs, Mapping) else {}
        several = isinstance(inputs, Sequence) and not isinstance(inputs, str)
        positional = () if named else tuple(inputs) if several else (inputs,)
        for each in (*positional, *named.values()):
            if not isinstance(each, Tensor):
                raise ModelError(
                    f"export takes inputs that are a tensor, or a sequence or mapping of tensors; "
                    f"the data give {type(each).__name__} in {type(inputs).__name__}"
                )
        for name in named:
            if not str(name).isidentifier():
                raise ModelError(f"export takes inputs whose names Python allows, not {name!r}")
        return cls(positional, named)

    @property
    def names(self) -> list[str]:
        """What they are called in an exported file, in order."""
        return [*(f"input_{place}" for place in range(len(self.positional))), *self.named]

    def by_name(self) -> dict[str, Tensor]:
        """Return all of them by their names in an exported file."""
        return dict(zip(self.names, (*self.positional, *self.named.values()), strict=True))

    def run(self, module: Any) -> Tensor:
        """Call a module with them."""
        logits: Tensor = module(*self.positional, **self.named)
        return logits


def shipped(student: nn.Module, image: Preprocess | None, names: Sequence[str]) -> nn.Module:
    """Return what is exported of a student, in evaluation mode.

    Args:
        student: the student.
        image: how it wants images; None where it takes something else.
        names: what its inputs are called, in order, where they are no images.
    """
    return (FromPixels(student, image) if image else FromInputs(student, names)).eval()


def of_pixels(pixels: Tensor) -> Inputs:
    """Return images, ``uint8 [batch, 3, size, size]``, as an exported student takes them."""
    return Inputs((), {IMAGE: pixels})


def inputs_at(source: Source, indices: Tensor, image: Preprocess | None) -> Inputs:
    """Read samples as an exported student takes them: images as pixels, others as they are.

    Args:
        source: the samples.
        indices: ``int64 [batch]``.
        image: how the student wants images; None where it takes something else.
    """
    if image is None or not isinstance(source, ImageSource):
        return Inputs.of(source.batch(indices, teacher=False).inputs)
    pixels = source.data.images.fitted(indices, image.geometry)
    return of_pixels(pixels.permute(0, 3, 1, 2).contiguous())
