"""One small batch through a model in evaluation mode: what ran, with what shapes.

What is concluded from it is elsewhere: automatic taps in `automatic`, adapters in the strategies.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.errors import TapError
from kdcore.nested import tensors_in
from kdcore.taps import OtherClasses, TapAddress, TapRecorder, logits_of, run_model, tensor_of

PROBE_SAMPLES = 2


@dataclass(frozen=True)
class ModuleCall:
    """One module that ran exactly once: its name, and the first tensor it took and returned."""

    name: str
    module: nn.Module
    input: Tensor | None
    output: Tensor | None


@dataclass(frozen=True)
class Trace:
    """What ran in one forward pass.

    Attributes:
        where: whose pass it was: ``"student"``, ``"teacher"``.
        calls: the modules that ran once, in the order in which they finished.
        repeated: names of those that ran more than once.
        inputs: the tensors that the model was given.
        logits: the logits, where its output holds any.
    """

    where: str
    calls: tuple[ModuleCall, ...]
    repeated: tuple[str, ...]
    inputs: tuple[Tensor, ...]
    logits: Tensor | None


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode without gradients, and each module back as it was.

    A model that draws random numbers even so leaves the global stream as it found it.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, training in modes:
            module.training = training


def trace(model: nn.Module, inputs: Any, where: str) -> Trace:
    """Run a model once and record every module that ran."""
    calls: list[ModuleCall] = []

    def hook(name: str) -> Any:
        def record(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object
        ) -> None:
            taken = args[0] if args else next(iter(kwargs.values()), None)
            calls.append(ModuleCall(name, module, _tensor_or_none(taken), _tensor_or_none(output)))

        return record

    handles = [
        module.register_forward_hook(hook(name), with_kwargs=True)
        for name, module in model.named_modules()
        if name
    ]
    try:
        with evaluating(model):
            output = run_model(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    names = [call.name for call in calls]
    repeated = tuple(dict.fromkeys(name for name in names if names.count(name) > 1))
    once = tuple(call for call in calls if call.name not in repeated)
    if isinstance(output, OtherClasses):  # where a model's head is does not depend on its classes
        output = output.output
    return Trace(where, once, repeated, tensors_in(inputs), logits_of(output))


def _tensor_or_none(value: object) -> Tensor | None:
    try:
        return tensor_of(value, None, "")
    except TapError:
        return None


@dataclass(frozen=True)
class Probed:
    """What a probe told of one model.

    Attributes:
        shapes: of the activation at each tap, batch first.
        logits: shape of the logits, None where the output holds none.
        keep: taps that must be copied when they are taken.
    """

    shapes: Mapping[TapAddress, torch.Size]
    logits: torch.Size | None
    keep: frozenset[TapAddress]


def probe(model: nn.Module, inputs: Any, addresses: tuple[TapAddress, ...], where: str) -> Probed:
    """Run a small batch through a model and report the shapes at its taps.

    Raises:
        TapError: a tap does not exist, did not run, ran more than once or is no tensor.
    """
    recorder = TapRecorder(model, addresses, where)
    try:
        with evaluating(model):
            observation = recorder.observe(inputs)
    finally:
        recorder.remove()
    logits = logits_of(observation.output)
    # Dropout with inplace=True overwrites in training alone, where a probe cannot see it.
    risky = any(
        isinstance(module, nn.modules.dropout._DropoutNd) and module.inplace
        for module in model.modules()
    )
    return Probed(
        {address: tensor.shape for address, tensor in observation.activations.items()},
        None if logits is None else logits.shape,
        frozenset(addresses) if risky else observation.overwritten,
    )
