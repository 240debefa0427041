"""Random numbers that depend on what they are for, and on nothing that was drawn before.

A stream is named: the seed of the run and the purpose give the seed of the stream. Initial weights
and dropout alone draw from the global one, which starts from the run's seed.
"""

import hashlib
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Return the seed, below 2**63, of the stream that serves one purpose in a run."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *purpose: str | int, device: torch.device | None = None) -> torch.Generator:
    """Return a generator for one purpose; equal arguments give equal numbers."""
    generator = torch.Generator(device=device or torch.device("cpu"))
    generator.manual_seed(derive_seed(seed, *purpose))
    return generator


@contextmanager
def isolated(seed: int, *purpose: str | int) -> Iterator[None]:
    """Seed the global CPU stream for one purpose, and put it back as it was afterwards.

    Modules initialise their weights from the global stream; inside this block they neither
    depend on what was drawn before nor change what is drawn after.
    """
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: that would seed the streams of all devices, too.
        torch.default_generator.manual_seed(derive_seed(seed, *purpose))
        yield


def seed_all(seed: int) -> None:
    """Seed the global random streams: PyTorch's, Python's and NumPy's."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def random_state(device: torch.device) -> dict[str, object]:
    """Return where the global random streams are: PyTorch's, Python's and NumPy's.

    Args:
        device: whose stream is remembered beside the CPU's.
    """
    kind, words, *rest = np.random.get_state(legacy=True)
    state: dict[str, object] = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(words, np.int64)), *rest),
    }
    if device.type == "cuda":
        state["device"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Put the global random streams where `random_state` found them."""
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    kind, words, *rest = state["numpy"]
    np.random.set_state((kind, words.numpy().astype(np.uint32), *rest))
    if device.type == "cuda" and "device" in state:
        torch.cuda.set_rng_state(state["device"], device)
