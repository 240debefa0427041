"""What logits and targets say: accuracy by class, confusion, calibration, agreement.

Functions of tensors alone. Targets are ``int64 [samples]``, -100 where there is no label; all
logits are ``[samples, classes]``; shares and accuracies are in per cent.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor
from torch.nn import functional as F

from kdcore.tasks import has_target

BINS = 15
"""Bins of confidence, as Guo et al. (2017) have them."""

COLDEST, HOTTEST = 0.05, 20.0
"""Temperatures are looked for between these: of validation samples that are all right the best
would be 0."""

DROWNS = 90.0
"""Per cent of the sum of gradient norms above which, in the median, a loss drowns the others."""


def predictions(logits: Tensor) -> Tensor:
    """Return the class of each sample, ``int64 [samples]``."""
    return logits.argmax(1)


def probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return softmax(logits / T), ``float64``."""
    return (logits.double() / temperature).softmax(1)


def confusion(said: Tensor, targets: Tensor, classes: int) -> Tensor:
    """Count labelled samples by their class (rows) and the class that was said (columns).

    Returns:
        ``int64 [classes, classes]``.
    """
    known = has_target(targets)
    pairs = targets[known] * classes + said[known]
    return torch.bincount(pairs, minlength=classes * classes).view(classes, classes)


def class_accuracy(counts: Tensor) -> list[float | None]:
    """Return of each class how many of its samples were recognised; None where it has none.

    Args:
        counts: as `confusion` returns them.
    """
    right, all_ = counts.diagonal().tolist(), counts.sum(1).tolist()
    return [100 * own / of if of else None for own, of in zip(right, all_, strict=True)]


def macro_f1(counts: Tensor) -> float:
    """Return the mean of ``2 TP / (2 TP + FP + FN)`` over classes that occur, in per cent.

    Args:
        counts: as `confusion` returns them.
    """
    right, both = counts.diagonal().double(), (counts.sum(0) + counts.sum(1)).double()
    occurs = both > 0
    return 100 * float((2 * right[occurs] / both[occurs]).mean())


@dataclass(frozen=True)
class Pair:
    """Samples of one class that were taken for another.

    Attributes:
        of: index of their class.
        taken_for: index of the other.
        count: how many.
        share: of all samples of the class, in per cent.
    """

    of: int
    taken_for: int
    count: int
    share: float


