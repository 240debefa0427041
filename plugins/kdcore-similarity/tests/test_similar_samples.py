"""Similarity-preserving distillation against Tung & Mori 2019, written out in numpy's float64."""

from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdcore import Distiller, Features
from kdcore.errors import ConfigError
from kdcore.testing import SmallCNN, StrategyTests
from kdcore_similarity import Similarity

Array = NDArray[np.float64]


class TestConformance(StrategyTests):
    strategy = "similarity"


class TestConformanceOnVectors(StrategyTests):
    strategy = "similarity"
    settings = {"student_tap": "head:input", "teacher_tap": "head:input"}  # noqa: RUF012


class TestConformanceOnOtherSizes(StrategyTests):
    strategy = "similarity"
    student = partial(SmallCNN, (4, 5))


def _loss(student: Tensor, teacher: Tensor) -> Tensor:
    return Similarity().compute_auxiliary_loss(
        student=Features({"activation": (student,)}, None),
        teacher=Features({"activation": (teacher,)}, None),
    )


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def _similarities(activation: Tensor) -> Array:
    """Return ``G``: inner products of flattened samples, each row divided by its norm."""
    samples = [sample.ravel().tolist() for sample in activation.numpy()]
    result = np.empty((len(samples), len(samples)))
    for i, j in product(range(len(samples)), repeat=2):
        result[i, j] = sum(a * b for a, b in zip(samples[i], samples[j], strict=True))
    for row in result:
        row /= sum(value * value for value in row) ** 0.5
    return result


def _expected(student: Tensor, teacher: Tensor) -> float:
    """Return ``|G_T - G_S|² / b²``."""
    g_s, g_t = _similarities(student), _similarities(teacher)
    squares = sum((g_t[place] - g_s[place]) ** 2 for place in np.ndindex(g_t.shape))
    return float(squares / len(student) ** 2)


@pytest.mark.parametrize(
    ("own", "other"), [((3,), (7,)), ((2, 4, 4), (6, 3, 5)), ((4, 3), (2, 2, 2)), ((3, 2, 2), (5,))]
)
def test_it_is_the_formula_for_activations_of_any_shape(
    own: tuple[int, ...], other: tuple[int, ...]
) -> None:
    student, teacher = _random(5, *own), _random(5, *other, seed=1)
    loss = _loss(student, teacher)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(_expected(student, teacher), rel=1e-12)


def test_two_samples_at_right_angles_against_two_alike_are_as_by_hand() -> None:
    # Rows (1, 0) and (0, 1) against rows (1, 1) / √2: four differences of 1 - √½ or √½.
    apart, alike = torch.eye(2).double(), torch.ones(2, 3).double()
    expected = (2 * (1 - 0.5**0.5) ** 2 + 2 * 0.5) / 4
    assert _loss(apart, alike).item() == pytest.approx(expected, rel=1e-12)


def test_its_gradient_is_that_of_its_value() -> None:
    teacher = _random(4, 5, seed=1)
    student = _random(4, 2, 3, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: _loss(x, teacher), student)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_zero_at_equality_with_its_gradient(dtype: torch.dtype) -> None:
    student = _random(4, 3, 2, 2).to(dtype).requires_grad_()
    loss = _loss(student, student.detach())
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.item() == 0.0
    assert not gradient.any()


def test_a_rotation_and_one_scale_for_all_samples_are_not_seen() -> None:
    student, teacher = _random(5, 4), _random(5, 6, seed=1)
    rotation, _ = torch.linalg.qr(_random(4, 4, seed=2))
    expected = _loss(student, teacher).item()
    assert _loss(3 * student @ rotation, teacher).item() == pytest.approx(expected, rel=1e-10)
    assert _loss(3 * student @ rotation, student).item() == pytest.approx(0, abs=1e-15)
    stretched = student * torch.tensor([5.0, 1.0, 1.0, 1.0])
    assert _loss(stretched, student).item() > 1e-3


def test_it_does_not_depend_on_the_order_of_the_samples() -> None:
    student, teacher = _random(5, 4), _random(5, 6, seed=1)
    order = torch.tensor([3, 0, 4, 2, 1])
    together = _loss(student[order], teacher[order]).item()
    assert together == pytest.approx(_loss(student, teacher).item(), rel=1e-12)
    assert abs(_loss(student[order], teacher).item() - together) > 1e-3


def test_it_is_symmetric_and_bounded_by_four_over_the_batch() -> None:
    one, other = _random(6, 4), _random(6, 5, seed=1)
    assert torch.equal(_loss(one, other), _loss(other, one))
    # Each of b rows of length one is at most 2 from another.
    assert 0 < _loss(one, other).item() <= 4 / 6


def test_one_sample_has_nothing_to_be_compared_with() -> None:
    student = _random(1, 3, 2, 2).requires_grad_()
    loss = _loss(student, _random(1, 5, seed=1))
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.item() == pytest.approx(0, abs=1e-15)
    assert gradient.abs().max().item() == pytest.approx(0, abs=1e-15)


def test_samples_of_zeros_have_a_finite_loss_and_gradient() -> None:
    student = torch.cat([torch.zeros(1, 4).double(), _random(3, 4)]).requires_grad_()
    loss = _loss(student, _random(4, 5, seed=1))
    (gradient,) = torch.autograd.grad(loss, student)
    assert bool(loss.isfinite())
    assert bool(gradient.isfinite().all())
    # Divided by its own norm alone, its row would be no number.
    products = student.detach() @ student.detach().T
    assert bool((products / products.norm(dim=1, keepdim=True)).isnan().any())


def test_in_a_run_it_compares_the_last_maps() -> None:
    torch.manual_seed(0)
    student, teacher = (
        SmallCNN((2, 3), image_size=8).double(),
        SmallCNN((4, 5), image_size=8).double(),
    )
    images = torch.randn(6, 3, 8, 8).double()
    with Distiller(teacher, student, ["similarity"], sample_input=images) as distiller:
        loss = distiller(images).auxiliary["similarity"].item()
    with torch.no_grad():
        expected = _expected(student.features(images), teacher.features(images))
    assert loss == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("setting", "value"), [("student_tap", 3), ("teacher_tap", ""), ("p", 2)])
def test_settings_that_make_no_sense_are_refused(setting: str, value: object) -> None:
    with pytest.raises(ConfigError, match=setting):
        Similarity(**{setting: value})


def test_without_settings_it_is_the_papers() -> None:
    assert Similarity().settings.model_dump() == {
        "student_tap": "auto:feature_map",
        "teacher_tap": "auto:feature_map",
    }
    assert (Similarity.recommended.weight, Similarity.recommended.task_weight) == (3000.0, 1.0)
