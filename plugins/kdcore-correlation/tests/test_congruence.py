"""Correlation congruence against Peng et al. 2019, written out in numpy's float64."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdcore import Distiller, Features, Shapes
from kdcore.errors import ConfigError
from kdcore.testing import SmallCNN, StrategyTests
from kdcore_correlation import Correlation

Array = NDArray[np.float64]


class TestConformance(StrategyTests):
    strategy = "correlation"


class TestConformanceOfOtherSettingsOnMaps(StrategyTests):
    strategy = "correlation"
    settings = {  # noqa: RUF012
        "student_tap": "features",
        "teacher_tap": "features.1",
        "width": 3,
        "gamma": 2.0,
        "order": 4,
    }


def _loss(student: Tensor, teacher: Tensor, **settings: float) -> Tensor:
    return Correlation(**settings).compute_auxiliary_loss(
        student=Features({"embedding": (student,)}, None),
        teacher=Features({"embedding": (teacher,)}, None),
    )


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def _directions(x: Array) -> Array:
    return np.stack([row / math.sqrt(float(row @ row)) for row in x])


def _series(x: Array, y: Array, gamma: float, order: int) -> float:
    """Return the Taylor series of ``exp(-gamma |x - y|²)`` at ``x · y = 0``."""
    total, term = 0.0, math.exp(-2 * gamma)
    for p in range(order + 1):
        total += term
        term *= 2 * gamma * float(x @ y) / (p + 1)
    return total


def _expected(s: Array, t: Array, gamma: float = 0.4, order: int = 2) -> float:
    s, t = _directions(s), _directions(t)
    terms = [
        (_series(s[i], s[j], gamma, order) - _series(t[i], t[j], gamma, order)) ** 2
        for i in range(len(s))
        for j in range(len(s))
    ]
    return math.fsum(terms) / len(s) ** 2


@pytest.mark.parametrize("gamma", [0.1, 0.4, 2.0])
@pytest.mark.parametrize("order", [1, 2, 5])
def test_it_is_the_formula_over_all_pairs(gamma: float, order: int) -> None:
    s, t = _random(6, 4), _random(6, 4, seed=1)
    expected = _expected(s.numpy(), t.numpy(), gamma, order)
    assert _loss(s, t, gamma=gamma, order=order).item() == pytest.approx(expected, rel=1e-9)


def test_of_a_high_order_it_is_that_of_the_gaussian_kernel() -> None:
    s, t = _random(6, 4), _random(6, 4, seed=1)
    own, other = _directions(s.numpy()), _directions(t.numpy())
    terms = []
    for i in range(6):
        for j in range(6):
            k_s, k_t = (math.exp(-0.4 * ((x[i] - x[j]) ** 2).sum()) for x in (own, other))
            terms.append((k_s - k_t) ** 2)
    assert _loss(s, t, order=15).item() == pytest.approx(math.fsum(terms) / 36, rel=1e-9)
    assert _loss(s, t, order=2).item() != pytest.approx(math.fsum(terms) / 36, rel=1e-4)


def test_two_samples_at_a_right_angle_and_two_alike_are_as_by_hand() -> None:
    right = torch.tensor([[1.0, 0.0], [0.0, 2.0]]).double()
    alike = torch.tensor([[1.0, 1.0], [3.0, 3.0]]).double()
    # Of x · y = 0 the series is exp(-2γ), of x · y = 1 it is exp(-2γ) (1 + 2γ + (2γ)² / 2).
    difference = math.exp(-0.8) * (0.8 + 0.32)
    assert _loss(right, alike).item() == pytest.approx(2 * difference**2 / 4)


def test_its_gradient_is_that_of_its_value_for_both_models() -> None:
    s, t = _random(5, 4).requires_grad_(), _random(5, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(_loss, (s, t))


def test_it_is_zero_at_equality_with_its_gradient() -> None:
    x = _random(6, 4).requires_grad_()
    loss = _loss(x, x.detach())
    (gradient,) = torch.autograd.grad(loss, x)
    assert loss.item() == 0.0
    assert not bool(gradient.any())


def test_rotation_and_the_length_of_each_vector_change_nothing() -> None:
    x = _random(6, 4)
    rotation, _ = torch.linalg.qr(_random(4, 4, seed=1))
    lengths = torch.arange(1.0, 7.0).double()[:, None]
    assert _loss(lengths * x @ rotation, x).item() == pytest.approx(0, abs=1e-24)
    assert _loss(x + 1, x).item() > 1e-3  # a shift changes the cosines


def test_it_is_symmetric_and_blind_to_the_order_of_samples() -> None:
    s, t = _random(6, 4), _random(6, 4, seed=1)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    assert _loss(t, s).item() == _loss(s, t).item()
    assert _loss(s[order], t[order]).item() == pytest.approx(_loss(s, t).item(), rel=1e-12)


def test_one_sample_agrees_with_itself() -> None:
    s = _random(1, 4).requires_grad_()
    loss = _loss(s, _random(1, 4, seed=1))
    (gradient,) = torch.autograd.grad(loss, s)
    assert loss.item() == pytest.approx(0, abs=1e-24)
    assert float(gradient.abs().max()) < 1e-12


@pytest.mark.parametrize("gamma", [1e-6, 10.0])
@pytest.mark.parametrize("order", [1, 20])
def test_it_is_finite_at_the_bounds_of_its_settings(gamma: float, order: int) -> None:
    s = _random(6, 4).float().requires_grad_()
    loss = _loss(s, -s.detach().flip(0) + 1, gamma=gamma, order=order)
    (gradient,) = torch.autograd.grad(loss, s)
    assert math.isfinite(loss.item())
    assert bool(gradient.isfinite().all())


def test_linear_layers_bring_both_models_to_one_width() -> None:
    adapters = Correlation(width=7).adapt_shapes(
        student=Shapes({"embedding": (torch.Size([2, 3, 2, 2]),)}, None),
        teacher=Shapes({"embedding": (torch.Size([2, 5]),)}, None),
    )
    shapes = []
    for module in (adapters.student["embedding"], adapters.teacher["embedding"]):
        assert isinstance(module, nn.Module)
        shapes.append([tuple(parameter.shape) for parameter in module.parameters()])
    assert shapes == [[(7, 12), (7,)], [(7, 5), (7,)]]


def test_in_a_run_it_compares_what_the_layers_make_of_the_inputs_of_the_heads() -> None:
    torch.manual_seed(0)
    student, teacher = (
        SmallCNN((2, 3), image_size=8).double(),
        SmallCNN((4, 5), image_size=8).double(),
    )
    images = torch.randn(4, 3, 8, 8).double()
    with Distiller(teacher, student, ["correlation"], sample_input=images) as distiller:
        loss = distiller(images).auxiliary["correlation"].item()
        trained = {
            name: value.detach().numpy() for name, value in distiller.strategies.named_parameters()
        }
    vectors = []
    for side, model in (("student", student), ("teacher", teacher)):
        with torch.no_grad():
            embedding = model.features(images).flatten(1).numpy()
        layer = f"correlation.{side}_adapters.embedding.0.1"
        vectors.append(embedding @ trained[f"{layer}.weight"].T + trained[f"{layer}.bias"])
    assert loss == pytest.approx(_expected(*vectors), rel=1e-9)


def test_both_layers_are_trained() -> None:
    torch.manual_seed(0)
    student, teacher = SmallCNN((2, 3), image_size=8), SmallCNN((4, 5), image_size=8)
    images = torch.randn(4, 3, 8, 8)
    with Distiller(teacher, student, ["correlation"], sample_input=images) as distiller:
        torch.autograd.backward(distiller(images).auxiliary["correlation"])
        gradients = [parameter.grad for parameter in distiller.strategies.parameters()]
    assert len(gradients) == 4
    assert all(gradient is not None and bool(gradient.any()) for gradient in gradients)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("width", 0),
        ("width", 1.5),
        ("gamma", 0),
        ("gamma", 11.0),
        ("gamma", math.nan),
        ("order", 0),
        ("order", 21),
        ("order", "two"),
    ],
)
def test_settings_out_of_bounds_are_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        Correlation(**{name: value})


def test_without_settings_it_is_the_papers() -> None:
    assert Correlation().settings.model_dump() == {
        "student_tap": "auto:embedding",
        "teacher_tap": "auto:embedding",
        "width": 128,
        "gamma": 0.4,
        "order": 2,
    }
    assert (Correlation.recommended.weight, Correlation.recommended.task_weight) == (0.003, 1.0)
    assert Correlation.where_equal is None
