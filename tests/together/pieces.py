"""Trains a student in pieces, stops and continues: ``python -m tests.together.pieces FOLDER``."""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from kdcore import Distiller, Setup
from kdcore.data.source import DatasetSource
from kdcore.execution import in_best_layout
from kdcore.processes import joined
from kdcore.saving import Saver
from kdcore.sections import CheckpointConfig, TrainConfig
from kdcore.sharding import spread
from kdcore.testing import small_student, small_teacher
from kdcore.trainer import train

SAMPLES = 16

STOPS = (1, 2, 4)
"""Optimizer steps, of six; after the second one an epoch is yet to be measured."""


class StopError(Exception):
    """The training is stopped here."""


class Stopping:
    """Stops at a step."""

    def __init__(self, step: int | None) -> None:
        self.step = step

    def on_step(self, record: Any) -> None:
        if record.step == self.step:
            raise StopError

    def on_epoch(self, record: Any) -> None: ...


class Normal(nn.Module):
    """A student with running statistics and a parameter of its own, beside its children."""

    def __init__(self) -> None:
        super().__init__()
        self.body = small_student()
        self.norm = nn.BatchNorm1d(5)
        self.scale = nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.norm(self.body(x)) * self.scale
        return logits


def _train(folder: Path | None, stop: int | None = None) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    images, targets = torch.rand(SAMPLES, 3, 16, 16), torch.arange(SAMPLES) % 5
    source = DatasetSource(TensorDataset(images, targets), "images", same_every_epoch=True)
    torch.manual_seed(1)
    student, teacher = in_best_layout(Normal()), in_best_layout(small_teacher())
    config = TrainConfig(
        epochs=3, batch_size=8, accumulate=2, shard=True, weight_average=0.9, clip_norm=1.0
    )
    saver = folder and Saver(folder, CheckpointConfig(steps=1), {"one": 1})
    with Distiller(
        teacher, student, ["logits", "fitnets"], sample_input=images[:2], setup=Setup()
    ) as distiller:
        history = train(
            distiller,
            source,
            config,
            3,
            test=source,
            validation=source,
            observers=[Stopping(stop)],
            saver=saver or None,
        )
    return student, history


def main(folder: Path) -> None:
    """Write what comes of it to a file of this process."""
    with joined(2.0) as processes:
        whole, history = _train(None)
        told: dict[str, Any] = {
            "weights": whole.state_dict(),
            "best": history.best_weights,
            "losses": [record.loss for record in history.epochs],
            "classes": [type(module).__name__ for module in whole.modules()],
            "hooks": [len(module._forward_hooks) for module in whole.modules()],
            "state": [sorted(vars(module)) for module in whole.modules()],
            "strides": [each.stride() for each in whole.parameters()],
            "plain": [type(parameter) is nn.Parameter for parameter in whole.parameters()],
        }
        for stop in STOPS:
            try:
                _train(folder / f"saved{stop}", stop)
            except StopError:
                student, again = _train(folder / f"saved{stop}")
                told[f"continued from {stop}"] = student.state_dict()
                told[f"losses from {stop}"] = [record.loss for record in again.epochs]
        told["alone"] = whole.eval()(torch.ones(2, 3, 16, 16)).detach()
        spread(whole, torch.device("cpu"), processes.count)
        told["spread again"] = whole(torch.ones(2, 3, 16, 16)).detach()
        torch.save(told, folder / f"{processes.count}-{processes.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
