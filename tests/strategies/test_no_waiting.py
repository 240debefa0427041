"""A step never asks the device for a number, so that a GPU is never waited for.

All that would make the host wait is refused while a step is taken.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kdcore import Distiller, Features, Setup, Strategy, hookimpl
from kdcore.averaging import WeightAverage
from kdcore.data.source import Batch
from kdcore.errors import StrategyError
from kdcore.listening import KeptSignals, LiveSignals, SignalSource, array_name, stored
from kdcore.optimizers import build_optimizer, clip, step_unless
from kdcore.readings import Readings
from kdcore.sections import TrainConfig
from kdcore.testing import small_student, small_teacher
from tests import shipped

ALL: list[Any] = [*shipped.SHIPPED]


LOOK: dict[str, Callable[[Tensor], object]] = {}


class Curious(Strategy):
    """Looks at a number in its loss."""

    @hookimpl
    def compute_auxiliary_loss(self, student: Features) -> Tensor:
        loss = student.logits.square().mean(1)
        LOOK["at"](loss)
        return loss


class NoWaiting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses operations whose result the host would have to wait for."""

    waits: ClassVar[set[str]] = {"_local_scalar_dense", "nonzero", "masked_select", "unique"}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if name in self.waits or name.startswith(("_unique", "equal")):
            raise RuntimeError(f"{name} waits for the device")
        masks = [each for each in tree_leaves(args) if isinstance(each, Tensor)][1:]
        if name.startswith("index") and any(each.dtype == torch.bool for each in masks):
            raise RuntimeError("a mask waits for the device")
        return func(*args, **(kwargs or {}))


def _step(
    strategies: list[Any], monkeypatch: pytest.MonkeyPatch, optimizer_name: str = "adam"
) -> None:
    config = TrainConfig.model_validate({"clip_norm": 1.0, "optimizer": optimizer_name})
    inputs, targets = torch.randn(8, 3, 16, 16), torch.arange(8) % 5
    batch = Batch(inputs, inputs, targets, torch.arange(8))
    setup = Setup(targets=torch.arange(24) % 5)
    distiller = Distiller(
        small_teacher(), small_student(), strategies, sample_input=inputs, setup=setup
    )
    optimizer = build_optimizer(distiller.train(), config)
    readings = Readings(10, torch.device("cpu"), every=100)
    average = WeightAverage(distiller.student, 0.9)
    live = LiveSignals(distiller.teachers, 4)
    arrays = {
        array_name(name, each): stored(tensor).contiguous()
        for name, heard in live.signals(batch).items()
        for each, tensor in heard.named()
    }
    kept = KeptSignals(arrays, distiller.teachers, 8, torch.device("cpu"))

    def no_list(_: Tensor) -> None:
        raise RuntimeError("tolist waits for the device")

    monkeypatch.setattr(Tensor, "tolist", no_list)
    with distiller, NoWaiting():  # type: ignore[no-untyped-call]
        sources: tuple[SignalSource, ...] = (live, kept)
        for step, signals in enumerate(sources):
            optimizer.zero_grad()
            losses = distiller(
                inputs, targets, indices=batch.indices, signals=signals.signals(batch)
            )
            losses.total.backward()
            readings.add(0, step, batch.indices, {"total": losses.total, **losses.auxiliary})
            clip(distiller.parameters(), config.clip_norm)
            step_unless(optimizer, readings.stopped)
            distiller.advance()
            average.update()


@pytest.mark.parametrize("strategy", ALL, ids=str)
def test_no_method_and_nothing_of_the_core_waits(
    strategy: Strategy | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _step([strategy], monkeypatch)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "muon", "sgd"])
def test_all_at_once_do_not_wait(optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _step(ALL, monkeypatch, optimizer)


@pytest.mark.parametrize(
    ("look", "word"),
    [
        (lambda loss: float(loss.sum()), "_local_scalar_dense"),
        (lambda loss: bool(loss.isnan().any()), "_local_scalar_dense"),
        (lambda loss: loss[loss > 0], "a mask"),
        (lambda loss: loss.detach().tolist(), "tolist"),
    ],
)
def test_who_looks_at_a_number_is_found_out(  # the control
    look: Callable[[Tensor], object], word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOOK, "at", look)
    with pytest.raises(StrategyError, match=f"{word} waits for the device"):
        _step([Curious()], monkeypatch)
