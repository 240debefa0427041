"""Neighbours' probabilities against Passalis & Tefas 2018, written out in numpy's float64."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from kdcore import Distiller, Features
from kdcore.errors import ConfigError
from kdcore.testing import SmallCNN, StrategyTests
from kdcore_pkt import PKT

Array = NDArray[np.float64]


class TestConformance(StrategyTests):
    strategy = "pkt"


class TestConformanceOnMaps(StrategyTests):
    strategy = "pkt"
    settings = {"student_tap": "features", "teacher_tap": "features"}  # noqa: RUF012


def _loss(student: Tensor, teacher: Tensor) -> Tensor:
    return PKT().compute_auxiliary_loss(
        student=Features({"embedding": (student,)}, None),
        teacher=Features({"embedding": (teacher,)}, None),
    )


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def _kernel(x: Array, y: Array) -> float:
    return (float(x @ y) / math.sqrt(float(x @ x) * float(y @ y)) + 1) / 2


def _probability(x: Array, i: int, j: int) -> float:
    """Return how probable sample i is as a neighbour of sample j."""
    return _kernel(x[i], x[j]) / math.fsum(_kernel(x[k], x[j]) for k in range(len(x)) if k != j)


def _expected(s: Array, t: Array) -> float:
    pairs = [(i, j) for j in range(len(s)) for i in range(len(s)) if i != j]
    terms = []
    for i, j in pairs:
        p, q = _probability(t, i, j), _probability(s, i, j)
        terms.append(p * math.log(p / q))
    return math.fsum(terms) / len(pairs)


@pytest.mark.parametrize("samples", [3, 4, 9])
def test_it_is_the_formula_over_each_samples_others(samples: int) -> None:
    s, t = _random(samples, 3), _random(samples, 5, seed=1)
    expected = _expected(s.numpy(), t.numpy())
    assert expected > 1e-3
    assert _loss(s, t).item() == pytest.approx(expected, rel=1e-9)


def test_three_samples_have_the_probabilities_of_their_angles() -> None:
    # Between the directions 0°, 60° and 180° the kernel is 3/4, 0 and 1/4; between equal ones 1.
    s = torch.tensor([[1.0, 0.0], [0.5, 0.75**0.5], [-1.0, 0.0]]).double()
    t = torch.ones(3, 2).double()
    # To the teacher all are as near; to the student as 3 : 0, 3 : 1 and 0 : 1, with 0 as 1e-7.
    kl = [math.log(1 / 2 / q) / 2 for q in (3 / 4, 1 / 4)]
    small = [math.log(1 / 2 / q) / 2 for y in (3 / 4, 1 / 4) for q in (1, 1e-7 / y)]
    assert _loss(s, t).item() == pytest.approx(math.fsum(kl + small) / 6, rel=1e-6)


def test_its_gradient_is_that_of_its_value() -> None:
    teacher = _random(5, 4, seed=1)
    assert torch.autograd.gradcheck(lambda x: _loss(x, teacher), _random(5, 3).requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_zero_at_equality_with_its_gradient(dtype: torch.dtype) -> None:
    student = _random(8, 4).to(dtype).requires_grad_()
    loss = _loss(student, student.detach())
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.item() == 0.0
    assert float(gradient.abs().max()) < 10 * torch.finfo(dtype).eps


def test_it_is_positive_and_not_symmetric() -> None:
    s, t = _random(6, 3), _random(6, 5, seed=1)
    one, other = _loss(s, t).item(), _loss(t, s).item()
    assert min(one, other) > 0
    assert one != pytest.approx(other, rel=1e-3)


def test_rotation_and_the_length_of_each_embedding_change_nothing() -> None:
    x = _random(6, 4)
    rotation, _ = torch.linalg.qr(_random(4, 4, seed=1))
    lengths = torch.arange(1.0, 7.0).double()[:, None]
    assert _loss(lengths * x @ rotation, x).item() == pytest.approx(0, abs=1e-12)
    assert _loss(x + 1, x).item() > 1e-3  # a shift changes the cosines


def test_the_order_of_samples_changes_nothing() -> None:
    s, t = _random(6, 3), _random(6, 5, seed=1)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    assert _loss(s[order], t[order]).item() == pytest.approx(_loss(s, t).item(), rel=1e-12)


@pytest.mark.parametrize("samples", [1, 2])
def test_of_a_single_neighbour_there_is_nothing_to_learn(samples: int) -> None:
    student = _random(samples, 3).requires_grad_()
    loss = _loss(student, _random(samples, 5, seed=1))
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.item() == 0.0
    assert not bool(gradient.any())


@pytest.mark.parametrize("opposed", ["student", "teacher"])
def test_embeddings_that_oppose_each_other_have_a_finite_loss(opposed: str) -> None:
    features = {"student": _random(5, 4), "teacher": _random(5, 4, seed=1)}
    features[opposed][1] = -features[opposed][0]
    # The formula itself divides by zero there, or takes the logarithm of zero, but for rounding.
    assert _kernel(*features[opposed][:2].numpy()) < 1e-12
    student = features["student"].requires_grad_()
    loss = _loss(student, features["teacher"])
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.item() > 0
    assert bool(gradient.isfinite().all())


def test_an_embedding_of_zeros_does_not_make_the_gradient_large() -> None:
    student, teacher = _random(5, 4), _random(5, 4, seed=1)
    student[1] = 0
    student.requires_grad_()
    loss = _loss(student, teacher)
    (gradient,) = torch.autograd.grad(loss, student)
    assert math.isfinite(loss.item())
    assert float(gradient.abs().max()) < 1
    # Normalised with a small constant instead, it is as large as the constant is small.
    unit = F.normalize(student, dim=1)
    (unguarded,) = torch.autograd.grad((unit @ unit.T).sum(), student)
    assert float(unguarded.abs().max()) > 1e6


def test_maps_are_compared_flattened() -> None:
    s, t = _random(4, 2, 3, 3), _random(4, 3, 2, 2, seed=1)
    assert torch.equal(_loss(s, t), _loss(s.flatten(1), t.flatten(1)))


def test_in_a_run_it_compares_the_inputs_of_the_heads() -> None:
    torch.manual_seed(0)
    student, teacher = (
        SmallCNN((2, 3), image_size=8).double(),
        SmallCNN((4, 5), image_size=8).double(),
    )
    images = torch.randn(4, 3, 8, 8).double()
    with Distiller(teacher, student, ["pkt"], sample_input=images) as distiller:
        loss = distiller(images).auxiliary["pkt"].item()
    with torch.no_grad():
        own, other = (model.features(images).flatten(1).numpy() for model in (student, teacher))
    assert loss == pytest.approx(_expected(own, other), rel=1e-9)


@pytest.mark.parametrize("values", [{"temperature": 2.0}, {"student_tap": ""}, {"teacher_tap": 1}])
def test_settings_that_are_none_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        PKT(**values)


def test_without_settings_it_has_the_benchmarks_weight() -> None:
    assert PKT().settings.model_dump() == {
        "student_tap": "auto:embedding",
        "teacher_tap": "auto:embedding",
    }
    assert (PKT.recommended.weight, PKT.recommended.task_weight) == (30000.0, 1.0)
    assert PKT.where_equal == "zero"
