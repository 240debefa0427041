"""Processes that start anew find each other, not those before them."""

import signal
from datetime import timedelta

import pytest
import torch.distributed as dist

from tests.together.launch import together

pytestmark = pytest.mark.slow


def _twice() -> list[list[tuple[int, str]]]:
    """Let two processes join and be lost, then two more, on one store as `torchrun` keeps it."""
    store = dist.TCPStore(  # type: ignore[attr-defined]  # exported, but not said to be
        "127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=30), wait_for_workers=False
    )
    kept = {"MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    return [
        [
            (each.returncode, each.stdout + each.stderr)
            for each in together(["-m", "tests.together.again", wait], 2, kept)
        ]
        for wait in ("0", "5")
    ]


def test_those_who_start_anew_do_not_ask_those_who_are_gone() -> None:
    for attempt in _twice():
        assert attempt == [(-signal.SIGKILL, "2\n")] * 2
