"""Keeps what a teacher says, in memory and on disk: ``python -m tests.together.keeping FOLDER``."""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from kdcore import Distiller
from kdcore.asking import Identity, Request
from kdcore.cache import SignalCache
from kdcore.data.source import DatasetSource
from kdcore.processes import joined
from kdcore.sections import CacheConfig
from kdcore.testing import small_student, small_teacher

CPU = torch.device("cpu")
SAMPLES = 22


class Source(DatasetSource):
    """Samples that know what they are."""

    @property
    def fingerprint(self) -> str:
        return "numbers"


class Counting(nn.Module):
    """A teacher that counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.model = small_teacher()
        self.asked = 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        logits: Tensor = self.model(x)
        return logits


def main(folder: Path) -> None:
    """Write what is kept, and how often the teacher was asked, to a file of this process."""
    told: dict[str, Any] = {}
    with joined(2.0) as processes:
        for mode in ("memory", "disk", "disk again"):
            torch.manual_seed(0)
            images = torch.rand(SAMPLES, 3, 16, 16)
            torch.manual_seed(1)
            student, teacher = small_student(), Counting()
            source = Source(
                TensorDataset(images, torch.arange(SAMPLES) % 5), "x", same_every_epoch=True
            )
            config = CacheConfig.model_validate(
                {"mode": mode.partition(" ")[0], "folder": folder / f"cache{processes.count}"}
            )
            notes: list[str] = []
            with Distiller(teacher, student, ["logits", "fitnets"], sample_input=images[:2]) as d:
                before = teacher.asked
                identities = {"teacher": Identity("the one")}
                request = Request(d.teachers, source, 4, CPU, {}, identities)
                signals = SignalCache(config, notes.append).source(request)
                told[f"{mode}: asked"] = teacher.asked - before
                heard = signals.signals(source.batch(torch.arange(SAMPLES)))["teacher"]
                told[mode] = {name: tensor.clone() for name, tensor in heard.named()}
                told[f"{mode}: notes"] = notes
        torch.save(told, folder / f"{processes.count}-{processes.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
