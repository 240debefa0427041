"""What a student is for: its loss, its scores, and which rows of an output count.

The contract of a task is here, and classification. Predictions by position are in `positions`,
predictions of several values a sample in `values`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from kdcore.errors import DataError

UNLABELLED = -100
"""Target of a prediction without a label; PyTorch's own `ignore_index`. NaN among numbers."""


PADDING = -101
"""Target at a position where there is nothing to predict, in a sample that has no label either."""


def has_target(targets: Tensor) -> Tensor:
    """Return which predictions have a target, ``bool`` of the targets' shape."""
    if targets.is_floating_point():
        return ~targets.isnan()
    return (targets != UNLABELLED) & (targets != PADDING)


def labelled_samples(targets: Tensor) -> Tensor:
    """Return which samples have a target for any of their predictions, ``bool [samples]``."""
    known = has_target(targets)
    return known if known.ndim == 1 else known.flatten(1).any(1)


def without_targets(targets: Tensor) -> Tensor:
    """Return targets of the same kind and shape with none in them; padding stays padding."""
    if targets.is_floating_point():
        return torch.full_like(targets, torch.nan)
    nothing = torch.full_like(targets, UNLABELLED)
    if targets.ndim == 1:
        return nothing
    labelled = labelled_samples(targets).view(-1, *[1] * (targets.ndim - 1))
    padded = (targets == PADDING) | (labelled & (targets == UNLABELLED))
    return nothing.masked_fill(padded, PADDING)


