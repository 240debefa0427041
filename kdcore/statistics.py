"""Means over seeds, and paired differences with their confidence intervals."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """Some values of one quantity.

    Attributes:
        mean: their mean.
        sd: their standard deviation (n - 1), None of a single value.
        interval: the 95 % confidence interval of the mean by Student's t, None of a single value.
    """

    mean: float
    sd: float | None
    interval: tuple[float, float] | None


def summarise(values: Sequence[float]) -> Summary:
    """Summarise values, one a seed. Of paired differences this is the paired t interval."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Summary(mean, None, None)
    from scipy.stats import t

    sd = statistics.stdev(values)
    half = float(t.ppf(0.975, len(values) - 1)) * sd / len(values) ** 0.5
    return Summary(mean, sd, (mean - half, mean + half))
