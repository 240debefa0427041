"""Relations against the formulas of Park et al. 2019, written out in numpy's float64."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from kdcore import Distiller, Features
from kdcore.errors import ConfigError
from kdcore.testing import SmallCNN, StrategyTests
from kdcore_relational import Relational

Array = NDArray[np.float64]


class TestConformance(StrategyTests):
    strategy = "relational"


class TestConformanceOfAnglesOnMaps(StrategyTests):
    strategy = "relational"
    settings = {  # noqa: RUF012
        "student_tap": "features",
        "teacher_tap": "features",
        "distance": 0.0,
    }


class TestConformanceOfDistances(StrategyTests):
    strategy = "relational"
    settings = {"angle": 0.0}  # noqa: RUF012


def _loss(student: Tensor, teacher: Tensor, **settings: float) -> dict[str, Tensor]:
    return Relational(**settings).compute_auxiliary_loss(
        student=Features({"embedding": (student,)}, None),
        teacher=Features({"embedding": (teacher,)}, None),
    )


def _unweighted(student: Tensor, teacher: Tensor) -> list[float]:
    losses = _loss(student, teacher, distance=1.0, angle=1.0)
    return [losses["distance"].item(), losses["angle"].item()]


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def _huber(a: float, b: float) -> float:
    difference = abs(a - b)
    return difference**2 / 2 if difference <= 1 else difference - 1 / 2


def _apart(x: Array, y: Array) -> float:
    return math.sqrt(((x - y) ** 2).sum())


def _distance(s: Array, t: Array) -> float:
    """Return the loss of the distances, over ordered pairs of distinct samples."""
    pairs = list(permutations(range(len(s)), 2))
    mu_s, mu_t = (sum(_apart(x[i], x[j]) for i, j in pairs) / len(pairs) for x in (s, t))
    terms = [_huber(_apart(t[i], t[j]) / mu_t, _apart(s[i], s[j]) / mu_s) for i, j in pairs]
    return math.fsum(terms) / len(pairs)


def _cosine(x: Array, y: Array, z: Array) -> float:
    return float((x - y) @ (z - y)) / _apart(x, y) / _apart(z, y)


def _angle(s: Array, t: Array) -> float:
    """Return the loss of the angles, over ordered triples of distinct samples."""
    triples = list(permutations(range(len(s)), 3))
    terms = [_huber(_cosine(*t[[i, j, k]]), _cosine(*s[[i, j, k]])) for i, j, k in triples]
    return math.fsum(terms) / len(triples)


@pytest.mark.parametrize("samples", [3, 4, 7])
def test_it_is_the_formula_over_distinct_pairs_and_triples(samples: int) -> None:
    s, t = _random(samples, 3), _random(samples, 5, seed=1)
    losses = _loss(s, t)
    assert losses["distance"].item() == pytest.approx(25 * _distance(s.numpy(), t.numpy()))
    assert losses["angle"].item() == pytest.approx(50 * _angle(s.numpy(), t.numpy()))


def test_differences_above_one_count_as_they_are() -> None:
    s, t = torch.tensor([[0.0], [0.0], [1.0]]), torch.tensor([[0.0], [2.0], [2.0]])
    s, t = s.double(), t.double()
    # Pairs 01, 02, 12: the student has 0, 3/2, 3/2, the teacher 3/2, 3/2, 0.
    assert _unweighted(s, t)[0] == pytest.approx((1.0 + 0.0 + 1.0) / 3)


def test_right_angles_and_sides_of_a_triangle_are_as_euclid_has_them() -> None:
    right = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]).double()
    equal = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]]).double()
    distance, angle = _unweighted(right, equal)
    # Of the triangle 3, 4, 5 the sides have the mean 4; those of the other are equal.
    assert distance == pytest.approx((0.25**2 + 0 + 0.25**2) / 2 / 3)
    # Cosines 0, 3/5 and 4/5 against 1/2.
    assert angle == pytest.approx((0.25 + 0.01 + 0.09) / 2 / 3, rel=1e-6)


def test_against_the_mean_over_all_only_the_counts_differ() -> None:
    # What the published code takes the mean of, with its zeros.
    s, t = _random(6, 3), _random(6, 5, seed=1)
    every = []
    for x in (s, t):
        apart = torch.cdist(x, x)
        unit = F.normalize(x[None] - x[:, None], dim=2)
        every.append((apart / apart[apart > 1e-9].mean(), unit @ unit.transpose(1, 2)))
    distance, angle = (
        F.smooth_l1_loss(own, other).item() for own, other in zip(*every, strict=True)
    )
    expected = [distance * 6 / 5, angle * 6 * 6 / (5 * 4)]
    assert _unweighted(s, t) == pytest.approx(expected, rel=1e-6)


def test_its_gradient_is_that_of_its_value() -> None:
    teacher = _random(5, 4, seed=1)

    def loss(x: Tensor) -> tuple[Tensor, ...]:
        return tuple(_loss(x, teacher).values())

    assert torch.autograd.gradcheck(loss, _random(5, 3).requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_zero_at_equality_with_its_gradient(dtype: torch.dtype) -> None:
    student = _random(8, 4).to(dtype).requires_grad_()
    losses = _loss(student, student.detach())
    (gradient,) = torch.autograd.grad(sum(losses.values(), torch.zeros(())), student)
    assert [value.item() for value in losses.values()] == [0.0, 0.0]
    assert not bool(gradient.any())


def test_rotation_scale_and_shift_change_nothing() -> None:
    x = _random(6, 4)
    rotation, _ = torch.linalg.qr(_random(4, 4, seed=1))
    assert _unweighted(3 * x @ rotation + 1, x) == pytest.approx([0, 0], abs=1e-12)
    stretched = x * torch.tensor([4.0, 1.0, 1.0, 1.0])
    assert min(_unweighted(stretched, x)) > 1e-3


def test_it_is_symmetric_and_blind_to_the_order_of_samples() -> None:
    s, t = _random(6, 3), _random(6, 5, seed=1)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    assert _unweighted(t, s) == pytest.approx(_unweighted(s, t), rel=1e-12)
    assert _unweighted(s[order], t[order]) == pytest.approx(_unweighted(s, t), rel=1e-12)


def test_the_weights_scale_each_part() -> None:
    s, t = _random(6, 3), _random(6, 5, seed=1)
    distance, angle = _unweighted(s, t)
    losses = _loss(s, t, distance=3.0, angle=0.0)
    assert losses["distance"].item() == pytest.approx(3 * distance)
    assert losses["angle"].item() == 0.0
    assert angle > 0


@pytest.mark.parametrize("samples", [1, 2])
def test_without_a_pair_or_triple_there_is_no_loss(samples: int) -> None:
    student = _random(samples, 3).requires_grad_()
    losses = _loss(student, _random(samples, 5, seed=1))
    assert [value.item() for value in losses.values()] == [0.0, 0.0]
    (gradient,) = torch.autograd.grad(sum(losses.values(), torch.zeros(())), student)
    assert float(gradient.abs().max()) < 1e-12


@pytest.mark.parametrize("offset", [0.0, 1e-9])
def test_samples_that_coincide_do_not_make_the_gradient_large(offset: float) -> None:
    student, teacher = _random(6, 3), _random(6, 5, seed=1)
    student[1] = student[0] + offset
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(_loss(student, teacher)["angle"], student)
    assert float(gradient.abs().max()) < 100
    # Directions that are normalised without a guard have one of the order of 1 / distance.
    unit = F.normalize(student[None] - student[:, None], dim=2)
    with_teacher = F.normalize(teacher[None] - teacher[:, None], dim=2)
    unguarded = F.smooth_l1_loss(
        unit @ unit.transpose(1, 2), with_teacher @ with_teacher.transpose(1, 2)
    )
    (gradient,) = torch.autograd.grad(unguarded, student)
    assert float(gradient.abs().max()) > 1e4


def test_in_float32_it_is_as_in_float64_also_far_from_the_origin_and_of_unlike_distances() -> None:
    s, t = 10 + _random(32, 256), 10 + _random(32, 512, seed=1)
    s[:8] = s[0] + 1e-2 * (s[:8] - s[0])
    single = _unweighted(s.float(), t.float())
    assert single == pytest.approx(_unweighted(s, t), rel=1e-3)


def test_a_collapsed_student_has_a_finite_loss_and_gradient() -> None:
    student = torch.ones(5, 3, requires_grad=True)
    losses = _loss(student, _random(5, 4).float())
    (gradient,) = torch.autograd.grad(sum(losses.values(), torch.zeros(())), student)
    assert all(bool(value.isfinite()) for value in losses.values())
    assert bool(gradient.isfinite().all())


def test_maps_are_compared_flattened() -> None:
    s, t = _random(4, 2, 3, 3), _random(4, 3, 2, 2, seed=1)
    assert _unweighted(s, t) == _unweighted(s.flatten(1), t.flatten(1))


def test_in_a_run_it_compares_the_inputs_of_the_heads() -> None:
    torch.manual_seed(0)
    student, teacher = (
        SmallCNN((2, 3), image_size=8).double(),
        SmallCNN((4, 5), image_size=8).double(),
    )
    images = torch.randn(4, 3, 8, 8).double()
    with Distiller(teacher, student, ["relational"], sample_input=images) as distiller:
        auxiliary = distiller(images).auxiliary
    with torch.no_grad():
        own, other = (model.features(images).flatten(1).numpy() for model in (student, teacher))
    assert {name: value.item() for name, value in auxiliary.items()} == pytest.approx(
        {
            "relational.distance": 25 * _distance(own, other),
            "relational.angle": 50 * _angle(own, other),
        }
    )


@pytest.mark.parametrize("name", ["distance", "angle"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, "far"])
def test_a_weight_that_is_none_is_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        Relational(**{name: value})


def test_without_settings_it_is_the_papers() -> None:
    assert Relational().settings.model_dump() == {
        "student_tap": "auto:embedding",
        "teacher_tap": "auto:embedding",
        "distance": 25.0,
        "angle": 50.0,
    }
    assert (Relational.recommended.weight, Relational.recommended.task_weight) == (1.0, 1.0)
    assert Relational.where_equal == "zero"