@dataclass(frozen=True)
class Metric:
    """A score by name.

    Attributes:
        name: what it is called in results, records and reports.
        unit: ``"%"``, or empty.
        higher_is_better: whether more of it is better.
    """

    name: str
    unit: str = ""
    higher_is_better: bool = True

    @property
    def heading(self) -> str:
        """Its name, with its unit where it has one."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    @property
    def form(self) -> str:
        """How its values are written: two decimals of a per cent, otherwise four."""
        return ".2f" if self.unit else ".4f"

    def text(self, value: float) -> str:
        """Return name, value and unit: ``accuracy 97.21 %``."""
        return f"{self.name} {value:{self.form}}" + (f" {self.unit}" if self.unit else "")

    def better(self, value: float, than: float) -> bool:
        """Return whether a value is better than another; one that is no number never is."""
        return value > than if self.higher_is_better else value < than


ACCURACY = Metric("accuracy", "%")
MACRO_F1 = Metric("macro-F1", "%")


@dataclass(frozen=True)
class Counts:
    """By what the means of one optimizer step are divided.

    Attributes:
        samples: samples of the step.
        rows: predictions of the step that methods compare; one a sample in classification.
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
    """A task turns outputs and targets into losses and rows, and scores predictions.

    Its docstrings call a model's output before any softmax `logits`, whatever it means.
    """

    kind: ClassVar[str]
    """Its name in experiment files, and what strategies are told (`Setup.task`)."""

    metrics: tuple[Metric, ...] = ()
    """Its scores, the one that chooses weights and heads reports first; none for no scores."""

    targets: ClassVar[str] = "anything"
    """What its targets are, for messages."""

    learns: ClassVar[bool] = True
    """Whether it has a loss of its own."""

    rows_are_samples: ClassVar[bool] = True
    """Whether each sample is one row."""

    met: ClassVar[str] = "any value"
    """What a target may be, for messages."""

    evaluated: ClassVar[int] = 256
    """Samples that are scored at a time."""

    @property
    def metric(self) -> Metric | None:
        """The score that chooses weights and heads reports, if there is one."""
        return self.metrics[0] if self.metrics else None

    def facts(self) -> dict[str, object]:
        """Return all that its numbers depend on, as JSON has it."""
        return {"kind": self.kind}

    def outputs(self, targets: Tensor) -> int | None:  # noqa: ARG002
        """Return how many classes, or values a sample, targets are of; None where they do not say.

        Args:
            targets: those of all samples.
        """
        return None

    def fits(self, targets: Tensor) -> bool:  # noqa: ARG002
        """Return whether targets are of the kind and number of dimensions that it takes."""
        return True

    def wrong(self, targets: Tensor, outputs: int) -> Tensor:  # noqa: ARG002
        """Return which targets no model of so many outputs can meet, ``bool`` of their shape."""
        return torch.zeros_like(targets, dtype=torch.bool)

    @abstractmethod
    def count(self, samples: int, targets: Tensor) -> Counts:
        """Return by what the means of a batch are divided."""

    def row_shape(self, logits: torch.Size) -> torch.Size:
        """Return the shape of all rows of an output of a shape, ``[rows, classes]``."""
        return logits

    def rows(self, logits: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002
        """Return the predictions that methods compare, ``[rows, classes]``, in a fixed order."""
        return logits

    def unlabelled(self, logits: Tensor) -> Tensor:
        """Return the targets of samples that have none."""
        return no_targets(len(logits), logits.device)

    @abstractmethod
    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return one value a prediction, zero where there is no target.

        Raises:
            DataError: shapes do not fit.
        """

    def mixed_loss(self, logits: Tensor, targets: Tensor, mixed: Mixed | None) -> Tensor:
        """Return the loss where samples may be mixed.

        Raises:
            DataError: they are, and the task cannot say what their targets are.
        """
        if mixed is not None:
            raise DataError(
                f"mixup and CutMix mix the labels of whole images, which {self.kind} has none of; "
                "leave them out"
            )
        return self.loss(logits, targets)

    @abstractmethod
    def tally(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return what scores are made of.

        Returns:
            ``float64 [n]``, that of several batches being the sum; what is counted adds up to
            the same bits however samples are split.
        """

    @abstractmethod
    def scores(self, tally: Tensor) -> dict[str, float]:
        """Return the scores that a tally comes to, by name, in the order of `metrics`.

        Nothing where no prediction had a target.
        """


class OfClasses(Task):
    """What tasks have in common whose every prediction is one of several classes.

    Args:
        label_smoothing: share of each target that is spread over all classes, in ``[0, 1)``.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def facts(self) -> dict[str, object]:
        """Return kind and smoothing."""
        return {**super().facts(), "label_smoothing": self.label_smoothing}

    def outputs(self, targets: Tensor) -> int | None:
        """Return the number of classes up to the largest that occurs; None where none does."""
        if targets.is_floating_point() or not bool(has_target(targets).any()):
            return None
        return int(targets.max()) + 1

    def wrong(self, targets: Tensor, outputs: int) -> Tensor:
        """Return which are no class, but for those that stand for none."""
        return has_target(targets) & ((targets < 0) | (targets >= outputs))


class Classification(OfClasses):
    """One class a sample: cross-entropy, accuracy and macro-F1.

    Macro-F1 is the mean over classes of ``2 TP / (2 TP + FP + FN)``, over those that occur among
    targets or predictions: rare classes count as much as others.

    Args:
        label_smoothing: share of each target that is spread over all classes, in ``[0, 1)``.
        select: the score that chooses weights and heads reports: accuracy, or macro-F1.
    """

    kind = "classification"
    metrics: tuple[Metric, ...] = (ACCURACY, MACRO_F1)
    targets = "whole numbers [samples]"

    def __init__(self, label_smoothing: float = 0.0, select: Metric = ACCURACY) -> None:
        super().__init__(label_smoothing)
        assert select in type(self).metrics
        self.metrics = tuple(sorted(type(self).metrics, key=lambda each: each != select))

    def facts(self) -> dict[str, object]:
        """Return kind, smoothing and what chooses weights."""
        return {**super().facts(), "select": self.metrics[0].name}

    def fits(self, targets: Tensor) -> bool:
        """Return whether there is a whole number a sample."""
        return targets.ndim == 1 and not targets.is_floating_point()

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
        self._check(logits, targets)
        return F.cross_entropy(
            logits,
            targets,
            reduction="none",
            ignore_index=UNLABELLED,
            label_smoothing=self.label_smoothing,
        )

    def mixed_loss(self, logits: Tensor, targets: Tensor, mixed: Mixed | None) -> Tensor:
        """Return the loss where samples may be mixed: both targets' losses, each by its share."""
        own = self.loss(logits, targets)
        if mixed is None:
            return own
        share = mixed.share.to(own.dtype)
        return share * own + (1 - share) * self.loss(logits, mixed.targets)

    def tally(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Count by class the samples that are of it, that are taken for it, and both."""
        self._check(logits, targets)
        labelled = targets != UNLABELLED
        true, taken = targets[labelled], logits.argmax(1)[labelled]
        counted = (true, taken, true[true == taken])
        return (
            torch.stack([torch.bincount(each, minlength=logits.shape[1]) for each in counted])
            .double()
            .flatten()
        )

    def scores(self, tally: Tensor) -> dict[str, float]:
        """Return accuracy and macro-F1 in per cent."""
        true, taken, right = tally.view(3, -1)
        occurs = true + taken > 0
        if not bool(occurs.any()):
            return {}
        f1 = (2 * right / (true + taken))[occurs].mean()
        found = {ACCURACY.name: float(right.sum() / true.sum()), MACRO_F1.name: float(f1)}
        return {each.name: 100 * found[each.name] for each in self.metrics}

    def _check(self, logits: Tensor, targets: Tensor) -> None:
        fits = logits.ndim == 2 and targets.shape == logits.shape[:1]
        if not fits or targets.is_floating_point():
            raise misfit(
                "classification takes logits [batch, classes] and targets [batch]", logits, targets
            )


def no_targets(samples: int, device: torch.device) -> Tensor:
    """Return the targets of samples that have no class, ``int64 [samples]``."""
    return torch.full((samples,), UNLABELLED, dtype=torch.int64, device=device)


def check_targets(task: Task, targets: Tensor, outputs: int | None, name: str) -> None:
    """Refuse targets that are not a task's, or that no model of so many outputs can meet.

    Raises:
        DataError: says what they are, or names the first sample that has one.
    """
    if not task.fits(targets):
        kind = str(targets.dtype).removeprefix("torch.")
        raise DataError(
            f"{name}: {task.kind} takes targets that are {task.targets}, got {kind} "
            f"{list(targets.shape)}"
        )
    if outputs is None:
        return
    wrong = task.wrong(targets, outputs)
    if bool(wrong.any()):
        first = wrong.nonzero()[0].tolist()
        value = targets[tuple(first)].item()
        rest = (
            f"the student has {outputs} classes; -100 is no label"
            if isinstance(task, OfClasses)
            else f"{task.kind} takes {task.met}, and NaN where there is none"
        )
        raise DataError(f"{name}[{first[0]}]: the target is {value}, {rest}")


def misfit(expected: str, logits: Tensor, targets: Tensor) -> DataError:
    """Return the error of an output and targets that do not fit a task or each other."""
    kind = "" if targets.dtype == torch.int64 else f" {str(targets.dtype).removeprefix('torch.')}"
    return DataError(f"{expected}, got {list(logits.shape)} and{kind} {list(targets.shape)}")


def per_cent(shares: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Return shares in per cent by name; nothing where the first is of nothing.

    Args:
        shares: by name, what is counted and of how much.
    """
    found = {name: (float(part), float(whole)) for name, (part, whole) in shares.items()}
    if not next(iter(found.values()))[1]:
        return {}
    return {name: 100 * part / whole if whole else 0.0 for name, (part, whole) in found.items()}
