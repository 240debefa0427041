"""VID against the formula of Ahn et al. 2019, written out in numpy's float64."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdcore import Adapters, Distiller, Features, Shapes
from kdcore.errors import ConfigError, TapError
from kdcore.testing import StrategyTests, small_student, small_teacher
from kdcore_variational import SMALLEST, Variances, Variational

Array = NDArray[np.float64]


class TestConformance(StrategyTests):
    strategy = "variational"


class TestConformanceOnOnePairOfOtherSizes(StrategyTests):
    strategy = "variational"
    settings = {  # noqa: RUF012
        "student_taps": "features.0",
        "teacher_taps": "features.1",
        "variance": 0.1,
    }


class TestConformanceWhereOneModelHasMoreMaps(StrategyTests):
    strategy = "variational"
    settings = {"teacher_taps": ["features.1", "features.2"]}  # noqa: RUF012


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def _adapters(student: Sequence[Tensor], teacher: Sequence[Tensor], **values: float) -> Adapters:
    torch.manual_seed(0)
    return Variational(**values).adapt_shapes(
        student=Shapes({"maps": tuple(maps.shape for maps in student)}, None),
        teacher=Shapes({"maps": tuple(maps.shape for maps in teacher)}, None),
    )


def _loss(adapters: Adapters, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Adapt the maps as kdcore does, and return the loss."""
    adapted = []
    for modules, maps in ((adapters.student, student), (adapters.teacher, teacher)):
        found = modules["maps"]
        assert not isinstance(found, nn.Module)
        adapted.append(tuple(module.double()(x) for module, x in zip(found, maps, strict=True)))
    return Variational().compute_auxiliary_loss(
        student=Features({"maps": adapted[0]}, None),
        teacher=Features({"maps": adapted[1]}, None),
        modules={name: module.double() for name, module in adapters.modules.items()},
    )


def _mean(adapters: Adapters, place: int, maps: Array) -> Array:
    """Return three products with weights over the channels, ReLU between them."""
    found = adapters.student["maps"]
    assert not isinstance(found, nn.Module)
    weights = [parameter.detach().double().numpy() for parameter in found[place].parameters()]
    for layer in range(3):
        weight, bias = weights[2 * layer][:, :, 0, 0], weights[2 * layer + 1]
        maps = np.einsum("oi,nihw->nohw", weight, maps) + bias[:, None, None]
        if layer < 2:
            maps = np.maximum(maps, 0)
    return maps


def _variances(adapters: Adapters) -> list[Array]:
    """Return the variances, the deepest pair's first."""
    alphas = [p.detach().double().numpy() for p in adapters.modules["variance"].parameters()]
    return [np.log(1 + np.exp(alpha.ravel())) + 1e-5 for alpha in alphas]


def _likelihood(mu: Array, t: Array, v: Array) -> list[float]:
    """Return the mean over channels and places of half of ``log v + (t - mu)² / v``."""
    values = []
    for n in range(len(t)):
        terms = [
            (math.log(v[c]) + (t[n, c, y, x] - mu[n, c, y, x]) ** 2 / v[c]) / 2
            for c in range(t.shape[1])
            for y in range(t.shape[2])
            for x in range(t.shape[3])
        ]
        values.append(math.fsum(terms) / len(terms))
    return values


def _spread(adapters: Adapters) -> None:
    """Make every variance another."""
    for parameter in adapters.modules["variance"].parameters():
        parameter.data = torch.linspace(-1, 2, parameter.numel()).reshape(parameter.shape)


def test_it_is_the_formula_summed_over_pairs() -> None:
    student = [_random(2, 3, 4, 5), _random(2, 4, 2, 2, seed=1)]
    teacher = [_random(2, 5, 4, 5, seed=2), _random(2, 6, 2, 2, seed=3)]
    adapters = _adapters(student, teacher)
    _spread(adapters)
    deep, shallow = _variances(adapters)
    expected = np.zeros(2)
    for place, v in ((0, shallow), (1, deep)):
        mu = _mean(adapters, place, student[place].numpy())
        expected += _likelihood(mu, teacher[place].numpy(), v)
    assert _loss(adapters, student, teacher).tolist() == pytest.approx(list(expected), rel=1e-6)


