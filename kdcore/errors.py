"""What can go wrong, and the exit code that each kind of failure has on the command line.

An error of this module is one line for a person: what was found, where, and what to do.
Anything else that escapes is a bug in kdcore and keeps its traceback.
"""

import errno
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

FULL = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG})
"""What a system says where there is no room for a file."""


class KdcoreError(Exception):
    """Base of every error that kdcore raises on purpose."""

    exit_code = 1


class UserError(KdcoreError, ValueError):
    """Something that was typed or handed over cannot be used as it is."""

    exit_code = 2


class ConfigError(UserError):
    """A key or value of an experiment, or a strategy's setting, is wrong."""


class DataError(UserError):
    """A data set is missing, unreadable, empty or does not fit its models."""


class ModelError(UserError):
    """A model cannot be built or loaded, or does not fit its data."""


class TapError(UserError):
    """A place in a model does not exist, never ran, or ran more than once."""


class CatalogError(UserError):
    """A strategy is not installed, blocked, claimed twice or cannot be loaded."""


class ScoreError(UserError, AttributeError):
    """A score was asked for that a run does not have."""


class RunError(KdcoreError):
    """A run failed after it had begun: nothing that was handed over explains it."""

    exit_code = 3


class StrategyError(RunError):
    """A strategy breaks the contract of `kdcore.hookspecs`, or raised an exception."""


class NoLogitsError(StrategyError):
    """A strategy asks for the logits of a model that has none."""


class NonFiniteLossError(RunError):
    """A loss became infinite or not a number; nothing was saved after it did.

    Attributes:
        indices: the samples of the step that made it, where they are known.
    """

    def __init__(self, message: str, indices: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.indices = indices


class ResumeError(UserError):
    """A training cannot be continued: it began with something else."""


class Interrupted(KdcoreError):  # noqa: N818 - nothing is wrong
    """A training stopped because it was asked to, and saved where it was.

    Attributes:
        exit_code: of the process, on the command line.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Name what is unknown, the nearest names that are known, and all of them where they are few.

    Args:
        kind: what the name was looked up as, such as ``"strategy"``.
        name: the name that was not found.
        known: the names that would have been.
    """
    choices = sorted(set(known))
    nearest = get_close_matches(name, choices, n=3, cutoff=0.5)
    message = f"unknown {kind} {name!r}"
    if nearest:
        message += "; did you mean " + " or ".join(map(repr, nearest)) + "?"
    if choices and len(choices) <= 12:
        message += f" (known: {', '.join(choices)})"
    elif not choices:
        message += " (there is none)"
    return message


def missing_extra(what: str, library: str, extra: str) -> str:
    """Say that a library is not installed, and how to install it.

    Args:
        what: needs it.
        library: that is missing.
        extra: of kdcore's, that brings it.
    """
    return (
        f'{what} needs {library}: pip install "kdcore[{extra}]", or in a clone '
        f"uv sync --extra {extra}"
    )


SHOWN_SAMPLES = 10
"""So many indices of samples are shown in a message."""


def samples_text(indices: Sequence[int], count: int) -> str:
    """Name some samples by their indices, the first of so many."""
    shown = ", ".join(map(str, indices[:SHOWN_SAMPLES]))
    rest = count - SHOWN_SAMPLES
    return f"{shown} and {rest} more" if rest > 0 else shown
