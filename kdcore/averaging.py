"""A moving average of a student's weights, which often generalises better than the last of them.

Polyak and Juditsky (1992); exponential, as Tarvainen and Valpola (2017) use it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


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
        self._own = [
            tensor
            for tensor in (*model.parameters(), *model.buffers())
            if tensor.is_floating_point()
        ]
        self._average: list[Tensor] = []
        self._updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights of one more step into the average."""
        if not self._average:
            self._average = [tensor.detach().clone() for tensor in self._own]
            return
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        torch._foreach_lerp_(self._average, self._own, 1 - decay)

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
            torch.empty_like(own).copy_(average)  # in the layout of the model's own
            for own, average in zip(self._own, state["average"], strict=bool(state["average"]))
        ]
