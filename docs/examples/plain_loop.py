"""Distil inside a plain PyTorch loop, with gradient accumulation that is exact.

    python docs/examples/plain_loop.py student.safetensors

Models and data are small and made up; put your own in `main`.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import kdcore

CLASSES = 4


def network(width: int) -> nn.Module:
    """Return a convolutional network for images ``[batch, 3, 8, 8]``."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(width * 16, CLASSES),
    )


def images_and_labels(count: int) -> tuple[Tensor, Tensor]:
    """Return images, and labels of which every third is unknown (-100)."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    images = torch.randn(count, 3, 8, 8, generator=generator)
    for image, label in zip(images, labels, strict=True):
        image[0, label * 2] += 2  # a class is a bright row
    labels[::3] = -100
    return images, labels


def distil(
    teacher: nn.Module,
    student: nn.Module,
    data: tuple[Tensor, Tensor],
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
    loader = DataLoader(TensorDataset(*data), batch_size, shuffle=True, generator=generator)
    # Hooks are taken off the models at the end of the block, whatever happens inside.
    with kdcore.Distiller(
        teacher, student, ["logits", "fitnets"], sample_input=data[0][:2]
    ) as distiller:
        # Student, adapters and what losses train: all of it, and nothing of the teacher.
        optimizer = torch.optim.Adam(distiller.parameters(), lr=1e-2)
        distiller.train()
        for epoch in range(epochs):
            distiller.epoch = epoch
            for images, labels in loader:
                optimizer.zero_grad()
                # The means of all micro-batches are divided by what the whole step holds. A mean
                # of their means would be another loss where they hold unequally many labels.
                counts = distiller.task.count(len(images), labels)
                parts = zip(images.split(micro_batch), labels.split(micro_batch), strict=True)
                for some_images, some_labels in parts:
                    losses = distiller(some_images, some_labels, counts=counts)
                    losses.total.backward()
                optimizer.step()
                distiller.advance()  # once a step: strategies' memory and step count follow


def main(file: Path) -> None:
    """Train a teacher, distil it, and save the student."""
    torch.manual_seed(0)
    images, labels = data = images_and_labels(64)
    teacher, student = network(16), network(4)
    known = labels >= 0
    optimizer = torch.optim.Adam(teacher.parameters(), lr=1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(teacher(images[known]), labels[known])
        torch.autograd.backward(loss)
        optimizer.step()
    distil(teacher, student, data, micro_batch=5)
    save_file(student.state_dict(), file)  # the student's weights alone
    network(4).load_state_dict(load_file(file))  # strictly: it fits the model as it was written


if __name__ == "__main__":
    main(Path(sys.argv[1]))
