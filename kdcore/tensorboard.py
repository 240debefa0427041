"""How a training goes, for TensorBoard."""

from pathlib import Path
from typing import Any, Self

from kdcore.errors import UserError
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
        self._step = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what is left to be written."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def on_step(self, record: StepRecord) -> None:
        """Write a step's losses."""
        for label, value in record.losses.items():
            self._write(f"loss/{label}", value, record.step)
        for label, value in record.shares.items():
            self._write(f"gradient/{label}", value, record.step)
        self._step = record.step

    def on_epoch(self, record: EpochRecord) -> None:
        """Write an epoch's scores and learning rate, at its last step."""
        for name, value in record.scores.items():
            self._write(f"test/{name}", value, self._step)
        for name, value in record.validation.items():
            self._write(f"validation/{name}", value, self._step)
        self._write("lr", record.lr, self._step)
        if self._writer is not None:
            self._writer.flush()

    def _write(self, tag: str, value: float, step: int) -> None:
        if not here().first:
            return
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=step)
        self._writer.add_scalar(tag, value, step)


def check_installed() -> None:
    """Refuse to write for a library that is not there.

    Raises:
        UserError: it is not.
    """
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        raise UserError(
            'log.tensorboard needs TensorBoard: pip install "kdcore[tensorboard]"'
        ) from None
