"""Contenders take turns, ratios are of one round, and spreads are the values' own."""

from collections.abc import Callable

import pytest

from kdcore.bench.measure import Result, Spread, interleave, ratios, timed


def _contender(name: str, turns: list[str], seconds: list[float]) -> Callable[[], float]:
    def work() -> float:
        turns.append(name)
        return seconds.pop(0)

    return work


def test_contenders_take_turns_and_the_first_round_is_not_counted() -> None:
    turns: list[str] = []
    took = interleave(
        {
            "a": _contender("a", turns, [100.0, 1.0, 2.0]),
            "b": _contender("b", turns, [200.0, 3.0, 4.0]),
        },
        repeats=2,
    )
    assert turns == ["a", "b"] * 3
    assert took == {"a": [1.0, 2.0], "b": [3.0, 4.0]}


def test_a_ratio_is_of_one_round_not_of_medians() -> None:
    # The machine was three times slower in the second round, for both.
    assert ratios([8.0, 24.0, 4.0], [2.0, 6.0, 2.0]) == [4.0, 4.0, 2.0]
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


def test_a_spread_is_median_and_ends() -> None:
    assert Spread.of([4.0, 1.0, 7.0, 2.0]) == Spread(3.0, 1.0, 7.0)
    assert Result("case", "what", "×", [5.0]).spread == Spread(5.0, 5.0, 5.0)


def test_time_ends_when_the_device_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    queued = [5.0]  # what a device still had to do before

    def work() -> None:
        clock[0] += 1.0
        queued.append(2.0)

    def wait() -> None:
        clock[0] += sum(queued)
        queued.clear()

    assert timed(work, wait) == 3.0
    queued.clear()
    assert timed(work) == 1.0
