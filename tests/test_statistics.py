import pytest

from kdcore.statistics import summarise


def test_a_single_value_has_no_spread() -> None:
    summary = summarise([3.0])
    assert (summary.mean, summary.sd, summary.interval) == (3.0, None, None)


def test_the_interval_is_students_t() -> None:
    # t(0.975, 2) = 4.302653, from the tables; sd = 1, n = 3.
    summary = summarise([1.0, 2.0, 3.0])
    assert summary.mean == 2.0
    assert summary.sd == pytest.approx(1.0)
    assert summary.interval == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))
