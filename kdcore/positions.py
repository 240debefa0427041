"""Tasks with a class at each of many positions: of an image's pixels, of a sequence's tokens."""

import math
from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from kdcore.tasks import (
    PADDING,
    UNLABELLED,
    Counts,
    Metric,
    OfClasses,
    has_target,
    labelled_samples,
    misfit,
    per_cent,
)


class Positions(OfClasses):
    """A class at each position of a sample: cross-entropy, one row a position.

    A position whose target is -100 is padding, or void: it has no loss and is no row. In a sample
    that has no target at all every position is a row, for what a teacher says of it, but for those
    whose target is -101.

    Args:
        label_smoothing: share of each target that is spread over all classes, in ``[0, 1)``.
    """

    evaluated = 16
    rows_are_samples = False
    takes: ClassVar[str]

    @abstractmethod
    def classes_last(self, logits: Tensor) -> Tensor:
        """Return an output with its classes as the last dimension, behind the positions'."""

    def fits(self, targets: Tensor) -> bool:
        """Return whether there is a whole number a position."""
        return targets.ndim == self._dimensions - 1 and not targets.is_floating_point()

    def count(self, samples: int, targets: Tensor) -> Counts:
        """Count samples, rows, and the positions that have a target."""
        labelled = has_target(targets).sum()
        return Counts(samples, int(_counted(targets).sum()), labelled)

    def rows(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the counted positions, sample by sample, ``[rows, classes]``."""
        return self._checked(logits, targets)[_counted(targets)]

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy at each position, of the targets' shape.

        Raises:
            DataError: shapes do not fit.
        """
        by_position = self._checked(logits, targets)
        return F.cross_entropy(
            by_position.flatten(0, -2),
            _given(targets).flatten(),
            reduction="none",
            ignore_index=UNLABELLED,
            label_smoothing=self.label_smoothing,
        ).view(targets.shape)

    def _checked(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return an output with its classes last, once it fits the targets."""
        if logits.ndim == targets.ndim + 1 == self._dimensions:
            moved = self.classes_last(logits)
            if moved.shape[:-1] == targets.shape and not targets.is_floating_point():
                return moved
        raise misfit(self.takes, logits, targets)

    @property
    def _dimensions(self) -> int:
        return self.takes.partition("]")[0].count(",") + 1


class Sequences(Positions):
    """One class a token, such as the next token: cross-entropy, token accuracy and perplexity.

    Logits are ``[batch, tokens, vocabulary]``, targets ``int64 [batch, tokens]`` with -100 where
    nothing is predicted. A model that shall say the next token is given targets that are shifted.

    Args:
        label_smoothing: share of each target that is spread over all classes, in ``[0, 1)``.
    """

    kind = "sequences"
    metrics = (Metric("token accuracy", "%"), Metric("perplexity", higher_is_better=False))
    targets = "whole numbers [samples, tokens]"
    takes = "sequences takes logits [batch, tokens, vocabulary] and targets int64 [batch, tokens]"

    def classes_last(self, logits: Tensor) -> Tensor:
        """Return the output as it is."""
        return logits

    def row_shape(self, logits: torch.Size) -> torch.Size:
        """Return ``[batch * tokens, vocabulary]``."""
        return torch.Size([logits[:-1].numel(), logits[-1]])

    def unlabelled(self, logits: Tensor) -> Tensor:
        """Return ``[batch, tokens]`` of -100."""
        return _none_of(logits.shape[:-1], logits)

    def tally(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Count tokens that have a target and those that are right; add up their cross-entropy."""
        rows = self._checked(logits, targets).flatten(0, 1)
        given = _given(targets).flatten()
        labelled = given != UNLABELLED
        right = (rows.argmax(1) == given) & labelled
        entropy = F.cross_entropy(rows.double(), given, reduction="sum", ignore_index=UNLABELLED)
        return torch.stack([labelled.sum().double(), right.sum().double(), entropy])

    def scores(self, tally: Tensor) -> dict[str, float]:
        """Return token accuracy in per cent, and perplexity: exp of the mean cross-entropy."""
        accuracy, perplexity = self.metrics
        found = per_cent({accuracy.name: (tally[1], tally[0])})
        if found:
            found[perplexity.name] = math.exp(min(float(tally[2] / tally[0]), _LARGEST))
        return found


_LARGEST = 700.0
"""Cross-entropy whose exponential a float still holds."""


class Segmentation(Positions):
    """One class a pixel: cross-entropy, mean intersection over union, and pixel accuracy.

    Logits are ``[batch, classes, height, width]``, targets ``int64 [batch, height, width]`` of the
    same height and width, with -100 where a pixel is void.

    Args:
        label_smoothing: share of each target that is spread over all classes, in ``[0, 1)``.
    """

    kind = "segmentation"
    metrics = (Metric("mean IoU", "%"), Metric("pixel accuracy", "%"))
    targets = "whole numbers [samples, height, width]"
    takes = (
        "segmentation takes logits [batch, classes, height, width] and targets int64 "
        "[batch, height, width]"
    )

    def classes_last(self, logits: Tensor) -> Tensor:
        """Return ``[batch, height, width, classes]``."""
        return logits.movedim(1, -1)

    def row_shape(self, logits: torch.Size) -> torch.Size:
        """Return ``[batch * height * width, classes]``."""
        if len(logits) != 4:
            return logits
        return torch.Size([logits[0] * logits[2] * logits[3], logits[1]])

    def unlabelled(self, logits: Tensor) -> Tensor:
        """Return ``[batch, height, width]`` of -100."""
        return _none_of(logits.shape[:1] + logits.shape[2:], logits)

    def tally(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the confusion matrix, target by prediction, in one dimension."""
        predicted = self._checked(logits, targets).argmax(-1)
        classes, known = logits.shape[1], has_target(targets)
        pairs = targets[known] * classes + predicted[known]
        return torch.bincount(pairs, minlength=classes**2).double()

    def scores(self, tally: Tensor) -> dict[str, float]:
        """Return mean IoU, over the classes that occur or are predicted, and pixel accuracy."""
        matrix = tally.view(math.isqrt(len(tally)), -1)
        right = matrix.diagonal()
        union = matrix.sum(0) + matrix.sum(1) - right
        shares = right[union > 0] / union[union > 0]
        iou, accuracy = self.metrics
        return per_cent(
            {
                iou.name: (shares.sum(), (union > 0).sum()),
                accuracy.name: (right.sum(), matrix.sum()),
            }
        )


def _counted(targets: Tensor) -> Tensor:
    """Return which positions are rows, ``bool`` of the targets' shape."""
    bare = ~labelled_samples(targets)
    open_to_teachers = bare.view(-1, *[1] * (targets.ndim - 1)) & (targets != PADDING)
    return has_target(targets) | open_to_teachers


def _given(targets: Tensor) -> Tensor:
    """Return targets with -100 wherever there is none, as PyTorch's losses know it."""
    return targets.masked_fill(targets == PADDING, UNLABELLED)


def _none_of(shape: torch.Size, logits: Tensor) -> Tensor:
    return torch.full(shape, UNLABELLED, dtype=torch.int64, device=logits.device)