def most_confused(counts: Tensor, most: int) -> list[Pair]:
    """Return the pairs of classes that are confused most, the most frequent first.

    Args:
        counts: as `confusion` returns them.
        most: so many pairs at most.
    """
    wrong = counts.clone()
    wrong.fill_diagonal_(0)
    sizes, classes = counts.sum(1), len(counts)
    values, places = wrong.flatten().sort(descending=True, stable=True)
    found = [(v, p) for v, p in zip(values[:most].tolist(), places[:most].tolist(), strict=True)]
    return [
        Pair(place // classes, place % classes, count, 100 * count / int(sizes[place // classes]))
        for count, place in found
        if count
    ]


@dataclass(frozen=True)
class Bin:
    """Labelled samples whose confidence is within bounds.

    Attributes:
        low: confidence is above it, a share of 1.
        high: confidence is at most that.
        count: samples.
        confidence: their mean confidence, a share of 1; 0 without any.
        accuracy: how many were right, a share of 1; 0 without any.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def reliability(
    logits: Tensor, targets: Tensor, temperature: float = 1.0, bins: int = BINS
) -> list[Bin]:
    """Sort labelled samples into bins of equal width by the probability of the class said.

    Args:
        logits: of the samples.
        targets: of the same.
        temperature: that logits are divided by.
        bins: how many.
    """
    known = has_target(targets)
    confidence, said = probabilities(logits[known], temperature).max(1)
    right = (said == targets[known]).double()
    places = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    counts = torch.bincount(places, minlength=bins)
    sums = [torch.zeros(bins, dtype=torch.float64) for _ in range(2)]
    for total, values in zip(sums, (confidence, right), strict=True):
        total.index_add_(0, places, values)
    means = [(total / counts.clamp(min=1)).tolist() for total in sums]
    return [
        Bin(index / bins, (index + 1) / bins, count, means[0][index], means[1][index])
        for index, count in enumerate(counts.tolist())
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Return the expected calibration error: ``sum over bins of n / N |accuracy - confidence|``.

    Guo, Pleiss, Sun and Weinberger (2017), https://arxiv.org/abs/1706.04599; in per cent.
    """
    total = sum(each.count for each in bins)
    gaps = (each.count * abs(each.accuracy - each.confidence) for each in bins)
    return 100 * sum(gaps) / total if total else 0.0


def negative_log_likelihood(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> float:
    """Return the mean cross-entropy of labelled samples, in nats."""
    known = has_target(targets)
    return float(F.cross_entropy(logits[known].double() / temperature, targets[known]))


def fitted_temperature(logits: Tensor, targets: Tensor) -> float | None:
    """Return the temperature at which validation samples have the lowest cross-entropy.

    Temperature scaling of Guo et al. (2017). The cross-entropy is convex in ``1 / T`` and so has
    one minimum in T; it is looked for between `COLDEST` and `HOTTEST`.

    Args:
        logits: of the validation samples, never of those that are tested on.
        targets: of the same.

    Returns:
        The temperature; None where no sample has a label.
    """
    known = has_target(targets)
    if not bool(known.any()):
        return None
    from scipy.optimize import minimize_scalar

    own, labels = logits[known].double(), targets[known]

    def loss(log: float) -> float:
        return float(F.cross_entropy(own / math.exp(log), labels))

    bounds = (math.log(COLDEST), math.log(HOTTEST))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return math.exp(float(found.x))


@dataclass(frozen=True)
class Agreement:
    """How two models' predictions of the same samples go together, in per cent.

    Attributes:
        same: samples of which both say the same, labelled or not.
        both_right: of labelled samples: both are right.
        teacher_only: of these: the teacher alone is right.
        student_only: of these: the student alone is.
        same_wrong: of these: both are wrong in the same way.
        other_wrong: of these: both are wrong in different ways.
        divergence: mean of KL(teacher || student) at a temperature of 1, in nats.
    """

    same: float
    both_right: float
    teacher_only: float
    student_only: float
    same_wrong: float
    other_wrong: float
    divergence: float


def agreement(teacher: Tensor, student: Tensor, targets: Tensor) -> Agreement:
    """Hold a student's logits against a teacher's of the same samples."""
    theirs, own, known = predictions(teacher), predictions(student), has_target(targets)
    same = theirs == own
    taught, learned = (theirs == targets)[known], (own == targets)[known]
    alike = same[known]

    def share(chosen: Tensor) -> float:
        return 100 * float(chosen.double().mean())

    divergence = F.kl_div(
        student.double().log_softmax(1),
        teacher.double().log_softmax(1),
        reduction="batchmean",
        log_target=True,
    )
    return Agreement(
        share(same),
        share(taught & learned),
        share(taught & ~learned),
        share(~taught & learned),
        share(~taught & ~learned & alike),
        share(~taught & ~learned & ~alike),
        float(divergence),
    )


def drowning(shares: Sequence[Mapping[str, float]]) -> tuple[str, float] | None:
    """Return the loss whose median share in the gradient is above `DROWNS`, and that share.

    Args:
        shares: of each measurement, by label, of a sum of 1.

    Returns:
        Label and per cent; None where no loss drowns the others.
    """
    labels = {label for each in shares for label in each}
    medians = {
        label: 100
        * float(torch.tensor([each.get(label, 0.0) for each in shares]).double().median())
        for label in sorted(labels)
    }
    label = max(medians, key=lambda each: medians[each], default=None)
    return (label, medians[label]) if label is not None and medians[label] > DROWNS else None


def mean_of(values: Sequence[float | None]) -> float | None:
    """Return the mean of what there is of some values; None where there is nothing."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
