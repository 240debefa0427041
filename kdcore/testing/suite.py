"""The checks as tests of pytest. This module, unlike the others, needs pytest."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import pytest
from torch import nn

from kdcore.errors import ConfigError, unknown
from kdcore.strategy import Strategy
from kdcore.testing.case import Case, case_of
from kdcore.testing.check import Check, run_check
from kdcore.testing.models import small_student, small_teacher
from kdcore.testing.table import CHECKS

NAMES = [check.name for check in CHECKS]


class StrategyTests:
    """All checks on one strategy, a test each.

    Subclass it in a test module::

        class TestMyMethod(kdcore.testing.StrategyTests):
            strategy = MyMethod

    A subclass may hold these options, tests of its own, and names that begin with an underscore;
    anything else is an error, so that a misspelt option is not silently without effect.

    Attributes:
        strategy: the class, or the name of an installed one.
        settings: its settings, where the defaults are not what is to be tested.
        teacher: builds the teacher that it is tried on, of at least five classes.
        student: builds the student.
        input_shape: shape of one sample that both models take, without the batch.
        expected_failures: reasons by name of the checks that the strategy is known to fail; one
            of them that passes is an error.
    """

    strategy: ClassVar[type[Strategy] | str]
    settings: ClassVar[Mapping[str, Any]] = {}
    teacher: ClassVar[Callable[[], nn.Module]] = small_teacher
    student: ClassVar[Callable[[], nn.Module]] = small_student
    input_shape: ClassVar[tuple[int, ...]] = (3, 16, 16)
    expected_failures: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        options = list(StrategyTests.__annotations__)
        for name in vars(cls):
            if name not in options and not name.startswith(("_", "test_")):
                raise ConfigError(f"{cls.__name__}: {unknown('option', name, options)}")
        if not hasattr(cls, "strategy"):
            raise ConfigError(f"{cls.__name__}: set strategy to a Strategy subclass or a name")
        for name in cls.expected_failures:
            if name not in NAMES:
                raise ConfigError(f"{cls.__name__}: {unknown('check', name, NAMES)}")

    @classmethod
    def _case(cls) -> Case:
        return case_of(
            cls.strategy,
            cls.settings,
            teacher=cls.teacher,
            student=cls.student,
            input_shape=cls.input_shape,
        )

    @pytest.mark.parametrize("check", CHECKS, ids=NAMES)
    def test_the_strategy_conforms(self, check: Check) -> None:
        """Run one check."""
        result = run_check(check, self._case())
        known = self.expected_failures.get(check.name)
        if result.outcome == "skipped":
            pytest.skip(str(result))
        if result.failed:
            if known is not None:
                pytest.xfail(known)
            raise AssertionError(str(result)) from result.error
        if known is not None:
            pytest.fail(f"{check.name} passes: take it out of expected_failures")
