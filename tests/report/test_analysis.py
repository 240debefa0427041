"""Against hand-made numbers, scikit-learn, and computation in another way."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from kdcore.report.analysis import (
    DROWNS,
    Bin,
    Pair,
    agreement,
    calibration_error,
    class_accuracy,
    confusion,
    drowning,
    fitted_temperature,
    macro_f1,
    mean_of,
    most_confused,
    negative_log_likelihood,
    predictions,
    probabilities,
    reliability,
)
from kdcore.tasks import UNLABELLED
from tests.extras import needed

GENERATOR = torch.Generator().manual_seed(5)
LOGITS = torch.randn(400, 7, generator=GENERATOR)
TARGETS = torch.randint(0, 7, (400,), generator=GENERATOR)
LOGITS[torch.arange(400), TARGETS] += 1.5
TARGETS[::9] = UNLABELLED
KNOWN = TARGETS != UNLABELLED


def test_confusion_and_scores_are_those_of_scikit_learn() -> None:
    metrics = needed("sklearn.metrics")
    said = predictions(LOGITS)
    counts = confusion(said, TARGETS, 7)
    ours, theirs = TARGETS[KNOWN].numpy(), said[KNOWN].numpy()
    assert counts.tolist() == metrics.confusion_matrix(ours, theirs, labels=range(7)).tolist()
    expected = metrics.f1_score(ours, theirs, average="macro")
    assert macro_f1(counts) == pytest.approx(100 * expected, abs=1e-10)
    recall = metrics.recall_score(ours, theirs, average=None)
    assert class_accuracy(counts) == pytest.approx((100 * recall).tolist(), abs=1e-10)


def test_a_class_that_does_not_occur_has_no_accuracy_and_is_no_part_of_macro_f1() -> None:
    counts = confusion(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), 3)
    assert class_accuracy(counts) == [50.0, 100.0, None]
    assert macro_f1(counts) == pytest.approx(100 * (2 / 3 + 2 / 3) / 2)


def test_the_most_confused_pairs_come_first_and_right_ones_not_at_all() -> None:
    counts = torch.tensor([[5, 3, 0], [1, 9, 0], [0, 4, 0]])
    assert most_confused(counts, 2) == [Pair(2, 1, 4, 100.0), Pair(0, 1, 3, 37.5)]
    assert len(most_confused(counts, 20)) == 3


def test_reliability_by_hand() -> None:
    # Confidences 0.9, 0.9, 0.6, the first right, the others wrong; one without a label.
    shares = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.5, 0.5]], dtype=torch.float64)
    targets = torch.tensor([0, 1, 0, UNLABELLED])
    bins = reliability(shares.log(), targets, bins=10)
    assert [each.count for each in bins] == [0] * 5 + [1, 0, 0, 2, 0]
    assert bins[8].accuracy == 0.5
    assert bins[8].confidence == pytest.approx(0.9)
    assert bins[0] == Bin(0.0, 0.1, 0, 0.0, 0.0)
    expected = 100 * (2 / 3 * abs(0.5 - 0.9) + 1 / 3 * abs(0.0 - 0.6))
    assert calibration_error(bins) == pytest.approx(expected)


def test_calibration_is_what_numpy_finds() -> None:
    shares = torch.softmax(LOGITS[KNOWN].double(), 1).numpy()
    confidence, right = shares.max(1), shares.argmax(1) == TARGETS[KNOWN].numpy()
    edges, error = np.linspace(0, 1, 16), 0.0
    for low, high in pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert calibration_error(reliability(LOGITS, TARGETS)) == pytest.approx(100 * error, abs=1e-9)


def test_nothing_is_no_error() -> None:
    assert calibration_error([Bin(0, 1, 0, 0, 0)]) == 0


def test_samples_that_are_wholly_sure_fall_into_the_last_bin() -> None:
    bins = reliability(torch.tensor([[1000.0, 0.0]]), torch.tensor([0]))
    assert bins[-1].count == 1


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
def test_the_fitted_temperature_undoes_a_factor_and_has_the_lowest_loss(factor: float) -> None:
    plain = fitted_temperature(LOGITS, TARGETS)
    scaled = fitted_temperature(factor * LOGITS, TARGETS)
    assert plain is not None
    assert scaled is not None
    assert scaled == pytest.approx(factor * plain, rel=1e-4)
    tried = [plain * 1.02**step for step in range(-80, 81)]
    losses = [negative_log_likelihood(LOGITS, TARGETS, each) for each in tried]
    assert min(losses) == pytest.approx(losses[80], abs=1e-9)


def test_the_loss_is_pytorchs_and_one_that_ignores_labels_is_not() -> None:
    expected = F.cross_entropy(LOGITS.double() / 2, TARGETS)
    assert negative_log_likelihood(LOGITS, TARGETS, 2.0) == pytest.approx(float(expected))
    assert fitted_temperature(LOGITS, torch.full_like(TARGETS, UNLABELLED)) is None


def test_all_right_on_validation_gives_a_temperature_within_bounds() -> None:
    found = fitted_temperature(torch.eye(4) * 3, torch.arange(4))
    assert found is not None
    assert 0 < found < 0.1
    assert math.isfinite(found)


def test_probabilities_grow_alike_with_the_temperature() -> None:
    logits = torch.tensor([[2.0, 0.0]])
    hot = probabilities(logits, 4.0)
    assert float(hot[0, 0]) == pytest.approx(1 / (1 + math.exp(-0.5)))
    assert hot.dtype == torch.float64


def test_agreement_by_hand() -> None:
    # Said by the teacher: 0 0 1 1 2 0, by the student: 0 1 1 2 2 0; the last has no label.
    teacher = F.one_hot(torch.tensor([0, 0, 1, 1, 2, 0]), 3).float()
    student = F.one_hot(torch.tensor([0, 1, 1, 2, 2, 0]), 3).float()
    targets = torch.tensor([0, 0, 1, 2, 0, UNLABELLED])
    found = agreement(teacher, student, targets)
    assert found.same == pytest.approx(100 * 4 / 6)
    assert (found.both_right, found.teacher_only, found.student_only) == (40, 20, 20)
    assert (found.same_wrong, found.other_wrong) == (20, 0)
    p, q = teacher.double().softmax(1), student.double().softmax(1)
    assert found.divergence == pytest.approx(float((p * (p / q).log()).sum(1).mean()))


def test_a_model_agrees_with_itself() -> None:
    found = agreement(LOGITS, LOGITS, TARGETS)
    assert found.same == 100
    assert found.divergence == pytest.approx(0, abs=1e-12)
    assert found.teacher_only == found.student_only == found.other_wrong == 0


def test_a_loss_drowns_the_others_above_the_bound_alone() -> None:
    bound = DROWNS / 100
    loud = [{"task": bound + 0.01, "hint": 0.09 - 0.01}] * 3
    found = drowning(loud)
    assert found is not None
    assert found[0] == "task"
    assert found[1] == pytest.approx(DROWNS + 1)
    # The median counts, not one measurement.
    assert drowning([*loud, *[{"task": 0.5, "hint": 0.5}] * 4]) is None
    assert drowning([{"task": bound - 0.01, "hint": 0.11}] * 3) is None
    assert drowning([]) is None


def test_a_mean_leaves_out_what_is_not_there() -> None:
    assert mean_of([1.0, None, 3.0]) == 2.0
    assert mean_of([None]) is None
