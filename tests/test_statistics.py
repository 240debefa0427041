import pytest
from scipy.stats import ttest_rel

from kdcore.statistics import holm, paired, summarise


def test_a_single_value_has_no_spread() -> None:
    summary = summarise([3.0])
    assert (summary.mean, summary.sd, summary.interval) == (3.0, None, None)


def test_the_interval_is_students_t() -> None:
    # t(0.975, 2) = 4.302653, from the tables; sd = 1, n = 3.
    summary = summarise([1.0, 2.0, 3.0])
    assert summary.mean == 2.0
    assert summary.sd == pytest.approx(1.0)
    assert summary.interval == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))


def test_the_p_value_is_the_paired_t_tests() -> None:
    before, after = [70.1, 69.4, 71.0, 70.2, 69.9], [70.9, 70.6, 71.2, 71.5, 70.3]
    summary = paired(list(zip(after, before, strict=True)))
    assert summary.p == pytest.approx(ttest_rel(after, before).pvalue, rel=1e-9)
    assert summary.p is not None
    assert 0.01 < summary.p < 0.05


def test_equal_differences_have_no_interval_and_no_p() -> None:
    summary = summarise([0.5, 0.5, 0.5])
    assert (summary.mean, summary.sd, summary.interval, summary.p) == (0.5, 0.0, None, None)


def test_holms_values_are_those_of_the_procedure() -> None:
    # By hand: times 4, 3, 2, 1 from the smallest on, never less than the one before, at most 1.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4, 0.9]) == pytest.approx([0.8, 0.9])
    assert holm([]) == []


def test_equal_values_have_no_spread_and_no_interval() -> None:
    summary = summarise([91.5, 91.5])
    assert (summary.mean, summary.sd, summary.interval) == (91.5, 0.0, None)
    assert summary.equal
    assert not summarise([91.5]).equal
    assert summarise([91.5, 91.6]).interval is not None  # the control


def test_differences_that_differ_by_rounding_alone_are_equal() -> None:
    pairs = [(90.3, 90.2), (70.3, 70.2), (10.3, 10.2)]
    assert len({own - base for own, base in pairs}) > 1  # as they are computed
    summary = paired(pairs)
    assert summary.mean == pytest.approx(0.1)
    assert (summary.sd, summary.interval) == (0.0, None)
    assert paired([(90.3, 90.2), (70.4, 70.2)]).interval is not None  # the control
    assert summarise([1e-15, 3e-15]).interval is not None  # small values are no rounding
