"""What a check is, what running one gives, and how they are run.

The checks themselves are in `settings`, `loss`, `inputs`, `training` and `engine`, their list in
`table`.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from kdcore.testing.case import Case


class NotApplicableError(Exception):
    """Raised by a check that has nothing to look at in a strategy; the message says why."""


def draws(differing: str) -> NotApplicableError:
    """Say that a loss is not looked at since it draws, and how it can be.

    Args:
        differing: between what random numbers differ.
    """
    return NotApplicableError(
        f"it draws random numbers, which differ from {differing}; if there is a setting with "
        "which it leaves its generator alone, try it with that too (--set, or a test class)"
    )


@dataclass(frozen=True)
class Check:
    """One thing that holds for every strategy.

    Attributes:
        name: its name, as users select and read it.
        claim: what it checks, in a sentence.
        remedy: how to mend a strategy that fails it, in a sentence.
        function: yields what it finds wrong, a line each; whatever it raises is wrong too.
        needs: the check without which this one tells nothing; where that one fails, or could
            not be run, this one is not run.
    """

    name: str
    claim: str
    remedy: str
    function: Callable[[Case], Iterator[str]]
    needs: "Check | None" = None


@dataclass(frozen=True)
class CheckResult:
    """What one check found in one strategy.

    Attributes:
        check: the check.
        outcome: ``passed``, ``failed``, or ``skipped`` where it could not be run.
        reason: what is wrong, or why it was skipped; empty where it passed.
        error: the exception that failed it, where it was one.
    """

    check: Check
    outcome: Literal["passed", "failed", "skipped"]
    reason: str = ""
    error: Exception | None = None

    @property
    def name(self) -> str:
        """The check's name."""
        return self.check.name

    @property
    def passed(self) -> bool:
        """Whether the strategy does what the check claims."""
        return self.outcome == "passed"

    @property
    def failed(self) -> bool:
        """Whether it does not."""
        return self.outcome == "failed"

    def __str__(self) -> str:
        if self.failed:
            return f"{self.name} failed: {self.reason}\n{self.check.claim} {self.check.remedy}"
        return f"{self.name} {self.outcome}" + (f": {self.reason}" if self.reason else "")


def run_check(check: Check, case: Case) -> CheckResult:
    """Run one check, and first those that it needs."""
    return _run(check, case, {})


def run_all(checks: Iterable[Check], case: Case) -> list[CheckResult]:
    """Run several checks in their order, each once.

    Returns:
        First what those found that were not asked for, but are needed, and fail; then what each
        found.
    """
    asked, known = list(checks), dict[str, CheckResult]()
    for check in asked:
        _run(check, case, known)
    needed = [each for each in known.values() if each.failed and each.check not in asked]
    return [*needed, *(known[check.name] for check in asked)]


def _run(check: Check, case: Case, known: dict[str, CheckResult]) -> CheckResult:
    if check.name not in known:
        needed = None if check.needs is None else _run(check.needs, case, known)
        if needed is None or needed.passed:
            known[check.name] = _result(check, case)
        else:
            reason = f"{needed.name} failed" if needed.failed else needed.reason
            known[check.name] = CheckResult(check, "skipped", reason)
    return known[check.name]


@contextmanager
def _one_thread() -> Iterator[None]:
    # The models are so small that threads would spend their time waiting for each other.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _result(check: Check, case: Case) -> CheckResult:
    try:
        # A strategy that draws from the global stream shall not change the caller's.
        with torch.random.fork_rng(devices=[]), _one_thread():
            problems = list(check.function(case))
    except NotApplicableError as reason:
        return CheckResult(check, "skipped", str(reason))
    except Exception as error:
        return CheckResult(check, "failed", f"{type(error).__name__}: {error}", error)
    return CheckResult(check, "failed" if problems else "passed", "; ".join(problems))
