"""Soft targets against the formula of Hinton et al. 2015, written out in plain Python."""

import math

import pytest
import torch
from torch import Tensor, nn

import kdcore
from kdcore import Distiller, Features
from kdcore.errors import ConfigError, ModelError, StrategyError
from kdcore.testing import StrategyTests
from kdcore_logits import Logits


class TestConformance(StrategyTests):
    strategy = "logits"


def _loss(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    return Logits(temperature=temperature).compute_auxiliary_loss(
        student=Features({}, student), teacher=Features({}, teacher)
    )


def _pair(classes: int = 5, rows: int = 4, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = scale * torch.randn(2, rows, classes, generator=generator).double()
    return student, teacher


def _softened(logits: list[float], temperature: float) -> list[float]:
    """Return ``exp(z_i / T) / Σ exp(z_j / T)``."""
    exponentials = [math.exp(logit / temperature) for logit in logits]
    return [value / math.fsum(exponentials) for value in exponentials]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 20.0])
def test_it_is_the_formula_row_by_row(temperature: float) -> None:
    student, teacher = _pair()
    expected = []
    for z, v in zip(student.tolist(), teacher.tolist(), strict=True):
        q, p = _softened(z, temperature), _softened(v, temperature)
        divergence = math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        expected.append(temperature**2 * divergence)
    assert _loss(student, teacher, temperature).tolist() == pytest.approx(expected, rel=1e-12)


def test_its_gradient_is_that_of_the_paper() -> None:
    # Hinton et al. 2015, equation 2, times T²: T (q_i - p_i).
    student, teacher = _pair()
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(_loss(student, teacher, 4.0).sum(), student)
    for row, z, v in zip(gradient.tolist(), student.tolist(), teacher.tolist(), strict=True):
        q, p = _softened(z, 4.0), _softened(v, 4.0)
        assert row == pytest.approx([4.0 * (a - b) for a, b in zip(q, p, strict=True)], rel=1e-10)


def test_its_gradient_is_that_of_its_value() -> None:
    student, teacher = _pair()
    assert torch.autograd.gradcheck(lambda z: _loss(z, teacher), student.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_zero_at_equality_with_its_gradient(dtype: torch.dtype) -> None:
    student = _pair()[0].to(dtype).requires_grad_()
    loss = _loss(student, student.detach())
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert loss.tolist() == [0.0] * 4
    assert float(gradient.abs().max()) < 10 * torch.finfo(dtype).eps


def test_it_is_positive_and_not_symmetric() -> None:
    student, teacher = _pair()
    one, other = _loss(student, teacher), _loss(teacher, student)
    assert bool((one > 0).all())
    assert not bool(torch.isclose(one, other, rtol=1e-3).any())


def test_adding_a_constant_to_the_logits_changes_nothing() -> None:
    student, teacher = _pair()
    shifted = _loss(student + 7.0, teacher - 3.0)
    assert torch.allclose(shifted, _loss(student, teacher), rtol=1e-12)


def test_scaling_logits_and_temperature_scales_it_by_the_square() -> None:
    student, teacher = _pair()
    scaled = _loss(3.0 * student, 3.0 * teacher, 6.0)
    assert torch.allclose(scaled, 9.0 * _loss(student, teacher, 2.0), rtol=1e-12)


def test_at_high_temperatures_it_compares_centred_logits() -> None:
    # Hinton et al. 2015, section 2.1: it tends to half the mean squared difference of the logits.
    student, teacher = _pair()
    difference = student - teacher
    centred = difference - difference.mean(1, keepdim=True)
    limit = centred.square().mean(1) / 2
    assert torch.allclose(_loss(student, teacher, 1e4), limit, rtol=1e-3)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_it_is_finite_where_a_probability_of_the_teacher_underflows(temperature: float) -> None:
    teacher = torch.tensor([[0.0, 300.0, -10.0]])
    student = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    loss = _loss(student, teacher, temperature)
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    # The teacher is certain of class 1: T² · -log q_1.
    expected = -(temperature**2) * math.log(_softened([1.0, 2.0, 3.0], temperature)[1])
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert bool(gradient.isfinite().all())
    # What the tutorial computes of the same logits is no number.
    soft = torch.softmax(teacher / temperature, dim=-1)
    log_soft = torch.log_softmax(student / temperature, dim=-1)
    assert math.isnan((soft * (soft.log() - log_soft)).sum().item())


def test_classes_that_are_ruled_out_in_both_models_count_for_nothing() -> None:
    student, teacher = _pair()
    ruled_out = torch.full((4, 1), -math.inf, dtype=torch.float64)
    wider = torch.cat([student, ruled_out], dim=1).requires_grad_()
    loss = _loss(wider, torch.cat([teacher, ruled_out], dim=1))
    (gradient,) = torch.autograd.grad(loss.sum(), wider)
    assert torch.allclose(loss, _loss(student, teacher), rtol=1e-12)
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("temperature", [0, -1.0, math.nan, math.inf, "hot"])
def test_a_temperature_that_is_none_is_refused(temperature: object) -> None:
    with pytest.raises(ConfigError, match="temperature"):
        Logits(temperature=temperature)


def test_models_of_other_classes_are_refused() -> None:
    with pytest.raises(ModelError, match="student has 3 classes and the teacher 4"):
        Distiller(nn.Linear(2, 4), nn.Linear(2, 3), ["logits"], sample_input=torch.ones(2, 2))


def test_without_settings_it_is_the_tutorials() -> None:
    assert Logits().settings.model_dump() == {"temperature": 2.0}
    assert (Logits.recommended.weight, Logits.recommended.task_weight) == (0.25, 0.75)


@pytest.mark.parametrize("task", [kdcore.Regression(), kdcore.MultiLabel()])
def test_tasks_whose_outputs_are_no_classes_are_refused(task: kdcore.Task) -> None:
    models = nn.Linear(3, 2), nn.Linear(3, 2)
    with pytest.raises(StrategyError, match=f"which the outputs of {task.kind} are not"):
        Distiller(*models, ["logits"], sample_input=torch.zeros(2, 3), task=task)


def test_a_sequence_is_compared_token_by_token() -> None:
    teacher, student = nn.Linear(3, 4), nn.Linear(3, 4)
    inputs = torch.randn(2, 5, 3)
    targets = torch.tensor([[0, 1, -100, -100, -100], [3, 2, 1, 0, -100]])
    task = kdcore.Sequences()
    with Distiller(teacher, student, ["logits"], sample_input=inputs, task=task) as distiller:
        found = distiller(inputs, targets).auxiliary["logits"].detach()
    known = targets != -100
    assert torch.allclose(found, _loss(student(inputs)[known], teacher(inputs)[known]).mean())
