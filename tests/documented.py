"""Runs of a table, for tests."""

from collections.abc import Sequence

from kdcore.job import RunResult
from kdcore.tasks import ACCURACY


def runs_of(
    name: str, scores: Sequence[float], folder: str = "", first: int = 0
) -> list[RunResult]:
    """Return runs of a minute each, by seed, and accurate as told."""
    return [
        RunResult(name, seed, {"accuracy": score}, 0.5, 60.0, (), None, None, folder, (ACCURACY,))
        for seed, score in enumerate(scores, first)
    ]
