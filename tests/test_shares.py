"""Shares of losses in the student's gradient, against gradients taken by hand."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdcore.api.distill import distill
from kdcore.contract import Features
from kdcore.distiller import Distiller
from kdcore.hookspecs import hookimpl
from kdcore.readings import StepRecord
from kdcore.shares import FEWEST_STEPS, GradientShares
from kdcore.strategy import Strategy

IMAGES = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8) % 3


def _model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 6), nn.ReLU(), nn.Linear(6, 3))


def _distiller(**more: Any) -> Distiller:
    strategies = [{"name": "logits", "weight": 0.5}]
    return Distiller(
        _model(1), _model(2), strategies, task_weight=0.25, sample_input=IMAGES[:2], **more
    )


def _norm(model: nn.Module, loss: Tensor) -> float:
    found = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    return float(torch.cat([each.flatten() for each in found]).norm())


def test_shares_are_those_of_the_norms_of_weighted_gradients() -> None:
    distiller = _distiller()
    losses = distiller(IMAGES, LABELS)
    found = GradientShares(distiller, 1, plain=True).of(losses)
    task = 0.25 * _norm(distiller.student, losses.task)
    logits = 0.5 * _norm(distiller.student, losses.auxiliary["logits"])
    assert float(found["task"]) == pytest.approx(task / (task + logits), rel=1e-5)
    assert float(found["logits"]) == pytest.approx(logits / (task + logits), rel=1e-5)


def test_one_loss_alone_has_no_shares() -> None:
    distiller = Distiller(None, _model(2))
    assert GradientShares(distiller, 1, plain=True).of(distiller(IMAGES, LABELS)) == {}


def test_they_are_measured_now_and_then() -> None:
    distiller = _distiller()
    few, many = (GradientShares(distiller, steps, plain=True) for steps in (100, 4000))
    due = {"few": list[int](), "many": list[int]()}
    for step in range(4000):
        distiller.step = step
        for name, each in (("few", few), ("many", many)):
            if each.due:
                due[name].append(step)
    assert due["few"][:3] == [0, FEWEST_STEPS, 2 * FEWEST_STEPS]
    assert due["many"] == list(range(0, 4000, 100))
    assert not GradientShares(distiller, 100, plain=False).due


class _Heard:
    def __init__(self) -> None:
        self.records: list[StepRecord] = []

    def on_step(self, record: StepRecord) -> None:
        self.records.append(record)

    def on_epoch(self, record: object) -> None: ...


def test_measuring_changes_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    heard, silent = _Heard(), _Heard()
    given: Any = {"epochs": 3, "batch_size": 4, "accumulate": 2, "task_weight": 0.5}
    for each in (heard, silent):
        distill(
            _model(1), _model(2), (IMAGES, LABELS), (IMAGES, LABELS), ["logits"],
            observers=[each], **given,
        )  # fmt: skip
        monkeypatch.setattr("kdcore.shares.GradientShares.due", False)
    assert [each.losses for each in heard.records] == [each.losses for each in silent.records]
    measured = [each for each in heard.records if each.shares]
    assert [each.step for each in measured] == [0]
    assert sum(measured[0].shares.values()) == pytest.approx(1)
    assert not any(each.shares for each in silent.records)


def test_a_loss_of_the_adapters_alone_has_no_share_in_the_students_gradient() -> None:
    class Elsewhere(Strategy):
        """Goes nowhere near the student but by a number."""

        @hookimpl
        def compute_auxiliary_loss(self, student: Features) -> Tensor:
            return student.logits.sum(1) * 0.0

    distiller = Distiller(_model(1), _model(2), [Elsewhere()], sample_input=IMAGES[:2])
    found = GradientShares(distiller, 1, plain=True).of(distiller(IMAGES, LABELS))
    assert float(found["elsewhere"]) == 0
    assert float(found["task"]) == 1


def test_a_record_without_a_measurement_has_none() -> None:
    assert StepRecord(0, 0, 1, 1, {"total": 1.0}).shares == {}


def test_where_no_loss_has_a_gradient_shares_are_zero_and_not_no_numbers() -> None:
    distiller = _distiller()
    losses = distiller(IMAGES, LABELS)
    still = replace(
        losses,
        task=losses.task * 0.0,
        auxiliary={name: each * 0.0 for name, each in losses.auxiliary.items()},
    )
    found = GradientShares(distiller, 1, plain=True).of(still)
    assert [float(each) for each in found.values()] == [0.0, 0.0]
