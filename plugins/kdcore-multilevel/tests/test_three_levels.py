"""Multi-level distillation against its formula (Jin et al. 2023), in plain Python's float64."""

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
from kdcore_multilevel import MultiLevel

Array = NDArray[np.float64]


class TestConformance(StrategyTests):
    strategy = "multilevel"


class TestConformanceAtOneTemperature(StrategyTests):
    strategy = "multilevel"
    settings = {"temperatures": [0.5]}  # noqa: RUF012


class TestConformanceOfTheGramMatrices(StrategyTests):
    strategy = "multilevel"
    settings = {"instance_weight": 0.0, "batch_weight": 2.0}  # noqa: RUF012


def _losses(student: Tensor, teacher: Tensor, **settings: object) -> Mapping[str, Tensor]:
    losses = MultiLevel(**settings).compute_auxiliary_loss(
        student=Features({}, student), teacher=Features({}, teacher)
    )
    assert isinstance(losses, Mapping)
    return losses


def _total(student: Tensor, teacher: Tensor, **settings: object) -> Tensor:
    losses = _losses(student, teacher, **settings)
    return losses["instance"].mean() + losses["batch"] + losses["class"]


def _pair(rows: int = 4, classes: int = 5, scale: float = 3.0) -> tuple[Tensor, Tensor]:
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


@pytest.mark.parametrize("temperatures", [[1.0], [2.0, 3.0, 4.0, 5.0, 6.0], [0.5, 20.0]])
def test_instance_is_the_sum_of_divergences_row_by_row(temperatures: list[float]) -> None:
    student, teacher = _pair()
    expected = [0.0] * 4
    for t in temperatures:
        p, q = _softened(teacher, t), _softened(student, t)
        for i in range(4):
            terms = (p[i, j] * math.log(p[i, j] / q[i, j]) for j in range(5))
            expected[i] += t**2 * math.fsum(terms)
    found = _losses(student, teacher, temperatures=temperatures)["instance"]
    assert found.tolist() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("temperatures", [[1.0], [2.0, 3.0, 4.0, 5.0, 6.0], [0.5, 20.0]])
def test_batch_compares_every_row_with_every_row(temperatures: list[float]) -> None:
    student, teacher = _pair()
    expected = 0.0
    for t in temperatures:
        p, q = _softened(teacher, t), _softened(student, t)
        for a in range(4):
            for b in range(4):
                wanted = math.fsum(p[a, j] * p[b, j] for j in range(5))
                given = math.fsum(q[a, j] * q[b, j] for j in range(5))
                expected += (wanted - given) ** 2 / 4
    found = _losses(student, teacher, temperatures=temperatures)["batch"]
    assert found.ndim == 0
    assert found.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("temperatures", [[1.0], [2.0, 3.0, 4.0, 5.0, 6.0], [0.5, 20.0]])
def test_class_compares_every_class_with_every_class(temperatures: list[float]) -> None:
    student, teacher = _pair()
    expected = 0.0
    for t in temperatures:
        p, q = _softened(teacher, t), _softened(student, t)
        for a in range(5):
            for b in range(5):
                wanted = math.fsum(p[i, a] * p[i, b] for i in range(4))
                given = math.fsum(q[i, a] * q[i, b] for i in range(4))
                expected += (wanted - given) ** 2 / 5
    found = _losses(student, teacher, temperatures=temperatures)["class"]
    assert found.ndim == 0
    assert found.item() == pytest.approx(expected, rel=1e-10)


def test_a_list_of_temperatures_gives_the_sum_of_each() -> None:
    student, teacher = _pair()
    both = _losses(student, teacher, temperatures=[2.0, 5.0])
    one, other = (_losses(student, teacher, temperatures=[t]) for t in (2.0, 5.0))
    for name, loss in both.items():
        assert torch.allclose(loss, one[name] + other[name], rtol=1e-12)


def test_each_level_has_a_weight() -> None:
    student, teacher = _pair()
    plain = _losses(student, teacher)
    weights = {"instance_weight": 3.0, "batch_weight": 0.5, "class_weight": 0.0}
    weighted = _losses(student, teacher, **weights)
    for name, loss in weighted.items():
        assert torch.allclose(loss, weights[f"{name}_weight"] * plain[name], rtol=1e-12)


