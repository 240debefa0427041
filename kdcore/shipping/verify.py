"""Whether an exported file gives what the student gives."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kdcore.tasks import Classification, Task

FIRST_BATCHES = (1, 2, 5)
"""Sizes of the first batches, so that a file that knows one size alone is found."""

BATCH = 32


def batches(samples: int) -> Iterator[Tensor]:
    """Go through the indices of some samples, in batches of several sizes."""
    start = 0
    sizes = iter(FIRST_BATCHES)
    while start < samples:
        size = min(next(sizes, BATCH), samples - start)
        yield torch.arange(start, start + size)
        start += size


@dataclass(frozen=True)
class Finding:
    """How the logits of a file compare with the student's.

    Attributes:
        max_difference: the largest of a logit; infinite where one of both is no number.
        largest_logit: of the student, without its sign.
        agreement: share of the samples in per cent whose largest logit is of the same class; None
            of a task without one class a sample.
        scores: of the file, by name.
    """

    max_difference: float
    largest_logit: float
    agreement: float | None
    scores: dict[str, float]


class Comparison:
    """Adds up over batches how a file compares with the student.

    Args:
        task: of the student.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._difference = self._largest = 0.0
        self._agreed = self._samples = 0
        self._tally: Tensor | None = None

    def add(self, found: Tensor, expected: Tensor, targets: Tensor) -> None:
        """Compare one batch.

        Args:
            found: the file's logits, ``[batch, ...]``.
            expected: the student's.
            targets: as the task has them.
        """
        if found.shape != expected.shape:
            self._difference = float("inf")
            return
        apart = (found.double() - expected.double()).abs()
        self._difference = max(self._difference, _largest(apart))
        self._largest = max(self._largest, _largest(expected.double().abs()))
        self._samples += len(expected)
        if isinstance(self._task, Classification):
            self._agreed += int((found.argmax(1) == expected.argmax(1)).sum())
        if self._task.metrics:
            tally = self._task.tally(found.float(), targets)
            self._tally = tally if self._tally is None else self._tally + tally

    def finding(self) -> Finding:
        """Return what all batches came to."""
        classes = isinstance(self._task, Classification) and self._samples
        return Finding(
            self._difference,
            self._largest,
            100 * self._agreed / self._samples if classes else None,
            {} if self._tally is None else self._task.scores(self._tally),
        )


def _largest(values: Tensor) -> float:
    """Return the largest of some values; infinity where one is no number."""
    return float(values.nan_to_num(nan=torch.inf, posinf=torch.inf).max())
