"""Processes on a store that outlives them: ``python -m tests.together.again SECONDS``.

All but the first wait so long before they join.
"""

import os
import signal
import sys
import time

import torch
import torch.distributed as dist

from kdcore.processes import here, joined


def main(seconds: float) -> None:
    """Join, count all processes, and be lost."""
    if os.environ["RANK"] != "0":
        time.sleep(seconds)
    with joined(3.0):
        _count()


def _count() -> None:
    print(int(here().summed(torch.ones(1))), flush=True)  # noqa: T201
    dist.barrier()
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(float(sys.argv[1]))
