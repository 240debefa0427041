"""DIST against the formula of Huang et al. 2022, written out in numpy's float64."""

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import kdcore
from kdcore import Distiller, Features
from kdcore.errors import ConfigError, ModelError, StrategyError
from kdcore.testing import StrategyTests
from kdcore_dist import DIST

Array = NDArray[np.float64]


class TestConformance(StrategyTests):
    strategy = "dist"


class TestConformanceAsOnImageNet(StrategyTests):
    strategy = "dist"
    settings = {"temperature": 1.0}  # noqa: RUF012


class TestConformanceOfOneCorrelation(StrategyTests):
    strategy = "dist"
    settings = {"beta": 0.0, "gamma": 3.0}  # noqa: RUF012


def _losses(student: Tensor, teacher: Tensor, **settings: float) -> Mapping[str, Tensor]:
    losses = DIST(**settings).compute_auxiliary_loss(
        student=Features({}, student), teacher=Features({}, teacher)
    )
    assert isinstance(losses, Mapping)
    return losses


def _total(student: Tensor, teacher: Tensor, **settings: float) -> Tensor:
    losses = _losses(student, teacher, **settings)
    return losses["inter"].mean() + losses["intra"]


def _pair(rows: int = 6, classes: int = 5, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = scale * torch.randn(2, rows, classes, generator=generator).double()
    return student, teacher


def _softened(logits: Tensor, temperature: float) -> Array:
    """Return ``exp(z_ij / T) / Σ_k exp(z_ik / T)``."""
    result = np.empty(tuple(logits.shape))
    for i, row in enumerate(logits.tolist()):
        exponentials = [math.exp(value / temperature) for value in row]
        result[i] = [value / math.fsum(exponentials) for value in exponentials]
    return result


def _rho(one: Array, other: Array) -> float:
    """Return Pearson's correlation, ``Σ (a - ā) (b - b̄) / √(Σ (a - ā)² Σ (b - b̄)²)``."""
    first, second = math.fsum(one) / len(one), math.fsum(other) / len(other)
    both = math.fsum((a - first) * (b - second) for a, b in zip(one, other, strict=True))
    own = math.fsum((a - first) ** 2 for a in one)
    others = math.fsum((b - second) ** 2 for b in other)
    return both / math.sqrt(own * others)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_inter_is_the_correlation_over_the_classes_of_each_row(temperature: float) -> None:
    student, teacher = _pair()
    y_s, y_t = _softened(student, temperature), _softened(teacher, temperature)
    expected = [2 * (1 - _rho(y_s[i], y_t[i])) for i in range(6)]
    found = _losses(student, teacher, temperature=temperature)["inter"]
    assert found.tolist() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_intra_is_the_mean_correlation_over_the_rows_of_each_class(temperature: float) -> None:
    student, teacher = _pair()
    y_s, y_t = _softened(student, temperature), _softened(teacher, temperature)
    expected = 2 * math.fsum(1 - _rho(y_s[:, j], y_t[:, j]) for j in range(5)) / 5
    found = _losses(student, teacher, temperature=temperature)["intra"]
    assert found.ndim == 0
    assert found.item() == pytest.approx(expected, rel=1e-10)


def test_beta_and_gamma_weight_the_two() -> None:
    student, teacher = _pair()
    one = _losses(student, teacher, beta=1, gamma=1)
    other = _losses(student, teacher, beta=3, gamma=0.5)
    assert torch.allclose(other["inter"], 3 * one["inter"], rtol=1e-12)
    assert torch.allclose(other["intra"], 0.5 * one["intra"], rtol=1e-12)


def test_its_gradient_is_that_of_its_value() -> None:
    student, teacher = _pair()
    assert torch.autograd.gradcheck(lambda z: _total(z, teacher), student.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_zero_at_equality_with_its_gradient(dtype: torch.dtype) -> None:
    student = _pair()[0].to(dtype).requires_grad_()
    losses = _losses(student, student.detach())
    (gradient,) = torch.autograd.grad(losses["inter"].sum() + losses["intra"], student)
    eps = torch.finfo(dtype).eps
    assert float(losses["inter"].detach().abs().max()) < 10 * eps
    assert abs(losses["intra"].item()) < 10 * eps
    assert float(gradient.abs().max()) < 100 * eps


@pytest.mark.parametrize("scale", [0.25, 0.5])
def test_predictions_that_are_mixed_with_even_ones_are_as_good(scale: float) -> None:
    # Huang et al. 2022: unlike a divergence, it leaves the student free in shift and scale.
    teacher = _pair()[1]
    y_t = teacher.softmax(1)
    student = (scale * y_t + (1 - scale) / 5).log()
    losses = _losses(student, teacher, temperature=1)
    assert float(losses["inter"].detach().abs().max()) < 1e-12
    assert abs(losses["intra"].item()) < 1e-12


def test_it_is_symmetric_and_between_zero_and_two_of_each_weight() -> None:
    student, teacher = _pair()
    one, other = _losses(student, teacher), _losses(teacher, student)
    for name in ("inter", "intra"):
        assert torch.allclose(one[name], other[name], rtol=1e-12)
        assert bool((one[name] > 0).all())
        assert bool((one[name] < 4).all())


def test_opposite_predictions_of_two_classes_give_the_most() -> None:
    # Two probabilities add up to one: they correlate with 1 or -1, and -1 when they are swapped.
    student = _pair(classes=2)[0]
    losses = _losses(student, student.flip(1))
    assert losses["inter"].tolist() == pytest.approx([4.0] * 6)
    assert losses["intra"].item() == pytest.approx(4.0)


def test_adding_a_constant_to_the_logits_of_a_row_changes_nothing() -> None:
    student, teacher = _pair()
    shift = torch.arange(6.0).double()[:, None]
    assert torch.allclose(
        _total(student + shift, teacher - shift), _total(student, teacher), rtol=1e-10
    )


def test_a_batch_of_one_has_no_intra() -> None:
    student, teacher = _pair(rows=1)
    losses = _losses(student.requires_grad_(), teacher)
    (gradient,) = torch.autograd.grad(losses["intra"], student)
    assert losses["intra"].item() == 0.0
    assert not bool(gradient.any())
    assert losses["inter"].item() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_samples_count_for_nothing_over_samples(dtype: torch.dtype) -> None:
    student, teacher = (logits[:1].to(dtype).repeat(7, 1) for logits in _pair())
    losses = _losses(student.requires_grad_(), teacher)
    (gradient,) = torch.autograd.grad(losses["intra"], student)
    assert losses["intra"].item() == 0.0
    assert not bool(gradient.any())
    # Without the guard it would be correlated what rounding leaves of equal values.
    y = (teacher / 4).softmax(1)
    assert bool((y.T - y.T.mean(1, keepdim=True)).any())


def test_a_student_that_does_not_vary_is_uncorrelated() -> None:
    teacher = _pair()[1]
    student = torch.zeros_like(teacher, requires_grad=True)
    losses = _losses(student, teacher)
    (gradient,) = torch.autograd.grad(losses["inter"].sum() + losses["intra"], student)
    assert losses["inter"].tolist() == [2.0] * 6
    assert losses["intra"].item() == pytest.approx(2.0)
    assert bool(gradient.isfinite().all())


def test_it_is_finite_where_the_teacher_underflows() -> None:
    student, teacher = (logits.float() for logits in _pair())
    loss = _total(student.requires_grad_(), 1e4 * teacher)
    (gradient,) = torch.autograd.grad(loss, student)
    certain = (1e4 * teacher / 4).softmax(1)
    unused = certain.sum(0) == 0
    assert bool(unused.any())  # a class of which the teacher is nowhere certain
    assert bool(loss.isfinite())
    assert bool(gradient.isfinite().all())
    # A plain quotient is no number there.
    column = certain[:, unused][:, 0]
    centred = column - column.mean()
    assert math.isnan((centred / centred.norm()).sum().item())


def test_classes_that_are_ruled_out_in_both_models_have_finite_gradients() -> None:
    student, teacher = _pair()
    ruled_out = torch.full((6, 1), -math.inf, dtype=torch.float64)
    wider = torch.cat([student, ruled_out], dim=1).requires_grad_()
    losses = _losses(wider, torch.cat([teacher, ruled_out], dim=1))
    (gradient,) = torch.autograd.grad(losses["inter"].sum() + losses["intra"], wider)
    assert torch.allclose(losses["intra"], _losses(student, teacher)["intra"] * 5 / 6)
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("temperature", 0),
        ("temperature", -1.0),
        ("temperature", math.nan),
        ("beta", -0.1),
        ("gamma", math.inf),
        ("gamma", "much"),
    ],
)
def test_a_setting_out_of_bounds_is_refused(setting: str, value: object) -> None:
    with pytest.raises(ConfigError, match=setting):
        DIST(**{setting: value})


