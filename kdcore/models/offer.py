"""What a library says of a model that it offers by name, and a new head on pretrained layers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

from kdcore.data.preprocess import Preprocess


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
        fill(model, self.pretrained().state_dict())
        return model


def fill(model: nn.Module, weights: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Give a model those of some weights that fit it by name and shape.

    Returns:
        The names of its tensors that stay as they were.
    """
    own = model.state_dict()
    fitting = {
        name: tensor
        for name, tensor in weights.items()
        if name in own and own[name].shape == tensor.shape
    }
    model.load_state_dict({**own, **fitting})
    return tuple(name for name in own if name not in fitting)
