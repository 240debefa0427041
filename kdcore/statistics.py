"""Means over seeds, paired differences with their intervals, and p-values of several at once."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

ROUNDING = 1e-12
"""Share of the largest value by which values that are equal may differ as they were computed."""


@dataclass(frozen=True)
class Summary:
    """Some values of one quantity.

    Attributes:
        mean: their mean.
        sd: their standard deviation (n - 1), None of a single value and
            of values that are not all finite, 0 of equal ones.
        interval: the 95 % confidence interval of the mean by Student's t, None of a single value
            and of values that are all equal, which say nothing of how others would spread.
        p: the two-sided p-value of Student's t test that the true mean is zero; None where
            there is no interval.
        count: how many values these are.
    """

    mean: float
    sd: float | None
    interval: tuple[float, float] | None
    p: float | None
    count: int

    @property
    def equal(self) -> bool:
        """Whether there are several values, and all are the same."""
        return self.sd == 0


def summarise(values: Sequence[float]) -> Summary:
    """Summarise values, one a seed."""
    return _summary(values, max(map(abs, values)))


def paired(pairs: Sequence[tuple[float, float]]) -> Summary:
    """Summarise the differences of pairs, one a seed, by the paired t test.

    Args:
        pairs: each value, and what it is held against.
    """
    largest = max(abs(value) for pair in pairs for value in pair)
    return _summary([own - base for own, base in pairs], largest)


def _summary(values: Sequence[float], largest: float) -> Summary:
    mean, count = statistics.fmean(values), len(values)
    if count < 2 or not math.isfinite(mean):
        return Summary(mean, None, None, None, count)
    if max(values) - min(values) <= ROUNDING * largest:
        return Summary(mean, 0.0, None, None, count)
    from scipy.stats import ttest_1samp

    sd = statistics.stdev(values)
    tested = ttest_1samp(values, 0.0)
    low, high = tested.confidence_interval(0.95)
    return Summary(mean, sd, (float(low), float(high)), float(tested.pvalue), count)


def holm(values: Sequence[float]) -> list[float]:
    """Correct the p-values of one family of tests by Holm's step-down procedure.

    Each is then what the smallest level would be at which its test is rejected while no more than
    that share of families has any false rejection (Holm 1979).
    """
    if not values:
        return []
    from statsmodels.stats.multitest import multipletests

    return [float(each) for each in multipletests(values, method="holm")[1]]