def test_models_of_other_classes_are_refused() -> None:
    with pytest.raises(ModelError, match="student has 3 classes and the teacher 4"):
        Distiller(nn.Linear(2, 4), nn.Linear(2, 3), ["dist"], sample_input=torch.ones(2, 2))


@pytest.mark.parametrize("task", [kdcore.Regression(), kdcore.MultiLabel()])
def test_tasks_whose_outputs_are_no_classes_are_refused(task: kdcore.Task) -> None:
    models = nn.Linear(3, 2), nn.Linear(3, 2)
    with pytest.raises(StrategyError, match=f"which the outputs of {task.kind} are not"):
        Distiller(*models, ["dist"], sample_input=torch.zeros(2, 3), task=task)


def test_in_a_run_both_parts_are_logged() -> None:
    torch.manual_seed(0)
    teacher, student = nn.Linear(3, 4).double(), nn.Linear(3, 4).double()
    inputs = torch.randn(5, 3).double()
    with Distiller(teacher, student, ["dist"], sample_input=inputs) as distiller:
        found = distiller(inputs).auxiliary
    expected = _losses(student(inputs), teacher(inputs))
    assert list(found) == ["dist.inter", "dist.intra"]
    assert torch.allclose(found["dist.inter"], expected["inter"].mean())
    assert torch.allclose(found["dist.intra"], expected["intra"])


def test_without_settings_it_is_the_papers_for_cifar_100() -> None:
    assert DIST().settings.model_dump() == {"beta": 2.0, "gamma": 2.0, "temperature": 4.0}
    assert (DIST.recommended.weight, DIST.recommended.task_weight) == (1.0, 1.0)
