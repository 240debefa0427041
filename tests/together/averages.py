"""Trains a student that its own average teaches, and writes down weights and average.

Run by one process, or by several together: ``python -m tests.together.averages FOLDER``.
"""

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from unittest.mock import patch

import torch
from torch import nn
from torch.utils.data import TensorDataset

from kdcore import Distiller, MovingAverageTeacher
from kdcore.data.source import DatasetSource
from kdcore.processes import Processes, joined
from kdcore.sections import TrainConfig
from kdcore.trainer import train
from tests.together.gradients import Told

SAMPLES = 20


def trained(statistics: bool) -> Told:
    """Train two epochs in batches of five; return the student and its average."""
    torch.manual_seed(0)
    inputs = torch.randn(SAMPLES, 4, dtype=torch.float64)
    source = DatasetSource(
        TensorDataset(inputs, torch.arange(SAMPLES) % 3), "data", same_every_epoch=True
    )
    middle = nn.BatchNorm1d(6) if statistics else nn.Tanh()
    student = nn.Sequential(nn.Linear(4, 6), middle, nn.Linear(6, 3)).double()
    config = TrainConfig(epochs=2, batch_size=5, optimizer="sgd", lr=0.1)
    entry = {"name": "logits", "teacher": "self"}
    teachers = {"self": MovingAverageTeacher(0.5)}
    with Distiller(teachers, student, [entry], sample_input=inputs) as distiller:
        train(distiller, source, config, 3)
        average = distiller.moving["self"].model.state_dict()
        return {"student": dict(student.state_dict()), "average": dict(average)}


def main(folder: Path) -> None:
    """Write what each process came to."""
    with joined(60) as processes:
        apart: AbstractContextManager[object] = patch("kdcore.moving.here", Processes)
        told: Told = {}
        for name, statistics, how in (
            ("plain", False, nullcontext()),
            ("statistics", True, nullcontext()),
            ("apart", True, apart),
        ):
            with how:
                told[name] = trained(statistics)
        torch.save(told, folder / f"{processes.count}-{processes.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
