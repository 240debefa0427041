"""What a teacher says of a batch, and by what names it is found again.

How it is computed is in `frozen_teacher`, where it is kept in `cache`; nobody downstream knows
which.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdcore.errors import DataError
from kdcore.taps import TapAddress


@dataclass(frozen=True)
class SignalKey:
    """A tapped activation as strategies want it.

    Attributes:
        address: where it is taken.
        adapter: canonical name of the parameter-free adapter behind it, empty without one.
    """

    address: TapAddress
    adapter: str = ""

    def __str__(self) -> str:
        return f"{self.address} -> {self.adapter}" if self.adapter else str(self.address)


LOGITS = "logits"
"""Name of a teacher's logits among its signals."""


@dataclass(frozen=True)
class Signals:
    """What a teacher says of one batch.

    Attributes:
        logits: ``[batch, classes]``, None where its output holds none.
        activations: what was tapped, batch first.
    """

    logits: Tensor | None
    activations: Mapping[SignalKey, Tensor]

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """Go through all tensors with their names: ``"logits"``, or the key as text."""
        if self.logits is not None:
            yield LOGITS, self.logits
        for key, tensor in self.activations.items():
            yield f"tap {key}", tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> "Signals":
        """Return the same with a function applied to each tensor."""
        return Signals(
            None if self.logits is None else function(self.logits),
            {key: function(tensor) for key, tensor in self.activations.items()},
        )

    def check_rows(self, count: int, teacher: str) -> None:
        """Refuse signals of another number of samples, which PyTorch might broadcast.

        Raises:
            DataError: names the numbers.
        """
        for _, tensor in self.named():
            if len(tensor) != count:
                raise DataError(
                    f"the batch has {count} samples, {teacher} was given or tapped for "
                    f"{len(tensor)}: its inputs must be the same samples"
                )

    @classmethod
    def join(cls, parts: "Sequence[Signals]", count: int) -> "Signals":
        """Return the first so many samples of several batches in a row."""
        if len(parts) == 1:
            return parts[0].map(lambda tensor: tensor[:count])
        logits = [part.logits for part in parts if part.logits is not None]
        return cls(
            torch.cat(logits)[:count] if logits else None,
            {
                key: torch.cat([part.activations[key] for part in parts])[:count]
                for key in parts[0].activations
            },
        )
