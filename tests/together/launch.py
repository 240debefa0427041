"""Starts processes that work together, as `torchrun` would, without its agent."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]


def together(
    command: Sequence[str],
    count: int = 2,
    environment: Mapping[str, str] | None = None,
    timeout: float = 240,
) -> list[subprocess.CompletedProcess[str]]:
    """Run ``python COMMAND...`` in so many processes and return how each ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        **os.environ,
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        **(environment or {}),
    }
    running = [
        subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    ended = []
    try:
        for process in running:
            out, err = process.communicate(timeout=timeout)
            ended.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    finally:
        for process in running:
            process.kill()
            process.wait()
    return ended


def run_together(work: str, folder: Path, count: int) -> list[dict[str, Any]]:
    """Run a module of this package together; return what each process wrote down."""
    ended = together(["-m", f"tests.together.{work}", str(folder)], count)
    assert [each.returncode for each in ended] == [0] * count, ended[0].stderr + ended[-1].stderr
    return [torch.load(folder / f"{count}-{rank}.pt") for rank in range(count)]
