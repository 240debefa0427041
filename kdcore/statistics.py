"""Means over seeds, paired differences with their intervals, and p-values of several at once."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """Some values of one quantity.

    Attributes:
        mean: their mean.
        sd: their standard deviation (n - 1), None of a single value.
        interval: the 95 % confidence interval of the mean by Student's t, None of a single value
            and of values that are all equal, which say nothing of how others would spread.
        p: the two-sided p-value of Student's t test that the true mean is zero; None where
            there is no interval.
    """

    mean: float
    sd: float | None
    interval: tuple[float, float] | None
    p: float | None = None


def summarise(values: Sequence[float]) -> Summary:
    """Summarise values, one a seed. Of paired differences this is the paired t test."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Summary(mean, None, None)
    sd = statistics.stdev(values)
    if len(set(values)) == 1:
        return Summary(mean, sd, None)
    from scipy.stats import ttest_1samp

    tested = ttest_1samp(values, 0.0)
    low, high = tested.confidence_interval(0.95)
    return Summary(mean, sd, (float(low), float(high)), float(tested.pvalue))


def holm(values: Sequence[float]) -> list[float]:
    """Correct the p-values of one family of tests by Holm's step-down procedure.

    Each is then what the smallest level would be at which its test is rejected while no more than
    that share of families has any false rejection (Holm 1979).
    """
    if not values:
        return []
    from statsmodels.stats.multitest import multipletests

    return [float(each) for each in multipletests(values, method="holm")[1]]
