"""Regression, several labels, and no task: losses against PyTorch, scores against scikit-learn."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kdcore.errors import ConfigError, DataError
from kdcore.tasks import Counts, Mixed, Task
from kdcore.values import MultiLabel, NoTask, Regression

NAN = torch.nan
OUTPUTS = torch.tensor([[0.5, -1.0], [2.0, 3.0], [0.0, 0.25], [1.0, 1.5]], dtype=torch.float64)
TARGETS = torch.tensor([[1.0, -3.0], [2.5, NAN], [NAN, NAN], [-1.0, 1.5]])

LOSSES: dict[str, Callable[..., Tensor]] = {
    "squared": F.mse_loss,
    "absolute": F.l1_loss,
    "huber": F.huber_loss,
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_regressions_loss_is_that_of_each_value_that_is_known(name: Any) -> None:
    loss = Regression(name).loss(OUTPUTS, TARGETS)
    for at in range(4):
        for value in range(2):
            target = TARGETS[at, value].double()
            own = LOSSES[name](OUTPUTS[at, value], target)
            expected = 0.0 if target.isnan() else float(own)
            assert float(loss[at, value]) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("task", [Regression(), Regression("huber"), MultiLabel()])
def test_a_value_that_is_not_known_has_no_gradient(task: Task) -> None:
    outputs = OUTPUTS.clone().requires_grad_()
    targets = TARGETS.clamp(0, 1)
    (gradient,) = torch.autograd.grad(task.loss(outputs, targets).sum(), outputs)
    assert gradient.isfinite().all()
    assert not gradient[targets.isnan()].any()
    assert gradient[0].all()


def test_one_value_a_sample_may_come_with_or_without_a_dimension() -> None:
    task, outputs, targets = Regression(), OUTPUTS[:, 0], torch.tensor([1.0, 2.5, NAN, -1.0])
    losses = [
        task.loss(a, b)
        for a in (outputs, outputs.unsqueeze(1))
        for b in (targets, targets.unsqueeze(1))
    ]
    assert all(torch.equal(loss, losses[0]) for loss in losses)
    assert losses[0].shape == (4, 1)
    assert task.rows(outputs, targets).shape == task.row_shape(outputs.shape) == (4, 1)


def test_a_sample_is_a_row_whatever_it_has_of_targets() -> None:
    for task in (Regression(), MultiLabel()):
        assert task.count(4, TARGETS) == Counts(4, 4, torch.tensor(5))
        assert len(task.rows(OUTPUTS, TARGETS)) == 4
        assert not task.loss(OUTPUTS, task.unlabelled(OUTPUTS)).any()


@pytest.mark.parametrize("task", [Regression(), MultiLabel()])
@pytest.mark.parametrize(
    "targets",
    [
        torch.zeros(4, 3),
        torch.zeros(3, 2),
        torch.zeros(4),
        torch.zeros(4, 2, dtype=torch.int64),
    ],
)
def test_targets_that_do_not_fit_are_refused(task: Task, targets: Tensor) -> None:
    for use in (task.loss, task.tally):
        with pytest.raises(DataError, match=rf"{task.kind} takes .* floating-point.*, got \[4, 2"):
            use(OUTPUTS, targets)


def test_a_loss_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match="no loss 'cubic': squared, absolute or huber"):
        Regression("cubic")  # type: ignore[arg-type]


def test_a_regressions_scores_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(50, 3, generator=generator) + 2
    outputs = targets + 0.5 * torch.randn(50, 3, generator=generator)
    task = Regression()
    scores = task.scores(task.tally(outputs, targets))
    pair = (targets.double().numpy(), outputs.double().numpy())
    assert list(scores) == ["R²", "MAE", "RMSE"]
    assert scores["R²"] == pytest.approx(metrics.r2_score(*pair), rel=1e-12)
    assert scores["MAE"] == pytest.approx(metrics.mean_absolute_error(*pair), rel=1e-12)
    assert scores["RMSE"] == pytest.approx(metrics.root_mean_squared_error(*pair), rel=1e-12)


def test_r2_of_targets_far_from_zero_is_that_of_their_differences() -> None:
    targets = torch.tensor([1.7e9, 1.7e9 + 1000], dtype=torch.float64)
    task = Regression()
    found = task.scores(task.tally(targets + 1, targets))
    assert found["R²"] == pytest.approx(1 - 2 / 5e5, abs=1e-3)


def test_scores_are_of_known_values_and_add_up_over_batches() -> None:
    task = Regression()
    whole = task.tally(OUTPUTS, TARGETS)
    parts = task.tally(OUTPUTS[:1], TARGETS[:1]) + task.tally(OUTPUTS[1:], TARGETS[1:])
    assert torch.allclose(whole, parts, rtol=1e-15)
    # Errors of the first value are 0.5, 0.5 and 2, of the second 2 and 0.
    assert task.scores(whole)["MAE"] == pytest.approx((3 / 3 + 2 / 2) / 2)
    assert task.scores(whole)["RMSE"] == pytest.approx(((4.5 / 3) ** 0.5 + 2**0.5) / 2)
    assert task.scores(task.tally(OUTPUTS, task.unlabelled(OUTPUTS))) == {}


def test_r2_of_a_value_that_does_not_vary_is_one_where_it_is_met() -> None:
    task, same = Regression(), torch.full((5, 1), 0.1)
    assert task.scores(task.tally(same, same))["R²"] == 1.0
    assert task.scores(task.tally(same + 1, same))["R²"] == 0.0


def test_the_loss_of_several_labels_is_the_binary_cross_entropy_of_each() -> None:
    targets = torch.tensor([[1.0, 0.0], [0.0, NAN], [NAN, NAN], [1.0, 1.0]])
    loss = MultiLabel().loss(OUTPUTS, targets)
    p = torch.sigmoid(OUTPUTS)
    expected = torch.where(targets == 1, -p.log(), -(1 - p).log())
    expected[targets.isnan()] = 0
    assert torch.allclose(loss, expected, rtol=1e-13, atol=0)


def test_f1_and_label_accuracy_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(0)
    targets = (torch.rand(40, 5, generator=generator) < 0.3).float()
    logits = torch.randn(40, 5, generator=generator) + targets
    task = MultiLabel()
    scores = task.scores(task.tally(logits, targets))
    predicted = (logits > 0).int().numpy()
    assert list(scores) == ["F1", "label accuracy"]
    expected = metrics.f1_score(targets.int().numpy(), predicted, average="micro")
    assert scores["F1"] == pytest.approx(100 * expected, rel=1e-12)
    right = float((torch.tensor(predicted) == targets).double().mean())
    assert scores["label accuracy"] == pytest.approx(100 * right, rel=1e-12)


def test_labels_that_are_not_known_are_not_scored() -> None:
    task, logits = MultiLabel(), torch.tensor([[1.0, -1.0, 1.0]])
    tally = task.tally(logits, torch.tensor([[1.0, NAN, 0.0]]))
    assert tally.tolist() == [2, 1, 1, 1, 0]
    assert task.scores(tally) == {"F1": pytest.approx(200 / 3), "label accuracy": 50.0}
    nothing = task.tally(logits, torch.zeros(1, 3) * NAN)
    assert task.scores(nothing) == {}
    assert task.scores(task.tally(-logits.abs(), torch.zeros(1, 3))) == {
        "F1": 0.0,
        "label accuracy": 100.0,
    }


@pytest.mark.parametrize("task", [Regression(), MultiLabel()])
def test_mixed_samples_are_refused(task: Task) -> None:
    with pytest.raises(DataError, match=f"mix the labels of whole images, which {task.kind} has"):
        task.mixed_loss(OUTPUTS, TARGETS, Mixed(TARGETS, torch.ones(4)))


# No task


def _distance(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs[:, 0] - targets[:, 0]).abs()


def test_no_task_has_no_loss_and_no_scores() -> None:
    task = NoTask()
    assert not task.loss(OUTPUTS, TARGETS).any()
    assert task.count(4, TARGETS) == Counts(4, 4, torch.tensor(0))
    assert (task.metrics, task.metric, task.scores(task.tally(OUTPUTS, TARGETS))) == ((), None, {})


def test_any_function_may_be_its_metric() -> None:
    task = NoTask(_distance, "distance", higher_is_better=False)
    tally = task.tally(OUTPUTS[:2], TARGETS[:2]) + task.tally(OUTPUTS[3:], TARGETS[3:])
    assert task.scores(tally) == {"distance": pytest.approx(1.0)}
    assert task.metric is not None
    assert not task.metric.higher_is_better
    assert task.facts()["metric"] == f"{__name__}:_distance"


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (lambda o, _: o, r"must return one value a sample \[4\], got \[4, 2\]"),
        (lambda o, _: 1.0, "must return one value a sample .* got float"),  # noqa: ARG005
        (lambda o, _: o.missing, "the metric 'score' failed: AttributeError"),
    ],
)
def test_a_metric_that_does_not_do_is_named(metric: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        NoTask(metric).tally(OUTPUTS, TARGETS)
