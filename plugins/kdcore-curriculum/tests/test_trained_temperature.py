"""Curriculum temperature against the formulas of Li et al. 2023, written out in plain Python."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import kdcore
from kdcore import Distiller, Features, Setup, Shapes
from kdcore.errors import ConfigError, ModelError, StrategyError
from kdcore.testing import StrategyTests
from kdcore_curriculum import Curriculum


class TestConformance(StrategyTests):
    strategy = "curriculum"


class TestConformanceOfOtherSettings(StrategyTests):
    strategy = "curriculum"
    settings = {"lowest": 0.5, "span": 3.0, "initial": -2.0, "epochs": 1}  # noqa: RUF012


def _adversary(strategy: Curriculum) -> nn.Module:
    shape = Shapes({}, torch.Size([4, 5]))
    adapters = strategy.adapt_shapes(
        setup=Setup(task="classification"), student=shape, teacher=shape
    )
    assert not adapters.student
    assert not adapters.teacher
    assert not adapters.state
    return adapters.modules["x"].double()


def _loss(
    student: Tensor, teacher: Tensor, module: nn.Module, epoch: int = 99, **settings: float
) -> Tensor:
    return Curriculum(**settings).compute_auxiliary_loss(
        student=Features({}, student),
        teacher=Features({}, teacher),
        modules={"x": module},
        epoch=epoch,
    )


def _pair(classes: int = 5, rows: int = 4, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = scale * torch.randn(2, rows, classes, generator=generator).double()
    return student, teacher


def _softened(logits: list[float], temperature: float) -> list[float]:
    exponentials = [math.exp(logit / temperature) for logit in logits]
    return [value / math.fsum(exponentials) for value in exponentials]


def _expected(student: Tensor, teacher: Tensor, temperature: float) -> Iterator[float]:
    """Yield ``T² · KL`` of each row."""
    for z, v in zip(student.tolist(), teacher.tolist(), strict=True):
        q, p = _softened(z, temperature), _softened(v, temperature)
        yield temperature**2 * math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def _temperature(x: float, lowest: float = 1.0, span: float = 20.0) -> float:
    return lowest + span / (1 + math.exp(-x))


@pytest.mark.parametrize(
    "settings", [{}, {"lowest": 0.5, "span": 3.0, "initial": -2.0}, {"initial": 0.0}]
)
def test_it_is_the_formula_row_by_row(settings: dict[str, float]) -> None:
    student, teacher = _pair()
    found = _loss(student, teacher, _adversary(Curriculum(**settings)), 99, **settings)
    lowest, span = settings.get("lowest", 1.0), settings.get("span", 20.0)
    temperature = _temperature(settings.get("initial", 1.0), lowest, span)
    assert found.tolist() == pytest.approx(list(_expected(student, teacher, temperature)), rel=1e-9)


def test_the_gradient_of_the_student_is_that_of_the_value() -> None:
    student, teacher = _pair()
    module = _adversary(Curriculum())
    assert torch.autograd.gradcheck(lambda z: _loss(z, teacher, module), student.requires_grad_())


@pytest.mark.parametrize("epoch", [0, 4, 9, 100])
def test_the_gradient_of_the_temperature_is_reversed_and_grows(epoch: int) -> None:
    # Li et al. 2023, equation 7: a cosine from 0 to 1 over the first ten epochs, counted from 1.
    student, teacher = _pair()
    module = _adversary(Curriculum())
    (parameter,) = module.parameters()
    loss = _loss(student, teacher, module, epoch).sum()
    (gradient,) = torch.autograd.grad(loss, parameter)
    step = 1e-5
    above, below = (
        math.fsum(_expected(student, teacher, _temperature(1 + sign * step))) for sign in (1, -1)
    )
    strength = 0.5 - 0.5 * math.cos(math.pi * min(epoch + 1, 10) / 10)
    assert gradient.item() == pytest.approx(-strength * (above - below) / (2 * step), rel=1e-5)


@pytest.mark.parametrize(("epoch", "strength"), [(0, 0.0245), (4, 0.5), (9, 1.0), (239, 1.0)])
def test_the_strength_is_that_of_the_published_script(epoch: int, strength: float) -> None:
    student, teacher = _pair()
    module = _adversary(Curriculum())
    (parameter,) = module.parameters()
    found, full = (
        torch.autograd.grad(_loss(student, teacher, module, at).sum(), parameter)[0].item()
        for at in (epoch, 1000)
    )
    assert found / full == pytest.approx(strength, abs=5e-5)


def test_with_one_epoch_it_is_at_full_strength_from_the_first() -> None:
    student, teacher = _pair()
    module = _adversary(Curriculum())
    (parameter,) = module.parameters()
    first, later = (
        torch.autograd.grad(_loss(student, teacher, module, at, epochs=1).sum(), parameter)[0]
        for at in (0, 50)
    )
    assert torch.equal(first, later)


def test_an_optimizer_that_goes_down_makes_the_loss_larger() -> None:
    student, teacher = _pair()
    module = _adversary(Curriculum())
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = _loss(student, teacher, module).sum()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses)
    assert losses[-1] > losses[0]


def test_the_temperature_stays_in_the_range_of_the_published_script() -> None:
    student, teacher = _pair()
    module = _adversary(Curriculum())
    (parameter,) = module.parameters()
    for x, temperature in ((-1e3, 1.0), (0.0, 11.0), (1.0, 15.621), (1e3, 21.0)):
        with torch.no_grad():
            parameter.fill_(x)
        found = _loss(student, teacher, module)
        expected = list(_expected(student, teacher, temperature))
        assert found.tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_zero_at_equality_with_its_gradients(dtype: torch.dtype) -> None:
    student = _pair()[0].to(dtype).requires_grad_()
    module = _adversary(Curriculum()).to(dtype)
    loss = _loss(student, student.detach(), module)
    gradients = torch.autograd.grad(loss.sum(), [student, *module.parameters()])
    assert loss.tolist() == [0.0] * 4
    for gradient in gradients:
        assert float(gradient.abs().max()) < 1000 * torch.finfo(dtype).eps


def test_adding_a_constant_to_the_logits_changes_nothing() -> None:
    student, teacher = _pair()
    module = _adversary(Curriculum())
    shifted = _loss(student + 7.0, teacher - 3.0, module)
    assert torch.allclose(shifted, _loss(student, teacher, module), rtol=1e-9)


def test_it_is_finite_where_probabilities_underflow() -> None:
    teacher = torch.tensor([[0.0, 3e4, -10.0]])
    student = torch.tensor([[3e4, 2.0, 3.0]], requires_grad=True)
    module = _adversary(Curriculum()).float()
    loss = _loss(student, teacher, module)
    gradients = torch.autograd.grad(loss.sum(), [student, *module.parameters()])
    assert bool(loss.isfinite().all())
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    # The teacher is certain of class 1: T² · -log q_1, that is T · (3e4 - 2).
    assert loss.item() == pytest.approx(_temperature(1.0) * (3e4 - 2), rel=1e-5)
    # Logarithms of probabilities are no numbers there.
    t = _temperature(1.0)
    p, q = (teacher / t).softmax(1), (student / t).softmax(1)
    assert not bool((p * (p / q).log()).sum().isfinite())


def test_in_a_run_the_student_follows_and_the_temperature_is_trained_too() -> None:
    torch.manual_seed(0)
    student, teacher = nn.Linear(3, 4), nn.Linear(3, 4)
    inputs = torch.randn(8, 3)
    with Distiller(teacher, student, ["curriculum"], sample_input=inputs) as distiller:
        ((name, parameter),) = distiller.strategies.named_parameters()
        assert name.startswith("curriculum.")
        optimizer = torch.optim.SGD(distiller.parameters(), lr=0.1)
        losses = []
        for _ in range(20):
            loss = distiller(inputs).auxiliary["curriculum"]
            optimizer.zero_grad()
            loss.backward()
            assert parameter.grad is not None
            optimizer.step()
            distiller.advance()
            losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert parameter.item() != 1.0


@pytest.mark.parametrize(
    "settings",
    [
        {"lowest": 0},
        {"lowest": -1.0},
        {"span": 0},
        {"span": math.inf},
        {"initial": math.nan},
        {"epochs": 0},
        {"epochs": 2.5},
    ],
)
def test_settings_out_of_bounds_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        Curriculum(**settings)


def test_models_of_other_classes_are_refused() -> None:
    with pytest.raises(ModelError, match="student has 3 classes and the teacher 4"):
        Distiller(nn.Linear(2, 4), nn.Linear(2, 3), ["curriculum"], sample_input=torch.ones(2, 2))


@pytest.mark.parametrize("task", [kdcore.Regression(), kdcore.MultiLabel()])
def test_tasks_whose_outputs_are_no_classes_are_refused(task: kdcore.Task) -> None:
    models = nn.Linear(3, 2), nn.Linear(3, 2)
    with pytest.raises(StrategyError, match=f"which the outputs of {task.kind} are not"):
        Distiller(*models, ["curriculum"], sample_input=torch.zeros(2, 3), task=task)


def test_without_settings_it_is_the_published_script() -> None:
    assert Curriculum().settings.model_dump() == {
        "lowest": 1.0,
        "span": 20.0,
        "initial": 1.0,
        "epochs": 10,
    }
    assert (Curriculum.recommended.weight, Curriculum.recommended.task_weight) == (0.9, 0.1)
