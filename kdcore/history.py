"""What a training gave, epoch by epoch, and who is told of it.

The losses of its steps are in `readings`; how it goes is in `trainer`.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, Self

from torch import Tensor, nn

from kdcore.errors import ScoreError, unknown
from kdcore.readings import StepRecord
from kdcore.sharding import whole_state
from kdcore.tasks import Metric


def accuracy_of(scores: Mapping[str, float]) -> float:
    """Return the accuracy among some scores.

    Raises:
        ScoreError: there is none; names those that there are.
    """
    if "accuracy" not in scores:
        raise ScoreError(unknown("score", "accuracy", scores) + "; they are in .scores")
    return scores["accuracy"]


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch gave.

    Attributes:
        epoch: from 1.
        loss: mean of the total loss over the epoch's optimizer steps.
        losses: the same of ``"task"`` and of each auxiliary loss, unweighted.
        scores: on the test samples by name, empty where there are none.
        validation: on the validation samples by name, empty where there are none.
        lr: learning rate of the last step.
        samples: samples that were trained on.
        seconds: time of the epoch, evaluation left out.
    """

    epoch: int
    loss: float
    losses: Mapping[str, float]
    scores: Mapping[str, float]
    validation: Mapping[str, float]
    lr: float
    samples: int
    seconds: float

    @property
    def accuracy(self) -> float:
        """The accuracy on the test samples in per cent; a `ScoreError` where there is none."""
        return accuracy_of(self.scores)


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

    def record(
        self, epoch: int, scores: Mapping[str, float], validation: Mapping[str, float]
    ) -> EpochRecord:
        """Return what the epoch gave, now that all of its steps were taken and read.

        Args:
            epoch: from 1.
            scores: on the test samples by name.
            validation: on the validation samples by name.
        """
        losses = {label: total / self.steps for label, total in self.losses.items()}
        loss = losses.pop("total")
        return EpochRecord(
            epoch, loss, losses, scores, validation, self.lr, self.samples, self.seconds
        )


@dataclass
class History:
    """A whole training.

    Attributes:
        epochs: one record an epoch.
        best_epoch: the epoch, from 1, of the best validation score; None without one.
        best_weights: the student's state dict after it.
        metric: the score that says which is best; None where the task has none.
    """

    epochs: list[EpochRecord] = field(default_factory=list)
    best_epoch: int | None = None
    best_weights: dict[str, Tensor] | None = None
    metric: Metric | None = None

    def add(self, record: EpochRecord, student: nn.Module) -> None:
        """Append an epoch, and keep the student where it is the best on the validation split."""
        self.epochs.append(record)
        if self.metric is None or not record.validation:
            return
        if self._better(record.validation[self.metric.name]):
            self.best_epoch = record.epoch
            self.best_weights = copy.deepcopy(whole_state(student.state_dict()))

    @property
    def best_validation(self) -> float | None:
        """The best validation score; None without one."""
        best = [each.validation for each in self.epochs if each.epoch == self.best_epoch]
        return best[0][self.metric.name] if best and self.metric else None

    def _better(self, value: float) -> bool:
        best = self.best_validation
        assert self.metric is not None
        return not math.isnan(value) and (best is None or self.metric.better(value, best))

    def extend(self, later: "History") -> None:
        """Append the history of a later stage, whose epochs are counted on."""
        other = later.best_validation
        self.metric = self.metric or later.metric
        better = other is not None and self._better(other)
        self.epochs += later.epochs
        if better:
            self.best_epoch, self.best_weights = later.best_epoch, later.best_weights

    def state_dict(self) -> dict[str, object]:
        """Return it as mappings, lists, numbers and tensors."""
        return {
            "epochs": [asdict(record) for record in self.epochs],
            "best_epoch": self.best_epoch,
            "best_weights": self.best_weights,
            "metric": self.metric and asdict(self.metric),
        }

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Self:
        """Make it of what `state_dict` returned."""
        epochs = [EpochRecord(**record) for record in state["epochs"]]
        metric = state["metric"] and Metric(**state["metric"])
        return cls(epochs, state["best_epoch"], state["best_weights"], metric)
