"""A moving average of a student's weights, which often generalises better than the last of them.

Polyak and Juditsky (1992); exponential, as Tarvainen and Valpola (2017) use it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.sharding import like, local


def averaged(model: nn.Module) -> list[Tensor]:
    """Return what of a model is averaged: parameters and buffers of floating-point numbers."""
    return [tensor for tensor in _tensors(model) if tensor.is_floating_point()]


def copied(model: nn.Module) -> list[Tensor]:
    """Return what of a model an average takes as it is: all other parameters and buffers."""
    return [tensor for tensor in _tensors(model) if not tensor.is_floating_point()]


def _tensors(model: nn.Module) -> tuple[Tensor, ...]:
    return (*model.parameters(), *model.buffers())


@torch.no_grad()
def follow(average: Sequence[Tensor], own: Sequence[Tensor], decay: float, updates: int) -> None:
    """Take a model's weights into their average, in place.

    Args:
        average: what was averaged so far.
        own: the model's.
        decay: what the average keeps of itself, in ``[0, 1)``, once it has begun.
        updates: how many there were, this one included; the average keeps no more of itself than
            ``(1 + updates) / (10 + updates)``.
    """
    kept = min(decay, (1 + updates) / (10 + updates))
    torch._foreach_lerp_([*map(local, average)], [*map(local, own)], 1 - kept)


class WeightAverage:
    """The average of a model's parameters and floating-point buffers over optimizer steps.

    It begins with the first step's weights, and forgets them quickly: at its step t it keeps no
    more of itself than ``(1 + t) / (10 + t)``, so that a short training is not half its beginning.

    Args:
        model: the model.
        decay: what the average keeps of itself a step, in ``[0, 1)``, once it has begun.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._own = averaged(model)
        self._average: list[Tensor] = []
        self._updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights of one more step into the average."""
        if not self._average:
            self._average = [tensor.detach().clone() for tensor in self._own]
            return
        self._updates += 1
        follow(self._average, self._own, self._decay, self._updates)

    @torch.no_grad()
    def _swap(self) -> None:
        for own, average in zip(self._own, self._average, strict=bool(self._average)):
            kept = own.clone()
            own.copy_(average)
            average.copy_(kept)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model its average for a while."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def apply(self) -> None:
        """Give the model its average for good."""
        self._swap()

    def state_dict(self) -> dict[str, object]:
        """Return what the next steps depend on."""
        return {"average": list(self._average), "updates": self._updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self._updates = state["updates"]
        self._average = [
            torch.empty_like(own).copy_(like(own, average))  # in the layout of the model's own
            for own, average in zip(self._own, state["average"], strict=bool(state["average"]))
        ]
