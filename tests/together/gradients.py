"""Trains a few steps in float64 and writes down all gradients, losses and memory.

Run by one process, or by several together: ``python -m tests.together.gradients FOLDER``.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Generator, Tensor, nn
from torch.utils.data import TensorDataset

import kdcore
from kdcore import Distiller, Features, Segmentation, Setup, Task, hookimpl
from kdcore.data.source import DatasetSource
from kdcore.processes import joined
from kdcore.sections import TrainConfig
from kdcore.sharding import whole
from kdcore.testing import small_student, small_teacher
from kdcore.trainer import train
from kdcore_attention import Attention
from kdcore_contrastive import Contrastive
from kdcore_correlation import Correlation
from kdcore_relational import Relational
from kdcore_variational import Variational

SAMPLES = 16
BATCH = 5
"""Three batches of five, which cannot be shared evenly, and one sample: fewer than processes."""

Told = dict[str, Any]
ALL = "all"


class FixedContrastive(Contrastive):
    """Contrast with negatives that each sample always has: processes draw numbers of their own."""

    def _negatives(
        self,
        where: Mapping[str, Tensor],
        indices: Tensor,
        generator: Generator,  # noqa: ARG002
    ) -> Tensor:
        return (indices[:, None] + torch.arange(1, 6)) % len(where["order"])


class Maps(nn.Module):
    """A model that predicts a class a position: ``[batch, 3, height, width]`` to classes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, width, 3, 2), nn.ReLU(), nn.Conv2d(width, 4, 3, 2))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits


class Whole(Relational):
    """Relations between the samples of all processes."""

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> dict[str, Tensor]:
        def of_all(features: Features) -> Features:
            embedding = kdcore.gathered(features["embedding"])
            return Features({"embedding": (embedding,)}, features.logits)

        loss: dict[str, Tensor] = super().compute_auxiliary_loss(of_all(student), of_all(teacher))
        return loss


# Attention at a weight of one: its norms, times 1000, turn units in the last place into 2e-12.
CASES: dict[str, list[Any]] = {
    "student alone": [],
    "logits": ["logits"],
    "cosine": ["cosine"],
    "fitnets": ["fitnets"],
    "attention": [{"name": Attention, "weight": 1.0}],
    "variational": [Variational()],
    "correlation": [Correlation()],
    "contrastive": [FixedContrastive(negatives=5)],
    ALL: [
        *("logits", "cosine", "fitnets"),
        {"name": Attention, "weight": 1.0},
        FixedContrastive(negatives=5),
    ],
}

PIECES = ["logits", "cosine", "fitnets", Variational(), FixedContrastive(negatives=5)]
"""Not attention: its weight of 1000 makes a unit in the last place grow from step to step."""


def trained(
    entries: list[Any],
    accumulate: int = 1,
    task_weight: float = 0.75,
    student: nn.Module | None = None,
    few_labels: bool = False,
    shard: bool = False,
    task: Task | None = None,
    models: tuple[nn.Module, nn.Module] | None = None,
    targets: Tensor | None = None,
    before: Callable[[Distiller], object] = lambda _: None,
    observers: Sequence[Any] = (),
) -> Told:
    """Train two epochs; return gradients of each step, losses, weights and memory."""
    torch.manual_seed(0)
    images = torch.rand(SAMPLES, 3, 16, 16, dtype=torch.float64)
    targets = torch.arange(SAMPLES) % 5 if targets is None else targets
    if few_labels:
        targets[::2] = -100
    torch.manual_seed(1)
    own, teacher = models or (student or small_student(), small_teacher())
    own.double()
    teacher.double()
    told: Told = {"gradients": [], "losses": []}

    def note(parameters: Any, _: object) -> None:
        told["gradients"].append(
            [whole(each.grad).clone() for each in parameters if each.requires_grad]
        )

    class Listener:
        def on_step(self, record: Any) -> None:
            told["losses"].append(record.losses)

        def on_epoch(self, record: Any) -> None:
            told["scores"] = dict(record.scores)

    source = DatasetSource(TensorDataset(images, targets), "images", same_every_epoch=True)
    test = DatasetSource(TensorDataset(images, targets.clamp(min=0)), "test")
    config = TrainConfig(
        epochs=2, batch_size=BATCH, accumulate=accumulate, optimizer="sgd", lr=0.1, shard=shard
    )
    with (
        Distiller(
            teacher if entries else None,
            own,
            entries,
            task_weight=task_weight,
            sample_input=images[:2],
            setup=Setup(targets=targets),
            task=task,
        ) as distiller,
        patch("kdcore.trainer.clip", note),
    ):
        before(distiller)
        train(distiller, source, config, 7, test=test, observers=[Listener(), *observers])
        told["weights"] = [each.detach().clone() for each in distiller.parameters()]
        extra = distiller.get_extra_state()
        told["memory"] = extra["state"]
        told["buffers"] = {name: each.clone() for name, each in distiller.named_buffers()}
    return told


def main(folder: Path) -> None:
    """Write what cases give to a file of this process: all of them for up to two."""
    with joined(2.0) as processes:
        told: Told = {
            f"{name}, accumulate {accumulate}": trained(entries, accumulate)
            for name, entries in CASES.items()
            for accumulate in (1, 3)
            if processes.count <= 2 or name == ALL
        }
        told["few labels, accumulate 3"] = trained(["logits"], 3, few_labels=True)
        told["whole, accumulate 1"] = trained([Whole()])
        told["a tap alone, accumulate 1"] = trained(["fitnets"], task_weight=0.0)
        student = small_student()
        trained(["fitnets"], task_weight=0.0, student=student)
        told["a second stage, accumulate 1"] = trained(["logits"], student=student)
        voids = torch.arange(SAMPLES * 9).reshape(SAMPLES, 3, 3) % 4
        voids[voids.flatten().cumsum(0).reshape(voids.shape) % 3 == 0] = -100  # uneven rows
        voids[:, 0, 0] = 1  # a label in each
        torch.manual_seed(2)
        models = Maps(5), Maps(8)
        hints = {"name": "fitnets", "student_tap": "layers.1", "teacher_tap": "layers.1"}
        told["positions, accumulate 3"] = trained(
            ["logits", hints], 3, task=Segmentation(), models=models, targets=voids
        )
        several = processes.count > 1
        for accumulate in (1, 3):
            name = f"in pieces, accumulate {accumulate}"
            told[name] = trained(PIECES, accumulate, shard=several)
        torch.save(told, folder / f"{processes.count}-{processes.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
