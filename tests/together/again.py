"""Processes on a store that outlives them: ``python -m tests.together.again HOW SECONDS``.

HOW is ``met`` or ``plain`` (as PyTorch does it by itself); all but the first wait before they join.
"""

import os
import signal
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist

from kdcore.processes import here, joined


def main(how: str, seconds: float) -> None:
    """Join, count all processes, and be lost."""
    if os.environ["RANK"] != "0":
        time.sleep(seconds)
    if how == "plain":
        dist.init_process_group("gloo", timeout=timedelta(seconds=10))
        _count()
    with joined(0.5):
        _count()


def _count() -> None:
    print(int(here().summed(torch.ones(1))), flush=True)  # noqa: T201
    dist.barrier()
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
