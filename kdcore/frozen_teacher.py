"""A teacher in a run: frozen, in evaluation mode, never touched; it is asked here.

What teachers there are is in `teachers`.
"""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.adapters import FixedAdapter
from kdcore.execution import PLAIN, Execution
from kdcore.nested import chunks, in_one_layout, in_precision, tensors_in
from kdcore.signals import SignalKey, Signals
from kdcore.taps import TapAddress, TapRecorder, logits_of
from kdcore.teachers import TEACHER, MovingAverageTeacher, TeacherEnsemble

AnyTeacher = nn.Module | TeacherEnsemble | MovingAverageTeacher
"""What a teacher may be."""


class FrozenTeacher:
    """A model that is asked and never trained.

    Its weights, gradients and ``requires_grad`` flags are left alone; its mode is evaluation
    until `release`, which puts it back.

    Args:
        model: the teacher.
        wanted: what strategies want of it, each with the adapter that its key names.
        where: its name in errors.
        keep: taps to copy when they are taken; see `TapRecorder`.
        precision: floating-point type of what it says.
        execution: how its layers are computed.
    """

    def __init__(
        self,
        model: nn.Module,
        wanted: Mapping[SignalKey, FixedAdapter | None],
        where: str,
        keep: Collection[TapAddress] = (),
        precision: torch.dtype = torch.float32,
        execution: Execution = PLAIN,
    ) -> None:
        self.model = model
        self.wanted = dict(wanted)
        self.where = where
        self.keep = frozenset(keep)
        self.precision = precision
        self.execution = execution
        self._modes = [(module, module.training) for module in model.modules()]
        self._recorder = TapRecorder(model, [key.address for key in wanted], where, keep)
        if execution.backend is not None:
            self._recorder.compile(execution.backend)
        model.eval()

    def signals(self, inputs: Any, batch_size: int | None = None) -> Signals:
        """Run the teacher on one batch.

        Args:
            inputs: what it is given.
            batch_size: samples at a time, the last batch filled up. At one size a sample's
                signals do not depend on the samples beside it; for nearly all layers, to the
                last bit. (Of odd widths, a linear layer's last bits depend on the place.)

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
        device = tensors_in(inputs)[0].device
        # A teacher that draws random numbers even so must not take them from the student's stream.
        own = [device] if device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices=own):
            with self.execution.casting(device):
                observation = self._recorder(inputs)
            logits = logits_of(observation.output)
            return Signals(
                # A teacher may turn gradients on for itself.
                None if logits is None else in_precision(logits.detach(), self.precision),
                {
                    key: self._adapted(observation.activations[key.address].detach(), adapter)
                    for key, adapter in self.wanted.items()
                },
            )

    def _adapted(self, activation: Tensor, adapter: FixedAdapter | None) -> Tensor:
        activation = in_precision(activation, self.precision)
        if adapter is not None:
            with torch.autocast(activation.device.type, enabled=False):
                activation = adapter(activation)
        return in_one_layout(activation)

    def release(self) -> None:
        """Take the hooks off the model and put its mode back."""
        self._recorder.remove()
        for module, training in self._modes:
            module.training = training


def mean_of(ensemble: TeacherEnsemble, heard: Mapping[str, Signals]) -> Signals:
    """Return what an ensemble says, given what its members say.

    Args:
        ensemble: the ensemble.
        heard: by name; logits ``[batch, classes]``.
    """
    mean: Tensor | None = None
    for name, weight in ensemble.weights().items():
        logits = heard[name].logits
        assert logits is not None  # of models without logits no ensemble is made
        mean = weight * logits if mean is None else mean + weight * logits
    return Signals(mean, {})


def named(teacher: AnyTeacher | Mapping[str, AnyTeacher] | None) -> Mapping[str, AnyTeacher]:
    """Return teachers by name, as they may be handed over: none, one or several."""
    if teacher is None:
        return {}
    if isinstance(teacher, Mapping):
        return dict(teacher)
    return {TEACHER: teacher}


def models_of(teachers: Mapping[str, AnyTeacher]) -> dict[str, nn.Module]:
    """Return those teachers that are models."""
    return {name: each for name, each in teachers.items() if isinstance(each, nn.Module)}
