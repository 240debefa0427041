"""Shared formulas: against Python's floats, and by their properties."""

import math

import pytest
import torch
from torch import Tensor

from kdcore.contract import Shapes
from kdcore.errors import ModelError, StrategyError
from kdcore.losses import require_same_classes, require_same_shape, squared_error


def _random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _shapes(*logits: int) -> Shapes:
    return Shapes({}, torch.Size(logits))


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4)])
def test_squared_error_is_the_mean_over_each_sample(shape: tuple[int, ...]) -> None:
    student, teacher = _random(0, 4, *shape), _random(1, 4, *shape)
    expected = []
    for own, other in zip(student.flatten(1).tolist(), teacher.flatten(1).tolist(), strict=True):
        squares = [(a - b) ** 2 for a, b in zip(own, other, strict=True)]
        expected.append(math.fsum(squares) / len(squares))
    assert squared_error(student, teacher).tolist() == pytest.approx(expected, rel=1e-14)


def test_squared_error_is_symmetric_and_zero_at_equality() -> None:
    student, teacher = _random(0, 4, 5), _random(1, 4, 5)
    error = squared_error(student, teacher)
    assert torch.equal(error, squared_error(teacher, student))
    assert error.min() > 0
    assert squared_error(student, student.clone()).tolist() == [0.0] * 4


def test_squared_error_grows_with_the_square_of_the_distance() -> None:
    student, teacher = _random(0, 4, 5), _random(1, 4, 5)
    further = teacher + 2 * (student - teacher)
    ratio = squared_error(further, teacher) / squared_error(student, teacher)
    assert ratio.tolist() == pytest.approx([4.0] * 4, rel=1e-13)


def test_a_shape_that_pytorch_would_broadcast_is_refused() -> None:
    student, teacher = _random(0, 4, 10), _random(1, 4, 1)
    assert (student - teacher).shape == (4, 10)  # the control: PyTorch says nothing
    with pytest.raises(StrategyError, match=r"is \[4, 10\], the teacher's \[4, 1\]; an adapter"):
        squared_error(student, teacher)


def test_equal_shapes_are_legal_and_unequal_ones_are_not() -> None:
    require_same_shape(torch.zeros(2, 3), torch.ones(2, 3))
    with pytest.raises(StrategyError, match="must bring them to one shape"):
        require_same_shape(torch.zeros(2, 3), torch.zeros(3, 2))


def test_equal_classes_are_legal_and_unequal_ones_are_not() -> None:
    require_same_classes(_shapes(2, 10), _shapes(8, 10))
    with pytest.raises(ModelError, match="student has 10 classes and the teacher 100"):
        require_same_classes(_shapes(2, 10), _shapes(2, 100))
