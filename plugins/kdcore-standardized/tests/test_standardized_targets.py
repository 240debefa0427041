"""Standardized soft targets against algorithms 1 and 2 of Sun et al. 2024, in plain Python."""

import math

import pytest
import torch
from torch import Tensor, nn

import kdcore
from kdcore import Distiller, Features
from kdcore.errors import ConfigError, ModelError, StrategyError
from kdcore.testing import StrategyTests
from kdcore_standardized import Standardized, standardized


class TestConformance(StrategyTests):
    strategy = "standardized"


class TestConformanceAtAnotherTemperature(StrategyTests):
    strategy = "standardized"
    settings = {"temperature": 0.5}  # noqa: RUF012


def _loss(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    return Standardized(temperature=temperature).compute_auxiliary_loss(
        student=Features({}, student), teacher=Features({}, teacher)
    )


def _pair(classes: int = 5, rows: int = 4, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = scale * torch.randn(2, rows, classes, generator=generator).double()
    return student, teacher


def _z(logits: list[float], temperature: float) -> list[float]:
    """Return ``(x - mean) / σ / τ`` of one row, with ``σ² = Σ (x - mean)² / K``."""
    mean = math.fsum(logits) / len(logits)
    sigma = math.sqrt(math.fsum((x - mean) ** 2 for x in logits) / len(logits))
    return [(x - mean) / sigma / temperature for x in logits]


def _softmax(logits: list[float]) -> list[float]:
    exponentials = [math.exp(logit) for logit in logits]
    return [value / math.fsum(exponentials) for value in exponentials]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 20.0])
def test_it_is_the_formula_row_by_row(temperature: float) -> None:
    student, teacher = _pair()
    expected = []
    for z, v in zip(student.tolist(), teacher.tolist(), strict=True):
        q, p = _softmax(_z(z, temperature)), _softmax(_z(v, temperature))
        divergence = math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        expected.append(temperature**2 * divergence)
    assert _loss(student, teacher, temperature).tolist() == pytest.approx(expected, rel=1e-10)


def test_it_gives_the_losses_of_the_papers_toy_case() -> None:
    # Figure 2. Its standardized logits have K - 1 under the root: at K = 4 a temperature of √(4/3).
    teacher = torch.tensor([[-1.162, 1.162, 0.387, -0.387]]).double()
    first = torch.tensor([[-1.320, 0.660, 0.880, -0.220]]).double()
    tau = math.sqrt(4 / 3)
    assert _loss(first, teacher, tau).item() / tau**2 == pytest.approx(0.0995, abs=1e-4)
    assert _loss(0.2 * teacher + 1, teacher, tau).item() == pytest.approx(0.0, abs=1e-9)


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


def test_mean_and_size_of_the_logits_are_the_students_own() -> None:
    student, teacher = _pair()
    rescaled = _loss(0.1 * student - 4.0, 30.0 * teacher + 2.0)
    assert torch.allclose(rescaled, _loss(student, teacher), rtol=1e-9)
    assert torch.allclose(_loss(5 * teacher - 1, teacher), torch.zeros(4).double(), atol=1e-12)
    assert bool((_loss(-teacher, teacher) > 0.1).all())


@pytest.mark.parametrize("classes", [3, 10, 100])
def test_standardized_logits_have_the_mean_and_bounds_of_the_paper(classes: int) -> None:
    # Section 4.3: zero mean, deviation one, and within ±√(K - 1), which one class alone reaches.
    z = standardized(_pair(classes)[0])
    assert torch.allclose(z.mean(1), torch.zeros(4).double(), atol=1e-12)
    assert torch.allclose(z.square().mean(1), torch.ones(4).double(), rtol=1e-12)
    one = torch.zeros(1, classes).double()
    one[0, 0] = 7.0
    assert standardized(one).max().item() == pytest.approx(math.sqrt(classes - 1), rel=1e-12)


def test_the_order_of_the_classes_stays() -> None:
    student, _ = _pair()
    assert torch.equal(standardized(student).argsort(1), student.argsort(1))


