"""Random numbers that depend on what they are for, and on nothing that was drawn before.

A stream is named: the seed of the run and the purpose give the seed of the stream. Initial weights
and dropout alone draw from the global one, which starts from the run's seed.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

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
