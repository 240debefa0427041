"""What a library says of a model that it offers by name, and a new head on pretrained layers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kdcore.data.preprocess import Preprocess
from kdcore.errors import ModelError


class Offer(ABC):
    """A model of a library.

    Attributes:
        name: as experiments have it, ``"timm/resnet10t"``.
        preprocess: how its pretrained layers want images; None where that is not known, or where
            it is given no images.
        fixed: whether it takes images of that size alone.
        categories: what the classes of its pretrained head are called, by index; empty where it
            has no head.
    """

    name: str
    preprocess: Preprocess | None
    fixed: bool
    categories: tuple[str, ...]

    @property
    def text(self) -> bool:
        """Whether it is given words, as tokenizers number them, in place of images."""
        return False

    @abstractmethod
    def fresh(self, classes: int) -> nn.Module:
        """Build it with weights drawn from torch's random stream, for so many classes."""

    @abstractmethod
    def pretrained(self) -> nn.Module:
        """Build it with its pretrained weights and the head that belongs to them.

        Raises:
            ModelError: there are none, or they are neither here nor can be had.
        """

    def with_new_head(self, classes: int) -> nn.Module:
        """Build it with its pretrained layers, but for a head of so many classes that begins anew.

        Raises:
            ModelError: as `pretrained`.
        """
        model = self.fresh(classes)
        fill(model, self.pretrained().state_dict(), classes, self.name)
        return model


def fill(model: nn.Module, weights: Mapping[str, Tensor], classes: int, where: str) -> None:
    """Give a model the weights of one that differs from it in the number of classes alone.

    Args:
        model: of so many classes; what of its head is of another shape stays as it is.
        weights: of the other, by name.
        classes: of the model.
        where: whose weights they are; begins errors.

    Raises:
        ModelError: they are of another model, or not finite.
    """
    own = model.state_dict()
    if other := sorted(own.keys() ^ weights.keys()):
        raise ModelError(
            f"{where}: these are weights of another model: {len(other)} tensors are missing or "
            f"unknown, such as {other[0]!r}"
        )
    for name, tensor in weights.items():
        mine = own[name]
        of_head = mine.ndim > 0 and len(mine) == classes and mine.shape[1:] == tensor.shape[1:]
        if mine.shape != tensor.shape and not of_head:
            raise ModelError(
                f"{where}: the tensor {name!r} is {list(tensor.shape)}, the model's is "
                f"{list(mine.shape)}: that is more than other classes"
            )
        known = tensor == mine if mine.shape == tensor.shape else torch.tensor(False)
        # A mask may be made of infinities, which the model itself has in the same places.
        if not bool((torch.isfinite(tensor) | known).all()):
            raise ModelError(f"{where}: the tensor {name!r} has values that are not finite")
    fitting = {name: each for name, each in weights.items() if each.shape == own[name].shape}
    model.load_state_dict({**own, **fitting})
