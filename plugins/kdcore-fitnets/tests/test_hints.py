"""Hints against the formula of Romero et al. 2015, written out in numpy's float64."""

from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdcore import Distiller, Features, Shapes
from kdcore.errors import ConfigError, TapError
from kdcore.testing import SmallCNN, StrategyTests
from kdcore_fitnets import FitNets

Array = NDArray[np.float64]


class TestConformance(StrategyTests):
    strategy = "fitnets"


class TestConformanceOnVectors(StrategyTests):
    strategy = "fitnets"
    settings = {"student_tap": "head:input", "teacher_tap": "head:input"}  # noqa: RUF012


class TestConformanceOnOtherSizes(StrategyTests):
    strategy = "fitnets"
    settings = {  # noqa: RUF012
        "student_tap": "features.2",
        "teacher_tap": "features.0",
        "kernel_size": 1,
    }


def _regressor(student: Tensor, teacher: Tensor, kernel_size: int = 3) -> nn.Module:
    torch.manual_seed(0)
    adapters = FitNets(kernel_size=kernel_size).adapt_shapes(
        student=Shapes({"hint": (student.shape,)}, None),
        teacher=Shapes({"hint": (teacher.shape,)}, None),
    )
    assert not adapters.teacher
    module = adapters.student["hint"]
    assert isinstance(module, nn.Module)
    return module.double()


def _loss(student: Tensor, teacher: Tensor) -> Tensor:
    return FitNets().compute_auxiliary_loss(
        student=Features({"hint": (student,)}, None), teacher=Features({"hint": (teacher,)}, None)
    )


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def _trained(regressor: nn.Module) -> tuple[Array, Array]:
    """Return weight and bias, the only trained parts."""
    weight, bias = (parameter.detach().numpy() for parameter in regressor.parameters())
    return weight, bias


def _convolved(maps: Array, weight: Array, bias: Array) -> Array:
    """Return ``b_o + Σ w_oiyx · m_i`` around each place, zeros beyond the border."""
    side = weight.shape[2]
    edge = side // 2
    padded = np.pad(maps, ((0, 0), (0, 0), (edge, edge), (edge, edge)))
    result = np.empty((len(maps), len(weight), *maps.shape[2:]))
    for n, o, y, x in product(*map(range, result.shape)):
        window = padded[n, :, y : y + side, x : x + side]
        result[n, o, y, x] = bias[o] + (weight[o] * window).sum()
    return result


def _mean_squares(predicted: Array, teacher: Tensor) -> list[float]:
    means: list[float] = [
        ((a - b) ** 2).mean() for a, b in zip(predicted, teacher.numpy(), strict=True)
    ]
    return means


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_maps_go_through_a_convolution_with_bias(kernel_size: int) -> None:
    student, teacher = _random(2, 3, 4, 5), _random(2, 6, 4, 5, seed=1)
    regressor = _regressor(student, teacher, kernel_size)
    weight, bias = _trained(regressor)
    assert weight.shape == (6, 3, kernel_size, kernel_size)
    expected = _mean_squares(_convolved(student.numpy(), weight, bias), teacher)
    assert _loss(regressor(student), teacher).tolist() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("own", "other"), [((3,), (7,)), ((7,), (3,)), ((4, 3), (4, 7))])
def test_vectors_and_tokens_go_through_a_linear_layer(
    own: tuple[int, ...], other: tuple[int, ...]
) -> None:
    student, teacher = _random(2, *own), _random(2, *other, seed=1)
    regressor = _regressor(student, teacher)
    weight, bias = _trained(regressor)
    expected = _mean_squares(student.numpy() @ weight.T + bias, teacher)
    assert _loss(regressor(student), teacher).tolist() == pytest.approx(expected, rel=1e-10)


def test_larger_maps_are_averaged_to_the_teachers_size() -> None:
    student, teacher = _random(2, 3, 6, 4), _random(2, 5, 3, 2, seed=1)
    regressor = _regressor(student, teacher, 1)
    maps = _convolved(student.numpy(), *_trained(regressor))
    averaged = maps.reshape(2, 5, 3, 2, 2, 2).mean((3, 5))
    expected = _mean_squares(averaged, teacher)
    assert _loss(regressor(student), teacher).tolist() == pytest.approx(expected, rel=1e-10)


