"""A teacher in a run: frozen, in evaluation mode, never touched; and what it tells.

Nobody downstream knows whether signals were computed just now.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.errors import DataError
from kdcore.nested import chunks, tensors_in
from kdcore.taps import TapAddress, TapRecorder, logits_of


@dataclass(frozen=True)
class Signals:
    """What a teacher tells of one batch.

    Attributes:
        logits: ``[batch, classes]``, None where its output holds none.
        activations: the tapped activations, batch first, by address.
    """

    logits: Tensor | None
    activations: Mapping[TapAddress, Tensor]

    def map(self, function: Callable[[Tensor], Tensor]) -> "Signals":
        """Return the same with a function applied to each tensor."""
        return Signals(
            None if self.logits is None else function(self.logits),
            {address: function(tensor) for address, tensor in self.activations.items()},
        )

    def check_rows(self, count: int, teacher: str) -> None:
        """Refuse signals of another number of samples, which PyTorch might broadcast.

        Raises:
            DataError: names the numbers.
        """
        for tensor in (self.logits, *self.activations.values()):
            if tensor is not None and len(tensor) != count:
                raise DataError(
                    f"the batch has {count} samples, {teacher} was given or tapped for "
                    f"{len(tensor)}: its inputs must be the same samples"
                )

    @classmethod
    def join(cls, parts: "list[Signals]", count: int) -> "Signals":
        """Return the first so many samples of several batches in a row."""
        if len(parts) == 1:
            return parts[0].map(lambda tensor: tensor[:count])
        logits = [part.logits for part in parts if part.logits is not None]
        return cls(
            torch.cat(logits)[:count] if logits else None,
            {
                address: torch.cat([part.activations[address] for part in parts])[:count]
                for address in parts[0].activations
            },
        )


class FrozenTeacher:
    """A model that is asked and never trained.

    Its weights, gradients and ``requires_grad`` flags are left alone; its mode is evaluation
    until `release`, which puts it back.

    Args:
        model: the teacher.
        addresses: the taps that strategies need.
        where: its name in errors.
        keep: taps to copy when they are taken; see `TapRecorder`.
    """

    def __init__(
        self,
        model: nn.Module,
        addresses: Collection[TapAddress],
        where: str,
        keep: Collection[TapAddress] = (),
    ) -> None:
        self.model = model
        self._modes = [(module, module.training) for module in model.modules()]
        self._recorder = TapRecorder(model, addresses, where, keep)
        model.eval()

    def signals(self, inputs: Any, batch_size: int | None = None) -> Signals:
        """Run the teacher on one batch.

        Args:
            inputs: what it is given.
            batch_size: samples at a time, the last batch filled up. At one size a sample's
                signals do not depend on the samples beside it, to the last bit.

        Raises:
            TapError: a tapped module did not run, or ran more than once.
        """
        if any(module.training for module, _ in self._modes):
            self.model.eval()
        if batch_size is None:
            return self._run(inputs)
        count = len(tensors_in(inputs)[0])
        return Signals.join([self._run(part) for part in chunks(inputs, batch_size)], count)

    def _run(self, inputs: Any) -> Signals:
        with torch.no_grad():
            observation = self._recorder(inputs)
        heard = Signals(logits_of(observation.output), observation.activations)
        # A teacher may turn gradients on for itself.
        return heard.map(Tensor.detach)

    def release(self) -> None:
        """Take the hooks off the model and put its mode back."""
        self._recorder.remove()
        for module, training in self._modes:
            module.training = training
