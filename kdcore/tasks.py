"""What a student is for: its loss, its metric, and which rows of an output count."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from kdcore.errors import DataError

UNLABELLED = -100
"""Target of a row without a label; PyTorch's own `ignore_index`."""


@dataclass(frozen=True)
class Counts:
    """By what the means of one optimizer step are divided.

    Attributes:
        samples: samples of the step.
        rows: predictions of the step; one a sample in classification.
        labelled: predictions that have a target, as an ``int64`` tensor without dimensions.
    """

    samples: int
    rows: int
    labelled: Tensor

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.samples + other.samples, self.rows + other.rows, self.labelled + other.labelled
        )


@dataclass(frozen=True)
class Mixed:
    """What the samples of a batch were mixed with, each with one other.

    Attributes:
        targets: of the others, ``int64 [batch]``, -100 for no label.
        share: how much of a sample is its own, ``float32 [batch]``; the rest is the other's.
    """

    targets: Tensor
    share: Tensor

    def to(self, device: torch.device) -> "Mixed":
        """Return the same on a device."""
        return Mixed(
            self.targets.to(device, non_blocking=True), self.share.to(device, non_blocking=True)
        )


class Task(ABC):
    """A task turns outputs and targets into one loss a row, and scores predictions."""

    @abstractmethod
    def count(self, samples: int, targets: Tensor) -> Counts:
        """Return by what the means of a batch are divided."""

    def rows(self, logits: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002
        """Return the predictions that methods compare, ``[rows, classes]``."""
        return logits

    @abstractmethod
    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return one value a prediction, zero where there is no target."""

    def mixed_loss(self, logits: Tensor, targets: Tensor, mixed: Mixed | None) -> Tensor:
        """Return the loss where samples may be mixed: both targets' losses, each by its share."""
        own = self.loss(logits, targets)
        if mixed is None:
            return own
        share = mixed.share.to(own.dtype)
        return share * own + (1 - share) * self.loss(logits, mixed.targets)

    @abstractmethod
    def correct(self, logits: Tensor, targets: Tensor) -> tuple[int, int]:
        """Return how many predictions are right, and of how many."""


class Classification(Task):
    """One class a sample: cross-entropy and accuracy.

    Args:
        label_smoothing: share of each target that is spread over all classes, in ``[0, 1)``.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def count(self, samples: int, targets: Tensor) -> Counts:
        """Count the samples, each a row, and those that have a label."""
        return Counts(samples, samples, (targets != UNLABELLED).sum())

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy of each sample.

        Args:
            logits: ``[batch, classes]``.
            targets: ``int64 [batch]``, -100 where there is no label.

        Returns:
            ``[batch]``, zero where there is no label.

        Raises:
            DataError: shapes do not fit.
        """
        if logits.ndim != 2 or targets.shape != logits.shape[:1]:
            raise DataError(
                f"classification takes logits [batch, classes] and targets [batch], got "
                f"{list(logits.shape)} and {list(targets.shape)}"
            )
        return F.cross_entropy(
            logits,
            targets,
            reduction="none",
            ignore_index=UNLABELLED,
            label_smoothing=self.label_smoothing,
        )

    def correct(self, logits: Tensor, targets: Tensor) -> tuple[int, int]:
        """Count the labelled samples whose largest logit is their class's."""
        labelled = targets != UNLABELLED
        right = (logits.argmax(1) == targets) & labelled
        return int(right.sum()), int(labelled.sum())


def no_targets(samples: int, device: torch.device) -> Tensor:
    """Return the targets of samples that have none, ``int64 [samples]``."""
    return torch.full((samples,), UNLABELLED, dtype=torch.int64, device=device)
