"""How the batches of a training come: made on the device, or by worker processes ahead of it.

Both ways give the same batches, bit for bit. Which samples a batch holds is decided in `order`.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from kdcore.data.source import Batch, Source, gathered
from kdcore.errors import SHOWN_SAMPLES, DataError, samples_text
from kdcore.files import size_text

MOST_WORKERS = 8

DIED = ("exited unexpectedly", "is killed by signal")
"""How PyTorch says that a worker has died."""


@dataclass(frozen=True)
class Plan:
    """The samples of one optimizer step.

    Attributes:
        parts: of each micro-batch of this process, ``int64 [batch]``, on the CPU.
        view: which view of them.
        samples: of the whole step, those of other processes included.
        idle: whether this process's are another's, and must not count.
    """

    parts: Sequence[Tensor]
    view: int
    samples: Tensor
    idle: bool = False


class Feed:
    """Turns plans of optimizer steps into batches.

    Args:
        source: the samples.
        device: where batches are wanted.
        workers: processes that make batches ahead; 0 to make them here when they are asked for.
        teacher: whether the teacher's inputs are wanted.
    """

    def __init__(
        self, source: Source, device: torch.device, *, workers: int = 0, teacher: bool = True
    ) -> None:
        self._source = source
        self._device = device
        self._workers = workers
        self._teacher = teacher

    def batches(self, plans: Iterable[Plan]) -> Iterator[list[Batch]]:
        """Make the batches of each step, in order.

        Raises:
            DataError: a worker died.
        """
        steps = _Steps(self._source, self._teacher)
        if not self._workers:
            for plan in plans:
                yield [batch.to(self._device) for batch in steps[plan]]
            return
        watched = _Watched(steps, self._workers)
        loader = DataLoader(
            watched,
            batch_size=None,
            sampler=plans,
            num_workers=self._workers,
            pin_memory=self._device.type == "cuda",
            # Otherwise it would draw from the stream that dropout draws from.
            generator=torch.Generator(),
        )
        try:
            for made in loader:
                if isinstance(made, Exception):
                    raise made
                yield [batch.to(self._device) for batch in made]
        except RuntimeError as error:
            if not any(words in str(error) for words in DIED):
                raise
            said = " ".join(str(error).split())
            raise DataError(
                f"a process that reads ahead died{watched.where(said)} ({said}); "
                "data.workers = 0 reads without"
            ) from error


class _Steps(Dataset[list[Batch]]):
    def __init__(self, source: Source, teacher: bool) -> None:
        self._source = source
        self._teacher = teacher

    def __getitem__(self, plan: Plan) -> list[Batch]:
        return [
            gathered(self._source, part, plan.view, teacher=self._teacher) for part in plan.parts
        ]


class _Watched(Dataset[list[Batch] | Exception]):
    """Notes what each worker is at, for when it dies, and hands failures over as they are.

    A loader would wrap them into a page of its own.
    """

    def __init__(self, steps: _Steps, workers: int) -> None:
        self._steps = steps
        # Of each worker its process, how many samples it is at, and the first of them.
        self._at = torch.zeros((workers, 2 + SHOWN_SAMPLES), dtype=torch.int64)
        self._at.share_memory_()  # type: ignore[no-untyped-call]  # as PyTorch has it

    def where(self, said: str) -> str:
        """Say at which samples those workers are whose process is named in a message."""
        named = set(map(int, re.findall(r"\d+", said)))
        found = [
            samples_text(row[2 : 2 + min(row[1], SHOWN_SAMPLES)], row[1])
            for row in self._at.tolist()
            if row[0] in named
        ]
        return f" at sample {' or '.join(found)}" if found else ""

    def __getitem__(self, plan: Plan) -> list[Batch] | Exception:
        worker = get_worker_info()
        assert worker is not None
        samples = torch.cat(list(plan.parts))
        row = self._at[worker.id]
        row[0], row[1] = os.getpid(), len(samples)
        row[2 : 2 + len(samples)] = samples[:SHOWN_SAMPLES]
        try:
            return self._steps[plan]
        except Exception as error:
            return error


def workers_for(in_memory: bool, asked: int | None) -> int:
    """Return how many processes shall make batches.

    Args:
        in_memory: whether images are decoded already.
        asked: how many the user wants; None to decide here.
    """
    if asked is not None:
        return asked
    return 0 if in_memory else min(MOST_WORKERS, os.cpu_count() or 1)


def describe_feed(in_memory: bool, nbytes: int, device: torch.device, workers: int) -> str:
    """Say in one line how batches come."""
    size = size_text(nbytes)
    if in_memory:
        where = "memory" if device.type == "cpu" else f"the memory of {device}"
        how = f"decoded once, kept in {where} ({size})"
    else:
        how = f"decoded whenever they are read ({size} would not be kept)"
    ahead = f"; {workers} processes read ahead" if workers else ""
    return f"images: {how}{ahead}"