def test_smaller_maps_are_interpolated_to_the_teachers_size() -> None:
    student, teacher = _random(2, 3, 3, 4), _random(2, 5, 7, 9, seed=1)
    regressor = _regressor(student, teacher, 1)
    maps = _convolved(student.numpy(), *_trained(regressor))
    rows, columns = _weights(3, 7), _weights(4, 9)
    expected = _mean_squares(np.einsum("yi,xj,ncij->ncyx", rows, columns, maps), teacher)
    assert _loss(regressor(student), teacher).tolist() == pytest.approx(expected, rel=1e-10)


def test_shorter_token_sequences_are_interpolated_to_the_teachers_length() -> None:
    student, teacher = _random(2, 3, 4), _random(2, 8, 5, seed=1)
    regressor = _regressor(student, teacher)
    weight, bias = _trained(regressor)
    tokens = student.numpy() @ weight.T + bias
    expected = _mean_squares(np.einsum("ti,nic->ntc", _weights(3, 8), tokens), teacher)
    assert _loss(regressor(student), teacher).tolist() == pytest.approx(expected, rel=1e-10)


def _weights(given: int, wanted: int) -> Array:
    """Return the linear interpolation ``[wanted, given]`` between the middles of pixels."""
    result = np.zeros((wanted, given))
    for place in range(wanted):
        at = min(max((place + 0.5) * given / wanted - 0.5, 0), given - 1)
        low = min(int(at), given - 2)
        result[place, low : low + 2] = 1 - (at - low), at - low
    return result


def test_its_gradient_is_that_of_its_value() -> None:
    student, teacher = _random(2, 2, 3, 3), _random(2, 3, 5, 5, seed=1)
    regressor = _regressor(student, teacher)
    weight, bias = regressor.parameters()

    def loss(x: Tensor, *_: Tensor) -> Tensor:
        return _loss(regressor(x), teacher)

    assert torch.autograd.gradcheck(loss, (student.requires_grad_(), weight, bias))


def test_it_is_zero_where_the_regressor_gives_the_teachers_hint() -> None:
    hint = _random(2, 3, 4, 4)
    regressor = _regressor(hint, hint, 1)
    weight, bias = regressor.parameters()
    with torch.no_grad():
        weight.copy_(torch.eye(3)[:, :, None, None])
        bias.zero_()
    assert _loss(regressor(hint), hint).tolist() == [0.0, 0.0]
    with torch.no_grad():
        bias.add_(0.5)
    assert _loss(regressor(hint), hint).tolist() == pytest.approx([0.25, 0.25])


def test_it_is_symmetric_and_grows_with_the_square() -> None:
    one, other = _random(2, 3, 4, 4), _random(2, 3, 4, 4, seed=1)
    assert torch.equal(_loss(one, other), _loss(other, one))
    assert torch.allclose(_loss(3 * one, 3 * other), 9 * _loss(one, other), rtol=1e-12)


def test_in_a_run_it_compares_the_last_maps() -> None:
    torch.manual_seed(0)
    student, teacher = (
        SmallCNN((2, 3), image_size=8).double(),
        SmallCNN((4, 5), image_size=8).double(),
    )
    images = torch.randn(3, 3, 8, 8).double()
    with Distiller(teacher, student, ["fitnets"], sample_input=images) as distiller:
        loss = distiller(images).auxiliary["fitnets"].item()
        weight, bias = _trained(distiller.strategies)
    with torch.no_grad():
        own, other = student.features(images), teacher.features(images)
    expected = _mean_squares(_convolved(own.numpy(), weight, bias), other)
    assert loss == pytest.approx(sum(expected) / 3, rel=1e-9)


def test_hints_of_other_ranks_work_or_are_refused() -> None:
    with pytest.raises(TapError, match="no regressor"):
        _regressor(_random(2, 3, 4, 4), _random(2, 3))


@pytest.mark.parametrize("kernel_size", [0, 2, 5, 3.5, "3x3"])
def test_a_kernel_of_another_size_is_refused(kernel_size: object) -> None:
    with pytest.raises(ConfigError, match="kernel_size"):
        FitNets(kernel_size=kernel_size)


def test_without_settings_it_is_the_tutorials() -> None:
    assert FitNets().settings.model_dump() == {
        "student_tap": "auto:feature_map",
        "teacher_tap": "auto:feature_map",
        "kernel_size": 3,
    }
    assert (FitNets.recommended.weight, FitNets.recommended.task_weight) == (0.25, 0.75)