@pytest.mark.parametrize("value", [0.0, 0.1, -30.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_logits_have_a_finite_gradient(value: float, dtype: torch.dtype) -> None:
    teacher = _pair()[1].to(dtype)
    equal = torch.full_like(teacher, value)
    for z, v in ((equal, teacher), (teacher, equal), (equal, equal)):
        student = z.clone().requires_grad_()
        loss = _loss(student, v)
        (gradient,) = torch.autograd.grad(loss.sum(), student)
        assert bool(loss.isfinite().all())
        assert bool(gradient.isfinite().all())
    # The formula as it is written has none.
    bare = equal.clone().requires_grad_()
    z = (bare - bare.mean(1, keepdim=True)) / bare.std(1, keepdim=True, correction=0)
    assert value != 0 or bool(z.isnan().all())


def test_equal_logits_are_a_uniform_distribution() -> None:
    teacher = _pair()[1]
    loss = _loss(torch.full_like(teacher, 0.1), teacher, 2.0)
    for row, v in zip(loss.tolist(), teacher.tolist(), strict=True):
        p = _softmax(_z(v, 2.0))
        expected = 4 * math.fsum(a * math.log(5 * a) for a in p)
        assert row == pytest.approx(expected, rel=1e-6)


def test_certain_models_are_no_further_apart_than_others() -> None:
    student, teacher = (logits.float() for logits in _pair())
    assert torch.allclose(_loss(1e4 * student, 1e4 * teacher), _loss(student, teacher), rtol=1e-4)


@pytest.mark.parametrize("temperature", [0, -1.0, math.nan, math.inf, "hot"])
def test_a_temperature_that_is_none_is_refused(temperature: object) -> None:
    with pytest.raises(ConfigError, match="temperature"):
        Standardized(temperature=temperature)


def test_models_of_other_classes_are_refused() -> None:
    with pytest.raises(ModelError, match="student has 3 classes and the teacher 4"):
        Distiller(nn.Linear(2, 4), nn.Linear(2, 3), ["standardized"], sample_input=torch.ones(2, 2))


def test_models_of_two_classes_are_refused_for_nothing_could_be_learned() -> None:
    student, teacher = _pair(2)
    assert torch.allclose(standardized(student).abs(), torch.ones_like(student), rtol=1e-12)
    assert not torch.allclose(student.abs(), teacher.abs())
    with pytest.raises(StrategyError, match="three classes at least"):
        Distiller(nn.Linear(2, 2), nn.Linear(2, 2), ["standardized"], sample_input=torch.ones(2, 2))


@pytest.mark.parametrize("task", [kdcore.Regression(), kdcore.MultiLabel()])
def test_tasks_whose_outputs_are_no_classes_are_refused(task: kdcore.Task) -> None:
    models = nn.Linear(3, 2), nn.Linear(3, 2)
    with pytest.raises(StrategyError, match=f"which the outputs of {task.kind} are not"):
        Distiller(*models, ["standardized"], sample_input=torch.zeros(2, 3), task=task)


def test_a_sequence_is_compared_token_by_token() -> None:
    torch.manual_seed(0)
    teacher, student = nn.Linear(3, 4), nn.Linear(3, 4)
    inputs = torch.randn(2, 5, 3)
    targets = torch.tensor([[0, 1, -100, -100, -100], [3, 2, 1, 0, -100]])
    task = kdcore.Sequences()
    with Distiller(teacher, student, ["standardized"], sample_input=inputs, task=task) as distiller:
        found = distiller(inputs, targets).auxiliary["standardized"].detach()
    known = targets != -100
    assert torch.allclose(found, _loss(student(inputs)[known], teacher(inputs)[known]).mean())


def test_without_settings_it_is_the_papers() -> None:
    assert Standardized().settings.model_dump() == {"temperature": 2.0}
    assert (Standardized.recommended.weight, Standardized.recommended.task_weight) == (9.0, 0.1)
