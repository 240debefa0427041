"""How a training goes, for TensorBoard."""

from pathlib import Path
from typing import Any, Self

from kdcore.errors import UserError, missing_extra
from kdcore.history import EpochRecord
from kdcore.processes import here
from kdcore.readings import StepRecord

FOLDER = "tensorboard"
"""Of its files, in a run's own."""


class TensorBoard:
    """An observer that writes losses, scores and learning rate for TensorBoard.

    Losses are by label under ``loss/``, their shares in the student's gradient under
    ``gradient/``, scores under ``test/`` and ``validation/``, all by optimizer step. A training
    that continues takes the place of what was written from that step on.

    Args:
        folder: of its files.

    Raises:
        UserError: tensorboard is not installed.
    """

    def __init__(self, folder: Path | str) -> None:
        check_installed()
        self._folder = Path(folder)
        self._writer: Any = None
        self._step: int | None = None
        self._waiting: EpochRecord | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what is left to be written."""
        if self._waiting is not None:
            self._place(_last_step(self._folder))
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def on_step(self, record: StepRecord) -> None:
        """Write a step's losses."""
        if self._waiting is not None:
            self._place(record.step - 1)
        for label, value in record.losses.items():
            self._write(f"loss/{label}", value, record.step)
        for label, value in record.shares.items():
            self._write(f"gradient/{label}", value, record.step)
        self._step = record.step

    def on_epoch(self, record: EpochRecord) -> None:
        """Write an epoch's scores and learning rate, at its last step."""
        if self._step is None:
            # All of its steps were taken before the training was stopped: the next one tells.
            self._waiting = record
        else:
            self._write_epoch(record, self._step)

    def _place(self, step: int) -> None:
        """Write the epoch that waits, now that its last step is known, and keep its steps."""
        assert self._waiting is not None
        record, self._waiting = self._waiting, None
        self._open(step + 1)
        self._write_epoch(record, step)

    def _write_epoch(self, record: EpochRecord, step: int) -> None:
        for name, value in record.scores.items():
            self._write(f"test/{name}", value, step)
        for name, value in record.validation.items():
            self._write(f"validation/{name}", value, step)
        self._write("lr", record.lr, step)
        if self._writer is not None:
            self._writer.flush()

    def _write(self, tag: str, value: float, step: int) -> None:
        if not here().first:
            return
        self._open(step)
        self._writer.add_scalar(tag, value, step)

    def _open(self, step: int) -> None:
        """Begin to write, if that is yet to be done, in the place of what is there from a step."""
        if self._writer is None and here().first:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=step)


def _last_step(folder: Path) -> int:
    """Return the last step that was written into a folder; 0 where none was."""
    if not folder.is_dir():
        return 0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events: Any = EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()["scalars"]
    return max((each.step for tag in tags for each in events.Scalars(tag)), default=0)


def check_installed() -> None:
    """Refuse to write for a library that is not there.

    Raises:
        UserError: it is not.
    """
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        raise UserError(missing_extra("log.tensorboard", "TensorBoard", "tensorboard")) from None
