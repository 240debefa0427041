"""Classification: cross-entropy against Python's floats, what counts, and what is masked."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kdcore.errors import DataError
from kdcore.tasks import MACRO_F1, UNLABELLED, Classification, Counts, Mixed, no_targets

LOGITS = torch.tensor(
    [[2.0, -1.0, 0.5], [0.0, 0.0, 0.0], [-3.0, 4.0, 1.0], [1.0, 1.5, -2.0]], dtype=torch.float64
)
TARGETS = torch.tensor([0, 2, 0, 1])


def _log_softmax(row: list[float]) -> list[float]:
    total = math.log(math.fsum(map(math.exp, row)))
    return [value - total for value in row]


def _entropies(smoothing: float) -> list[float]:
    losses = []
    for row, target in zip(LOGITS.tolist(), TARGETS.tolist(), strict=True):
        log_q = _log_softmax(row)
        hard, uniform = -log_q[target], -math.fsum(log_q) / len(row)
        losses.append((1 - smoothing) * hard + smoothing * uniform)
    return losses


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_its_loss_is_the_cross_entropy_of_each_sample(smoothing: float) -> None:
    loss = Classification(label_smoothing=smoothing).loss(LOGITS, TARGETS)
    assert loss.tolist() == pytest.approx(_entropies(smoothing), rel=1e-13)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_sample_without_a_label_has_no_loss_and_no_gradient(smoothing: float) -> None:
    targets = TARGETS.clone()
    targets[2] = UNLABELLED
    logits = LOGITS.clone().requires_grad_()
    loss = Classification(smoothing).loss(logits, targets)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert loss[2] == 0
    assert gradient[2].tolist() == [0.0, 0.0, 0.0]
    assert loss[[0, 1, 3]].min() > 0
    assert gradient[[0, 1, 3]].abs().sum(1).min() > 0


@pytest.mark.parametrize(
    ("logits", "targets"),
    [
        (LOGITS, TARGETS[:1]),
        (LOGITS, TARGETS.reshape(4, 1)),
        (LOGITS[0], TARGETS[:1]),
        (LOGITS.reshape(2, 2, 3), TARGETS.reshape(2, 2)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(logits: Tensor, targets: Tensor) -> None:
    with pytest.raises(DataError, match=r"takes logits \[batch, classes\] and targets \[batch\]"):
        Classification().loss(logits, targets)


def test_it_counts_samples_rows_and_labels() -> None:
    counts = Classification().count(4, torch.tensor([1, UNLABELLED, 0, UNLABELLED]))
    assert (counts.samples, counts.rows, int(counts.labelled)) == (4, 4, 2)
    assert counts.labelled.shape == ()


def test_counts_of_parts_add_up_to_those_of_the_whole() -> None:
    task = Classification()
    targets = torch.tensor([1, UNLABELLED, 0, 2, UNLABELLED])
    parts = task.count(3, targets[:3]) + task.count(2, targets[3:])
    assert parts == task.count(5, targets) == Counts(5, 5, torch.tensor(3))


def test_accuracy_is_of_labelled_samples_alone() -> None:
    def accuracy(*targets: int) -> dict[str, float]:
        task = Classification()
        return task.scores(task.tally(LOGITS, torch.tensor(targets)))

    # Largest logits are of classes 0, 0 (the first of equals), 1 and 1.
    assert accuracy(0, 2, 1, 1)["accuracy"] == 75.0
    assert accuracy(0, 2, UNLABELLED, 1)["accuracy"] == pytest.approx(100 * 2 / 3)
    assert accuracy(*[UNLABELLED] * 4) == {}


@pytest.mark.parametrize("missing", [False, True])
def test_macro_f1_is_that_of_scikit_learn(missing: bool) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(200, 7, generator=generator)
    targets = torch.randint(7, (200,), generator=generator)
    logits[:, 5], targets[targets == 5] = -9.0, 4  # a class that nobody has and nobody is taken for
    labelled = torch.rand(200, generator=generator) < (0.6 if missing else 1.0)
    task = Classification()
    tallied = task.tally(logits, targets.where(labelled, torch.tensor(UNLABELLED)))
    expected = metrics.f1_score(targets[labelled], logits.argmax(1)[labelled], average="macro")
    assert task.scores(tallied)["macro-F1"] == pytest.approx(100 * expected, rel=1e-12)
    assert expected != pytest.approx(
        metrics.f1_score(targets[labelled], logits.argmax(1)[labelled], average="micro"), rel=1e-3
    )


def test_what_is_tallied_of_parts_adds_up_to_the_tally_of_the_whole() -> None:
    task, targets = Classification(), torch.tensor([0, 2, UNLABELLED, 1])
    parts = task.tally(LOGITS[:1], targets[:1]) + task.tally(LOGITS[1:], targets[1:])
    assert torch.equal(parts, task.tally(LOGITS, targets))


def test_the_score_that_chooses_weights_comes_first() -> None:
    tallied = Classification().tally(LOGITS, TARGETS)
    for task, first in (
        (Classification(), "accuracy"),
        (Classification(0.0, MACRO_F1), "macro-F1"),
    ):
        assert task.metric is not None
        assert next(iter(task.scores(tallied))) == task.metric.name == first
    assert Classification().facts() != Classification(0.0, MACRO_F1).facts()


def test_all_rows_are_what_methods_compare() -> None:
    assert Classification().rows(LOGITS, no_targets(4, LOGITS.device)) is LOGITS


def test_targets_of_samples_without_labels_are_those_that_pytorch_ignores() -> None:
    targets = no_targets(3, torch.device("cpu"))
    assert targets.tolist() == [-100, -100, -100]
    assert targets.dtype == torch.int64
    assert no_targets(3, torch.device("meta")).device.type == "meta"


def test_a_mixed_samples_loss_is_that_of_both_targets_by_their_shares() -> None:
    logits = torch.tensor([[2.0, 0.0], [1.0, 3.0], [0.5, 0.5]], dtype=torch.float64)
    targets, others = torch.tensor([0, 1, -100]), torch.tensor([1, 1, -100])
    mixed = Mixed(others, torch.tensor([0.75, 0.6, 0.9]))
    task = Classification()
    loss = task.mixed_loss(logits, targets, mixed)
    first, second = (-F.log_softmax(logits, 1)[i] for i in (0, 1))
    expected = [0.75 * first[0] + 0.25 * first[1], second[1], torch.tensor(0.0)]
    assert loss.tolist() == pytest.approx([value.item() for value in expected], rel=1e-6)
    assert torch.equal(task.mixed_loss(logits, targets, None), task.loss(logits, targets))


def test_targets_without_any_label_say_of_no_classes() -> None:
    assert Classification().outputs(torch.tensor([UNLABELLED, UNLABELLED])) is None
    assert Classification().outputs(torch.tensor([UNLABELLED, 2])) == 3
