"""A run whose teacher is in pieces: ``python -m tests.together.asked FOLDER``."""

import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from kdcore.configfile import as_run
from kdcore.context import RunContext
from kdcore.files import load_weights, save_weights
from kdcore.job import STUDENT_WEIGHTS
from kdcore.models.tutorial import LightNN
from kdcore.processes import Processes, joined
from kdcore.run import run_student
from kdcore.sharding import is_spread, local
from kdcore.teacher_runs import run_teachers

MODES = ("off", "memory", "disk", "disk again")

SAMPLES = 230
"""Of which the last round of what is asked ahead has batches for two of three processes."""


def _run(folder: Path, mode: str, *, shard: bool) -> dict[str, Any]:
    tree = {
        "data": {"name": "digits", "limit": SAMPLES},
        "teacher": {
            "model": "lightnn",
            "weights": str(folder / "teacher.safetensors"),
            "shard": shard,
        },
        "student": {"model": "lightnn"},
        "train": {"epochs": 2, "batch_size": 50},
        "strategies": [{"name": "logits", "weight": 0.5}, {"name": "cosine"}],
        "cache": {"mode": mode.partition(" ")[0], "folder": str(folder / "cache")},
    }
    # Each in a folder of its own, or the second would take the first one's student.
    out = folder / f"{mode} {shard}"
    context = RunContext(as_run(tree, "here"), out, Console(quiet=True))
    teachers = run_teachers(context, 42)
    (teacher,) = teachers.values()
    result = run_student(context, 42, "student", context.experiment.plans[0], teachers)
    student = LightNN()
    load_weights(student, Path(result.folder) / STUDENT_WEIGHTS, "student")
    return {
        "weights": student.state_dict(),
        "scores": dict(teacher.result.scores),
        "fingerprint": teacher.identity.fingerprint,
        "spread": is_spread(teacher.model),
        "held": _held(teacher.model),
    }


def _held(model: nn.Module) -> int:
    return sum(local(each).numel() for each in model.parameters())


def main(folder: Path, processes: Processes) -> None:
    """Write what comes of it to a file of this process."""
    if processes.first:
        torch.manual_seed(1)
        save_weights(folder / "teacher.safetensors", LightNN().state_dict())
    processes.agreed(None)
    told = {mode: _run(folder, mode, shard=True) for mode in MODES}
    told["whole"] = _run(folder, "memory", shard=False)
    torch.save(told, folder / f"{processes.count}-{processes.rank}.pt")


if __name__ == "__main__":
    with joined(2.0) as here:
        main(Path(sys.argv[1]), here)
