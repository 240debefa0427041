"""How long calls take, measured in turns, so that what slows the machine slows them alike."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import torch

WARM_UP = 5
"""Runs of each call that nothing is noted of."""

TURN = 5
"""Runs of one call before the next has its turn."""

FEWEST_TURNS, MOST_TURNS = 3, 60
SECONDS = 1.0
"""For so long each call is measured, if it takes no longer to have its fewest turns."""


@dataclass(frozen=True)
class Latency:
    """What the time of a call was.

    Attributes:
        p50_ms: the median, in milliseconds.
        p95_ms: of 95 in 100 runs at most.
    """

    p50_ms: float
    p95_ms: float


def latencies(calls: Sequence[Callable[[], object]]) -> list[Latency]:
    """Time calls, all of them equally often and over the same span of time.

    Each has a few runs in a row, of which the first, after another's, is not counted; the order
    is turned round each time.

    Args:
        calls: each returns when its work is done, on an accelerator too.
    """
    times: list[list[float]] = [[] for _ in calls]
    order = list(range(len(calls)))
    for call in calls:
        for _ in range(WARM_UP):
            call()
    turns, spent = 0, 0.0
    while turns < FEWEST_TURNS or (turns < MOST_TURNS and spent < SECONDS * len(calls)):
        for place in order:
            calls[place]()
            found = [_timed(calls[place]) for _ in range(TURN)]
            times[place] += found
            spent += sum(found)
        order.reverse()
        turns += 1
    return [_latency(each) for each in times]


def _latency(seconds: Sequence[float]) -> Latency:
    shares = torch.tensor([0.5, 0.95], dtype=torch.float64)
    median, high = torch.tensor(seconds, dtype=torch.float64).quantile(shares)
    return Latency(1000 * float(median), 1000 * float(high))


def _timed(call: Callable[[], object]) -> float:
    start = perf_counter()
    call()
    return perf_counter() - start
