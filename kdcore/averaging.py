"""A moving average of a student's weights, which often generalises better than the last of them.

Polyak and Juditsky (1992); exponential, as Tarvainen and Valpola (2017) use it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """The average of a model's parameters and floating-point buffers over optimizer steps.

    It begins with the first step's weights: no weight is given to those that were not trained.

    Args:
        model: the model.
        decay: what the average keeps of itself a step, in ``[0, 1)``.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._own = [
            tensor
            for tensor in (*model.parameters(), *model.buffers())
            if tensor.is_floating_point()
        ]
        self._average: list[Tensor] = []

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights of one more step into the average."""
        if not self._average:
            self._average = [tensor.detach().clone() for tensor in self._own]
            return
        torch._foreach_lerp_(self._average, self._own, 1 - self._decay)

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
