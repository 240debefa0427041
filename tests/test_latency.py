import time
from collections.abc import Callable

import pytest

from kdcore import latency
from kdcore.latency import FEWEST_TURNS, TURN, WARM_UP, latencies


def test_it_is_the_median_and_the_95th_percentile_in_milliseconds() -> None:
    calls = iter(range(10_000))

    def call() -> None:
        time.sleep(0.03 if next(calls) % 5 == 0 else 0.002)

    (found,) = latencies([call])
    assert 2 <= found.p50_ms < 20
    assert 30 <= found.p95_ms < 90


def test_calls_are_measured_in_turns_and_equally_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "SECONDS", 0.0)
    done: list[str] = []

    def noted(name: str) -> Callable[[], object]:
        return lambda: done.append(name)

    latencies([noted("a"), noted("b")])
    turns = "".join(done[2 * WARM_UP :])
    a, b = "a" * (TURN + 1), "b" * (TURN + 1)
    assert turns == a + b + b + a + a + b
    assert FEWEST_TURNS == 3


def test_load_that_comes_and_goes_meets_all_calls_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def call() -> None:  # the machine is slow until a moment
        nonlocal now
        now += 0.004 if now < 1.0 else 0.001

    monkeypatch.setattr(latency, "perf_counter", lambda: now)
    first, second = latencies([call, call])
    assert first == second
    assert first.p95_ms == pytest.approx(4.0)

    now = 0.0
    alone = [latencies([call])[0] for _ in range(2)]  # the control: one after the other
    assert alone[0].p95_ms > alone[1].p95_ms
