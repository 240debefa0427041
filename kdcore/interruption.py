"""Signals that ask a process to stop: obeyed when a training has saved where it is.

The first one, while a training can take care of it, is only noted; the second, or one at any other
time, stops at once.
"""

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

from kdcore.errors import Interrupted

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)
"""A terminal's Ctrl-C, a system's request to end, and what schedulers send before an end."""


class Stopped(BaseException):
    """A signal that was obeyed at once.

    Attributes:
        signal: which.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.signal = signal.Signals(number)


class Interruption:
    """What was asked of this process by signals.

    Attributes:
        asked: the signal that was noted and waits to be obeyed; None without one.
    """

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self._careful = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear signals inside the block; only a process's main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._hear) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Only note the first signal inside the block, whose code asks and then calls `obey`."""
        before, self._careful = self._careful, True
        try:
            yield
        finally:
            self._careful = before

    def hear(self, noted: Iterable[signal.Signals | None]) -> None:
        """Take note of what other processes have noted, each a signal or None."""
        heard = [each for each in noted if each is not None]
        if heard and self.asked is None:
            self.asked = heard[0]

    def obey(self, saved: str) -> None:
        """Raise what ends the process, if a signal was noted.

        Args:
            saved: where the training is, for the message.

        Raises:
            Interrupted: a signal was noted.
        """
        if self.asked is not None:
            raise Interrupted(f"stopped by {self.asked.name}; {saved}", exit_code_of(self.asked))

    def _hear(self, number: int, _: FrameType | None) -> None:
        if self._careful and self.asked is None:
            self.asked = signal.Signals(number)
            return
        raise Stopped(number)


def exit_code_of(number: signal.Signals) -> int:
    """Return the exit code of a process that a signal stopped: 130 for Ctrl-C, otherwise 143."""
    return 128 + (signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)
