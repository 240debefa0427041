"""A teacher in a run: frozen, in evaluation mode, never touched; and what it tells.

Nobody downstream knows whether signals were computed just now.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

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

    def signals(self, inputs: Any) -> Signals:
        """Run the teacher on one batch.

        Raises:
            TapError: a tapped module did not run, or ran more than once.
        """
        if self.model.training:
            self.model.eval()
        with torch.no_grad():
            observation = self._recorder(inputs)
        return Signals(logits_of(observation.output), observation.activations)

    def release(self) -> None:
        """Take the hooks off the model and put its mode back."""
        self._recorder.remove()
        for module, training in self._modes:
            module.training = training
