"""A conformance kit: named checks that any strategy can run, and a test class for pytest.

>>> for result in kdcore.testing.run_checks("logits", temperature=4.0):
...     print(result)

Each check says what it checks and how to mend a strategy that fails it. `StrategyTests`, for
which pytest must be installed, makes a test of each.
"""

from typing import TYPE_CHECKING, Any

from kdcore.testing.case import Tried, case_of
from kdcore.testing.check import Check, CheckResult, run_all
from kdcore.testing.models import SmallCNN, small_student, small_teacher
from kdcore.testing.table import CHECKS

if TYPE_CHECKING:
    from kdcore.testing.suite import StrategyTests as StrategyTests

__all__ = [
    "Check",
    "CheckResult",
    "SmallCNN",
    "StrategyTests",
    "checks",
    "run_checks",
    "small_student",
    "small_teacher",
]


def checks() -> tuple[Check, ...]:
    """Return all checks, in the order in which they are run."""
    return CHECKS


def run_checks(strategy: Tried, /, **settings: object) -> list[CheckResult]:
    """Run all checks on one strategy.

    Args:
        strategy: a `kdcore.Strategy` subclass, an instance of one, whose settings are tried, or
            the name of an installed strategy.
        settings: its settings; those of an instance, changed.

    Returns:
        One result a check, in the order of `checks`.

    Raises:
        CatalogError: no strategy of that name is installed, or it cannot be imported.
        ConfigError: the settings are not the strategy's.
    """
    return run_all(CHECKS, case_of(strategy, settings))


def __getattr__(name: str) -> Any:
    if name == "StrategyTests":
        from kdcore.testing.suite import StrategyTests

        return StrategyTests
    raise AttributeError(f"module 'kdcore.testing' has no attribute {name!r}")