def test_its_gradient_is_that_of_its_value() -> None:
    student, teacher = _pair()
    assert torch.autograd.gradcheck(lambda z: _total(z, teacher), student.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_zero_at_equality_with_its_gradient(dtype: torch.dtype) -> None:
    student = _pair()[0].to(dtype).requires_grad_()
    losses = _losses(student, student.detach())
    total = losses["instance"].sum() + losses["batch"] + losses["class"]
    (gradient,) = torch.autograd.grad(total, student)
    assert losses["instance"].tolist() == [0.0] * 4
    assert (losses["batch"].item(), losses["class"].item()) == (0.0, 0.0)
    assert float(gradient.abs().max()) < 100 * torch.finfo(dtype).eps


def test_the_order_of_the_samples_changes_nothing() -> None:
    student, teacher = _pair()
    order = torch.tensor([2, 0, 3, 1])
    given, shuffled = _losses(student, teacher), _losses(student[order], teacher[order])
    assert torch.allclose(shuffled["instance"], given["instance"][order], rtol=1e-12)
    for name in ("batch", "class"):
        assert torch.allclose(shuffled[name], given[name], rtol=1e-12)


def test_classes_that_a_student_swaps_are_seen_by_classes_and_not_by_the_batch() -> None:
    # Rows that are predicted alike stay alike whatever the classes are called.
    teacher = _pair()[1]
    losses = _losses(teacher[:, [1, 0, 2, 3, 4]], teacher)
    assert losses["batch"].item() < 1e-28
    assert losses["class"].item() > 1e-3
    assert bool((losses["instance"] > 0).all())


def test_samples_that_a_student_swaps_are_seen_by_the_batch_and_not_by_classes() -> None:
    teacher = _pair()[1]
    losses = _losses(teacher[[1, 0, 2, 3]], teacher)
    assert losses["class"].item() < 1e-28
    assert losses["batch"].item() > 1e-3


def test_twice_the_batch_doubles_the_batch_level_and_quadruples_that_of_classes() -> None:
    student, teacher = _pair()
    once = _losses(student, teacher)
    twice = _losses(student.repeat(2, 1), teacher.repeat(2, 1))
    assert torch.allclose(twice["batch"], 2 * once["batch"], rtol=1e-12)
    assert torch.allclose(twice["class"], 4 * once["class"], rtol=1e-12)


def test_it_is_finite_where_a_probability_of_the_teacher_underflows() -> None:
    student, teacher = (logits.float() for logits in _pair())
    loss = _total(student.requires_grad_(), 1e4 * teacher)
    (gradient,) = torch.autograd.grad(loss, student)
    assert bool(loss.isfinite())
    assert bool(gradient.isfinite().all())
    # With the log of a softmax it is no number.
    soft = (1e4 * teacher / 2).softmax(1)
    assert math.isnan((soft * soft.log()).sum().item())


def test_classes_that_are_ruled_out_in_both_models_count_for_nothing_but_the_divisor() -> None:
    student, teacher = _pair()
    ruled_out = torch.full((4, 1), -math.inf, dtype=torch.float64)
    wider = torch.cat([student, ruled_out], dim=1).requires_grad_()
    losses, plain = (
        _losses(wider, torch.cat([teacher, ruled_out], dim=1)),
        _losses(student, teacher),
    )
    total = losses["instance"].sum() + losses["batch"] + losses["class"]
    (gradient,) = torch.autograd.grad(total, wider)
    assert torch.allclose(losses["instance"], plain["instance"], rtol=1e-12)
    assert torch.allclose(losses["batch"], plain["batch"], rtol=1e-12)
    assert torch.allclose(losses["class"], plain["class"] * 5 / 6, rtol=1e-12)
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("temperatures", []),
        ("temperatures", [2.0, 0.0]),
        ("temperatures", [math.inf]),
        ("temperatures", 4.0),
        ("instance_weight", -1.0),
        ("batch_weight", math.nan),
        ("class_weight", "half"),
    ],
)
def test_a_setting_out_of_bounds_is_refused(setting: str, value: object) -> None:
    with pytest.raises(ConfigError, match=setting):
        MultiLevel(**{setting: value})


def test_models_of_other_classes_are_refused() -> None:
    with pytest.raises(ModelError, match="student has 3 classes and the teacher 4"):
        Distiller(nn.Linear(2, 4), nn.Linear(2, 3), ["multilevel"], sample_input=torch.ones(2, 2))


@pytest.mark.parametrize("task", [kdcore.Regression(), kdcore.MultiLabel()])
def test_tasks_whose_outputs_are_no_classes_are_refused(task: kdcore.Task) -> None:
    models = nn.Linear(3, 2), nn.Linear(3, 2)
    with pytest.raises(StrategyError, match=f"which the outputs of {task.kind} are not"):
        Distiller(*models, ["multilevel"], sample_input=torch.zeros(2, 3), task=task)


def test_in_a_run_each_level_is_logged() -> None:
    torch.manual_seed(0)
    teacher, student = nn.Linear(3, 4).double(), nn.Linear(3, 4).double()
    inputs = torch.randn(5, 3).double()
    with Distiller(teacher, student, ["multilevel"], sample_input=inputs) as distiller:
        found = distiller(inputs).auxiliary
    expected = _losses(student(inputs), teacher(inputs))
    assert list(found) == ["multilevel.instance", "multilevel.batch", "multilevel.class"]
    for name, loss in expected.items():
        assert torch.allclose(found[f"multilevel.{name}"], loss.mean())


def test_without_settings_it_is_the_published_one() -> None:
    assert MultiLevel().settings.model_dump() == {
        "temperatures": (2.0, 3.0, 4.0, 5.0, 6.0),
        "instance_weight": 1.0,
        "batch_weight": 1.0,
        "class_weight": 1.0,
    }
    assert (MultiLevel.recommended.weight, MultiLevel.recommended.task_weight) == (0.9, 0.1)
