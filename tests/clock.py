"""A clock that a test can put forward."""

import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import pytest

P = ParamSpec("P")
T = TypeVar("T")


class Clock:
    """The time that trainings are measured by, some seconds later than it is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.later = 0.0
        now = time.perf_counter
        monkeypatch.setattr(time, "perf_counter", lambda: now() + self.later)

    def passing(self, seconds: float, work: Callable[P, T]) -> Callable[P, T]:
        """Return the work as if it took so many seconds more."""

        def longer(*arguments: P.args, **named: P.kwargs) -> T:
            self.later += seconds
            return work(*arguments, **named)

        return longer