@pytest.mark.parametrize(("own", "other"), [(4, 2), (2, 4)])
def test_the_larger_map_is_averaged_to_the_smaller(own: int, other: int) -> None:
    student, teacher = _random(2, 3, own, own), _random(2, 4, other, other, seed=1)
    adapters = _adapters([student], [teacher])
    s, t = (
        maps.numpy().reshape(2, -1, 2, maps.shape[2] // 2, 2, maps.shape[3] // 2).mean((3, 5))
        for maps in (student, teacher)
    )
    expected = _likelihood(_mean(adapters, 0, s), t, _variances(adapters)[0])
    assert _loss(adapters, [student], [teacher]).tolist() == pytest.approx(expected, rel=1e-6)


def test_what_one_model_has_more_of_is_left_out() -> None:
    student = [_random(2, 3, 4, 4), _random(2, 4, 2, 2, seed=1)]
    teacher = [_random(2, 6, 2, 2, seed=3)]
    adapters = _adapters(student, teacher)
    alone = _likelihood(
        _mean(adapters, 1, student[1].numpy()), teacher[0].numpy(), _variances(adapters)[0]
    )
    assert _loss(adapters, student, teacher).tolist() == pytest.approx(alone, rel=1e-6)
    found = _adapters(teacher, student).teacher["maps"]
    assert not isinstance(found, nn.Module)
    assert found[0](student[0]).shape == (2, 1)


def test_its_gradient_is_that_of_its_value() -> None:
    student, teacher = [_random(2, 2, 3, 3)], [_random(2, 3, 2, 2, seed=1)]
    adapters = _adapters(student, teacher)
    _loss(adapters, student, teacher)  # float64 from here on
    found = adapters.student["maps"]
    assert not isinstance(found, nn.Module)
    trained = [*found[0].parameters(), *adapters.modules["variance"].parameters()]

    def loss(x: Tensor, *_: Tensor) -> Tensor:
        return _loss(adapters, [x], teacher)

    assert torch.autograd.gradcheck(loss, (student[0].requires_grad_(), *trained))


def _gaussian(mu: Tensor, t: Tensor, variance: float) -> tuple[Tensor, Tensor]:
    """Return the loss of means that are already there, and its gradient in the variances."""
    variances = Variances([t.shape[1]], variance).double()
    loss = Variational().compute_auxiliary_loss(
        student=Features({"maps": (mu,)}, None),
        teacher=Features({"maps": (t,)}, None),
        modules={"variance": variances},
    )
    (gradient,) = torch.autograd.grad(loss.mean(), list(variances.parameters()))
    return loss, gradient


def test_the_best_variance_is_the_mean_squared_error() -> None:
    mu, t = _random(3, 1, 4, 4), _random(3, 1, 4, 4, seed=1)
    best = float((mu - t).square().mean())
    assert _gaussian(mu, t, best)[1].item() == pytest.approx(0, abs=1e-7)
    assert _gaussian(mu, t, best / 2)[1].item() < -1e-3
    assert _gaussian(mu, t, best * 2)[1].item() > 1e-3


def test_where_the_mean_is_right_half_the_log_variance_is_left() -> None:
    t = _random(3, 2, 4, 4)
    assert _gaussian(t, t, 0.25)[0].tolist() == pytest.approx([math.log(0.25) / 2] * 3, rel=1e-6)
    assert _gaussian(t, t, 1.0)[0].tolist() == pytest.approx([0.0] * 3, abs=1e-6)


def test_of_a_variance_of_one_it_is_half_the_squared_error() -> None:
    mu, t = _random(3, 2, 4, 4), _random(3, 2, 4, 4, seed=1)
    expected = (mu - t).square().flatten(1).mean(1) / 2
    assert _gaussian(mu, t, 1.0)[0].tolist() == pytest.approx(expected.tolist(), rel=1e-5)


@pytest.mark.parametrize("variance", [1e-4, 1.0, 5.0, 80.0, 1e6])
def test_variances_begin_where_they_are_set(variance: float) -> None:
    (found,) = Variances([3], variance).double()()
    assert found.flatten().tolist() == pytest.approx([variance] * 3, rel=1e-3)
    if variance > 1e3:  # the control: the inverse as it is usually written
        with pytest.raises(OverflowError):
            math.expm1(variance)


def test_a_variance_never_reaches_zero() -> None:
    variances = Variances([2], 5.0)
    (alpha,) = variances.parameters()
    alpha.data.fill_(-1e4)
    assert variances()[0].flatten().tolist() == pytest.approx([SMALLEST] * 2)


def test_in_a_run_means_and_variances_of_all_stages_are_trained() -> None:
    images = _random(4, 3, 16, 16).float()
    models = small_teacher(), small_student()
    with Distiller(*models, ["variational"], sample_input=images) as distiller:
        losses = distiller(images)
        losses.auxiliary["variational"].backward()
        trained = dict(distiller.strategies.named_parameters())
    variances = {name: p.numel() for name, p in trained.items() if "variance" in name}
    assert list(variances.values())[:3] == [10, 8, 6]  # the deepest first
    assert all(p.grad is not None and bool(p.grad.any()) for p in trained.values())


def test_what_is_no_map_is_refused() -> None:
    with pytest.raises(TapError, match="needs feature maps"):
        _adapters([_random(2, 3, 4)], [_random(2, 3, 4, 4)])


@pytest.mark.parametrize("variance", [0, SMALLEST, -1.0, 2e6, math.nan, "wide"])
def test_a_variance_that_is_none_is_refused(variance: object) -> None:
    with pytest.raises(ConfigError, match="variance"):
        Variational(variance=variance)


def test_without_settings_it_is_the_published_one() -> None:
    assert Variational().settings.model_dump() == {
        "student_taps": "auto:stages",
        "teacher_taps": "auto:stages",
        "variance": 5.0,
    }
    assert (Variational.recommended.weight, Variational.recommended.task_weight) == (1.0, 1.0)
