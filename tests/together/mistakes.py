"""What goes wrong between processes, with the guards and without them.

``python -m tests.together.mistakes FOLDER``, in several processes together.
"""

import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from kdcore import Adapters, Distiller, Features, Shapes, Strategy, gathered, hookimpl
from kdcore.errors import KdcoreError
from kdcore.processes import here, joined
from kdcore.testing import small_student
from tests.together.gradients import SAMPLES, Told, trained


class Adapted(Strategy):
    """A loss with one trained layer of its own."""

    @hookimpl
    def adapt_shapes(self, student: Shapes) -> Adapters:
        return Adapters(modules={"layer": nn.Linear(student.logits[-1], 3)})

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, modules: Mapping[str, nn.Module]) -> Tensor:
        loss: Tensor = modules["layer"](student.logits).square().mean(1)
        return loss


class Bank(nn.Module):
    """Memory where it does not belong: in a buffer."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(SAMPLES))


class Remembering(Strategy):
    """Keeps what it saw in a module's buffer."""

    @hookimpl
    def adapt_shapes(self) -> Adapters:
        return Adapters(modules={"bank": Bank()})

    @hookimpl
    def compute_auxiliary_loss(
        self, student: Features, modules: Mapping[str, nn.Module], indices: Tensor
    ) -> Tensor:
        bank = modules["bank"]
        assert isinstance(bank, Bank)
        bank.seen[indices] = 1.0
        return student.logits.square().mean(1)


class WithSpare(nn.Module):
    """A student with a layer that it never uses."""

    def __init__(self) -> None:
        super().__init__()
        self.used = small_student()
        self.spare = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.used(x)
        return logits


class Queue(Strategy):
    """Writes a whole tensor of what this process saw."""

    @hookimpl
    def adapt_shapes(self, student: Shapes) -> Adapters:
        return Adapters(state={"mean": torch.zeros(student.logits[-1])})

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, state: Any) -> Tensor:
        state.write("mean", student.logits.detach().mean(0))
        return student.logits.square().mean(1)


def message(work: Callable[[], object]) -> str:
    """Return with what something is refused; empty where it is not."""
    try:
        work()
    except KdcoreError as error:
        return str(error)
    return ""


class Mean(Strategy):
    """Writes a whole tensor of what all processes saw."""

    @hookimpl
    def adapt_shapes(self, student: Shapes) -> Adapters:
        return Adapters(state={"mean": torch.zeros(student.logits[-1])})

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, state: Any) -> Tensor:
        state.write("mean", gathered(student.logits.detach()).mean(0))
        return student.logits.square().mean(1)


class Outside:
    """Hides a strategy's layer from the unit, as an attribute of the strategy would."""

    def __init__(self) -> None:
        self.layer: nn.Module = nn.Identity()

    def __call__(self, distiller: Distiller) -> None:
        self.layer = distiller.strategies["adapted"]
        held = [*distiller.parameters()]
        distiller.strategies = nn.ModuleDict()
        self.optimizer = torch.optim.SGD(held, lr=0.1, momentum=0.9, fused=True)

    def train(self) -> list[Tensor]:
        """Train with it; return the layer's weights."""
        with patch("kdcore.trainer.build_optimizer", lambda *_: self.optimizer):
            trained([Adapted()], before=self)
        return [each.detach().clone() for each in self.layer.parameters()]


class Unfreezing:
    """Freezes a layer after the first epoch has begun."""

    def __init__(self) -> None:
        self.student = small_student()

    def on_step(self, record: object) -> None: ...

    def on_epoch(self, _: object) -> None:
        self.student.head.requires_grad_(False)

    def train(self) -> object:
        """Train with it."""
        return trained(["logits"], student=self.student, observers=[self])


def mean_of_means() -> Told:
    """Train with losses divided by each process's own samples, and the mean of gradients."""
    forward = Distiller.forward

    def alone(self: Distiller, *args: Any, counts: object = None, **kwargs: Any) -> Any:  # noqa: ARG001
        return forward(self, *args, **kwargs)

    def averaged(_, bucket):  # type: ignore[no-untyped-def]  # PyTorch looks at annotations
        bucket.buffer().div_(here().count)
        reduced = torch.distributed.all_reduce(bucket.buffer(), async_op=True)
        return reduced.get_future().then(lambda done: done.value()[0])

    with (
        patch.object(Distiller, "forward", alone),
        patch("kdcore.parallel._summed", averaged),
    ):
        return trained(["fitnets"])


def main(folder: Path) -> None:
    """Write what comes of each mistake to a file of this process."""
    with joined(2.0) as processes:
        told: Told = {"outside refused": message(Outside().train)}
        with patch("kdcore.trainer.check_inside", lambda *_: None):
            told["outside"] = Outside().train()
        told["bank refused"] = message(lambda: trained([Remembering()]))
        with patch("kdcore.auxiliary.nothing_remembered", lambda _: nullcontext()):
            told["bank"] = trained([Remembering()])["buffers"]
        told["whole state refused"] = message(lambda: trained([Queue()]))
        told["whole state of all"] = trained([Mean()])["memory"]
        targets = (torch.arange(SAMPLES) + processes.rank) % 5
        told["other data refused"] = message(lambda: trained(["logits"], targets=targets))
        told["frozen refused"] = message(Unfreezing().train)
        told["means"] = mean_of_means()
        told["spare refused"] = message(lambda: trained(["logits"], student=WithSpare()))
        torch.save(told, folder / f"{processes.count}-{processes.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
