"""The second of two processes dies, or does not answer: ``python -m tests.together.lost HOW``."""

import os
import signal
import sys
import time

import torch

from kdcore.errors import RunError
from kdcore.processes import joined

TIMEOUT = 0.05
"""Minutes."""


def main(how: str) -> int:
    """Return the exit code, and say why on the standard error stream."""
    try:
        with joined(TIMEOUT) as processes:
            processes.summed(torch.ones(1))
            if not processes.first:
                if how == "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(60 * 2 * TIMEOUT)
                return 0
            processes.summed(torch.ones(1))
    except RunError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    # Not by way of the interpreter's end, which would wait for threads of the group.
    sys.stderr.flush()
    os._exit(main(sys.argv[1]))
