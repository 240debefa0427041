"""Measuring fairly: in turns, as ratios with their spread, with the machine beside them.

What is measured is elsewhere: nothing here knows of models or of PyTorch.
"""

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

Contender = Callable[[], float]
"""Does its work once and returns what it took, in seconds."""


@dataclass(frozen=True)
class Spread:
    """Several measurements of one quantity: their median and their ends."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the spread of one or more values."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Result:
    """One line of a benchmark.

    Attributes:
        case: the case that it belongs to.
        what: what was measured, in words.
        unit: of the values.
        values: one a repeat.
        seconds: what each contender took, one a repeat; empty where it is not what the values
            are made of.
        facts: what else was seen.
    """

    case: str
    what: str
    unit: str
    values: Sequence[float]
    seconds: Mapping[str, Sequence[float]] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)

    @property
    def spread(self) -> Spread:
        """The spread of the values."""
        return Spread.of(self.values)


def timed(work: Callable[[], object], wait: Callable[[], None] | None = None) -> float:
    """Return the seconds that work takes.

    Args:
        work: what to do.
        wait: returns when a device that computes ahead has done what it was told.
    """
    if wait:
        wait()
    started = time.perf_counter()
    work()
    if wait:
        wait()
    return time.perf_counter() - started


def interleave(contenders: Mapping[str, Contender], repeats: int) -> dict[str, list[float]]:
    """Have contenders do their work in turns, A, B, A, B, ..., after a round that is not counted.

    What slows a machine down for a while then slows all of them down.

    Args:
        contenders: by name, in the order of their turns.
        repeats: rounds that are counted.

    Returns:
        What each took, one a round.
    """
    took: dict[str, list[float]] = {name: [] for name in contenders}
    gc.freeze()  # what is there already need not be gone through at each turn
    try:
        for turn in range(repeats + 1):
            for name, contender in contenders.items():
                gc.collect()  # or one would pay for what another has left
                seconds = contender()
                if turn:
                    took[name].append(seconds)
    finally:
        gc.unfreeze()
    return took


def ratios(these: Sequence[float], those: Sequence[float]) -> list[float]:
    """Divide measurements round by round: what slowed both down in a round cancels out."""
    return [this / that for this, that in zip(these, those, strict=True)]
