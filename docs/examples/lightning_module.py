"""Distil inside Lightning's `Trainer`, with gradient accumulation that is exact.

    python docs/examples/lightning_module.py student.safetensors

Models and data are small and made up; put your own in `main`.
"""

import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, TensorDataset

import kdcore

CLASSES = 4


class Network(nn.Module):
    """A small convolutional network for images ``[batch, 3, 8, 8]``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.classifier = nn.Linear(width * 16, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``[batch, classes]``."""
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits


def images_and_labels(count: int) -> TensorDataset:
    """Return images, and labels of which every third is unknown (-100)."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    images = torch.randn(count, 3, 8, 8, generator=generator)
    for image, label in zip(images, labels, strict=True):
        image[0, label * 2] += 2  # a class is a bright row
    labels[::3] = -100
    return TensorDataset(images, labels)


class Distillation(pl.LightningModule):  # type: ignore[misc]  # has no types that are checked
    """A `kdcore.Distiller` as Lightning trains it.

    Its batches are those of whole optimizer steps, which it cuts itself: Lightning's own
    accumulation divides the losses of micro-batches by their number, whatever they hold.

    Args:
        distiller: holds student, teacher and strategies; only the first and what strategies train
            are parameters, and are saved.
        micro_batch: samples in memory at a time; any number from 1 gives the same student,
            unless layers or methods relate samples of a batch (batch normalisation, say), or
            several samples write one row of a method's memory.
    """

    def __init__(self, distiller: kdcore.Distiller, micro_batch: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.distiller = distiller
        self.micro_batch = micro_batch

    def configure_optimizers(self) -> optim.Optimizer:
        """Return an optimizer of student, adapters and what losses train."""
        return optim.Adam(self.distiller.parameters(), lr=1e-2)

    def on_train_epoch_start(self) -> None:
        """Say which epoch it is, for weights and strategies that depend on it."""
        self.distiller.epoch = self.current_epoch

    def training_step(self, batch: Any, _: int) -> None:
        """Take one optimizer step."""
        images, labels = batch
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        counts = self.distiller.task.count(len(images), labels)  # of the whole step
        parts = zip(images.split(self.micro_batch), labels.split(self.micro_batch), strict=True)
        for some_images, some_labels in parts:
            losses = self.distiller(some_images, some_labels, counts=counts)
            self.manual_backward(losses.total)
        optimizer.step()
        self.distiller.advance()  # once a step: strategies' memory and step count follow


def distil(
    teacher: nn.Module,
    student: nn.Module,
    data: TensorDataset,
    *,
    batch_size: int = 16,
    micro_batch: int = 16,
    epochs: int = 2,
) -> None:
    """Train the student in place.

    Args:
        teacher: the model to learn from; it stays as it is.
        student: the model to train.
        data: images and labels.
        batch_size: samples of an optimizer step.
        micro_batch: samples in memory at a time; any number from 1 gives the same student,
            unless layers or methods relate samples of a batch (batch normalisation, say), or
            several samples write one row of a method's memory.
        epochs: passes over the data.
    """
    generator = torch.Generator().manual_seed(0)
    loader = DataLoader(data, batch_size, shuffle=True, generator=generator)
    with kdcore.Distiller(
        teacher, student, ["logits", "fitnets"], sample_input=data[:2][0]
    ) as distiller:
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Distillation(distiller, micro_batch), loader)


def main(file: Path) -> None:
    """Distil, and save the student."""
    torch.manual_seed(0)
    teacher, student = Network(16), Network(4)  # a real teacher was trained before
    distil(teacher, student, images_and_labels(64), micro_batch=5)
    save_file(student.state_dict(), file)  # the student's weights alone
    Network(4).load_state_dict(load_file(file))  # strictly: it fits the model as it was written


if __name__ == "__main__":
    main(Path(sys.argv[1]))
