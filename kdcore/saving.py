"""When a training is saved, and whether what was saved is of the same training.

The files are in `checkpoint`; what a training consists of, and how it goes on, in `trainer`.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcore.checkpoint import Checkpoints
from kdcore.errors import ResumeError
from kdcore.fingerprint import ENVIRONMENT, difference
from kdcore.interruption import Interruption
from kdcore.processes import here
from kdcore.sections import CheckpointConfig

ORIGIN = "origin"
"""Name of the part that says what a training began with."""


@dataclass(frozen=True)
class Seconds:
    """What a training took.

    Attributes:
        training: from the first step to the last evaluation.
        teacher: before that, of asking teachers once for all that is kept of what they say.
    """

    training: float = 0.0
    teacher: float = 0.0

    def __add__(self, more: "Seconds") -> "Seconds":
        return Seconds(self.training + more.training, self.teacher + more.teacher)


class Saver:
    """Saves a training now and then, and finds again what was saved.

    Args:
        folder: of its checkpoints.
        config: when to save.
        facts: everything that its result depends on, by name, as JSON has it.
        interruption: hears signals, before which the training is saved; none are heard if not
            given.
        note: hears, in a line, what a user should know.
        teacher_seconds: what asking teachers took before this training began or continued.
    """

    def __init__(
        self,
        folder: Path,
        config: CheckpointConfig,
        facts: Mapping[str, object],
        *,
        interruption: Interruption | None = None,
        note: Callable[[str], None] = lambda _: None,
        teacher_seconds: float = 0.0,
    ) -> None:
        self._checkpoints = Checkpoints(folder, config.keep, note)
        self._config = config
        self._facts = facts
        self._interruption = interruption or Interruption()
        self._note = note
        self._saved_at = (0, time.monotonic())
        self._started = time.perf_counter()
        self._teacher_seconds = teacher_seconds
        self.step: int | None = None
        """The optimizer step that was saved last; None before the first."""

    @contextmanager
    def working(self) -> Iterator[None]:
        """Take care, inside the block, that a signal finds the training saved."""
        self._saved_at = (self.step or 0, time.monotonic())
        with self._interruption.noted():
            yield

    def load(self) -> Mapping[str, Any] | None:
        """Return what was saved last, by part; None where nothing was.

        Raises:
            ResumeError: it is of a training that began with something else.
        """
        found = self._checkpoints.load()
        names = here().all(found and found.folder.name)
        if len(set(names)) > 1:
            raise ResumeError(
                f"{self._checkpoints.folder} is not the same to all processes ({names}): it must "
                "be in a folder that all machines share"
            )
        if found is None:
            return None
        origin = found.parts[ORIGIN]
        check_origin(origin["facts"], self._facts, str(found.folder), self._note)
        self._started -= origin["seconds"]
        self._teacher_seconds += origin.get("teacher_seconds", 0.0)
        self.step = origin["step"]
        self._note(f"continues after optimizer step {self.step}, as saved in {found.folder}")
        return found.parts

    @property
    def seconds(self) -> Seconds:
        """The time that the training has taken, before it was continued included."""
        return Seconds(time.perf_counter() - self._started, self._teacher_seconds)

    def due(self, step: int) -> bool:
        """Return whether to save after so many optimizer steps, in any process."""
        return here().any(self._due(step))

    def _due(self, step: int) -> bool:
        config, (last, since) = self._config, self._saved_at
        if self._interruption.asked is not None:
            return True
        if config.steps is not None and step - last >= config.steps:
            return True
        return bool(config.minutes) and time.monotonic() - since >= 60 * config.minutes

    def due_after(self, epoch: int) -> bool:
        """Return whether to save after so many epochs."""
        return bool(self._config.epochs) and epoch % self._config.epochs == 0

    def save(self, step: int, parts: Mapping[str, object]) -> None:
        """Save a training, and stop it if a signal asked for that.

        Args:
            step: optimizer steps taken.
            parts: what it consists of, by name.

        Raises:
            RunError: it cannot be written.
            Interrupted: a signal was noted.
        """
        seconds = self.seconds
        origin = {
            "facts": dict(self._facts),
            "step": step,
            "seconds": seconds.training,
            "teacher_seconds": seconds.teacher,
        }
        processes, folder = here(), self._checkpoints.folder
        if processes.first:
            folder = self._checkpoints.save(step, {**parts, ORIGIN: origin})
        # All wait here for what is written.
        self._interruption.hear(processes.all(self._interruption.asked))
        self.step = step
        self._saved_at = (step, time.monotonic())
        self._interruption.obey(
            f"saved after optimizer step {step} in {folder}: the same command continues there"
        )


def check_origin(
    before: Mapping[str, object],
    now: Mapping[str, object],
    where: str,
    note: Callable[[str], None],
    *,
    exact: bool = False,
) -> None:
    """Hold what a training began with against what it shall go on with.

    Args:
        before: the facts that it began with.
        now: those of today.
        where: what was saved, for messages.
        note: hears that the machine or versions differ.
        exact: whether to refuse that, too.

    Raises:
        ResumeError: something differs that its result is made of.
    """
    if found := difference(_without(before, ENVIRONMENT), _without(now, ENVIRONMENT)):
        raise ResumeError(
            f"{where} is of a training that began with something else: {found}; put that back, or "
            "begin anew in another folder"
        )
    if not (found := difference(before, now)):
        return
    if exact:
        raise ResumeError(
            f"{where} cannot be continued exactly: {found}; without --resume-exact it is "
            "continued, and the last bits may differ"
        )
    note(f"continued elsewhere than it began, the last bits may differ: {found}")


def _without(facts: Mapping[str, object], names: frozenset[str]) -> dict[str, object]:
    return {name: value for name, value in facts.items() if name not in names}
