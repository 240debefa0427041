"""What a training gave, epoch by epoch, and who is told of it.

The losses of its steps are in `readings`; how it goes is in `trainer`.
"""

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, Self

from torch import Tensor, nn

from kdcore.readings import StepRecord


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch gave.

    Attributes:
        epoch: from 1.
        loss: mean of the total loss over the epoch's optimizer steps.
        losses: the same of ``"task"`` and of each auxiliary loss, unweighted.
        accuracy: per cent on the test samples, None where there are none.
        validation: per cent on the validation samples, None where there are none.
        lr: learning rate of the last step.
        samples: samples that were trained on.
        seconds: time of the epoch, evaluation left out.
    """

    epoch: int
    loss: float
    losses: Mapping[str, float]
    accuracy: float | None
    validation: float | None
    lr: float
    samples: int
    seconds: float


class Observer(Protocol):
    """Something that is told how a training goes."""

    def on_step(self, record: StepRecord) -> None:
        """Hear of an optimizer step."""

    def on_epoch(self, record: EpochRecord) -> None:
        """Hear of an epoch."""


@dataclass
class EpochTotals:
    """What the steps of an epoch that runs have given so far.

    Attributes:
        steps: optimizer steps.
        samples: samples of them.
        losses: sums over steps, by label.
        lr: learning rate of the last one.
        seconds: what they took.
    """

    steps: int = 0
    samples: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    lr: float = 0.0
    seconds: float = 0.0

    def add(self, record: StepRecord) -> None:
        """Count a step's samples and losses."""
        self.samples += record.samples
        for label, value in record.losses.items():
            self.losses[label] = self.losses.get(label, 0.0) + value

    def record(self, epoch: int, accuracy: float | None, validation: float | None) -> EpochRecord:
        """Return what the epoch gave, now that all of its steps were taken and read.

        Args:
            epoch: from 1.
            accuracy: per cent on the test samples, None where there are none.
            validation: per cent on the validation samples, None where there are none.
        """
        losses = {label: total / self.steps for label, total in self.losses.items()}
        loss = losses.pop("total")
        return EpochRecord(
            epoch, loss, losses, accuracy, validation, self.lr, self.samples, self.seconds
        )


@dataclass
class History:
    """A whole training.

    Attributes:
        epochs: one record an epoch.
        best_epoch: the epoch, from 1, of the highest validation accuracy; None without one.
        best_weights: the student's state dict after it.
    """

    epochs: list[EpochRecord] = field(default_factory=list)
    best_epoch: int | None = None
    best_weights: dict[str, Tensor] | None = None

    def add(self, record: EpochRecord, student: nn.Module) -> None:
        """Append an epoch, and keep the student where it is the best on the validation split."""
        self.epochs.append(record)
        if record.validation is None:
            return
        best = self.best_validation
        if best is None or record.validation > best:
            self.best_epoch = record.epoch
            self.best_weights = copy.deepcopy(student.state_dict())

    @property
    def best_validation(self) -> float | None:
        """The highest validation accuracy; None without one."""
        found = (each.validation for each in self.epochs if each.epoch == self.best_epoch)
        return next(found, None)

    def extend(self, later: "History") -> None:
        """Append the history of a later stage, whose epochs are counted on."""
        best, other = self.best_validation, later.best_validation
        self.epochs += later.epochs
        if other is not None and (best is None or other > best):
            self.best_epoch, self.best_weights = later.best_epoch, later.best_weights

    def state_dict(self) -> dict[str, object]:
        """Return it as mappings, lists, numbers and tensors."""
        return {
            "epochs": [asdict(record) for record in self.epochs],
            "best_epoch": self.best_epoch,
            "best_weights": self.best_weights,
        }

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Self:
        """Make it of what `state_dict` returned."""
        epochs = [EpochRecord(**record) for record in state["epochs"]]
        return cls(epochs, state["best_epoch"], state["best_weights"])
