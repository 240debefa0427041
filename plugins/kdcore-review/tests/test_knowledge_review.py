"""ReviewKD against the formulas of Chen et al. 2021, written out in numpy's float64."""

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdcore import Adapters, Distiller, Features, Moving, Shapes
from kdcore.errors import ConfigError, TapError
from kdcore.testing import SmallCNN, StrategyTests, small_student, small_teacher
from kdcore_review import Fusion, Review, hcl, normalised

Array = NDArray[np.float64]


def _teacher_of_one_pixel() -> nn.Module:
    return SmallCNN((6, 8, 10), image_size=8)


def _student_of_one_pixel() -> nn.Module:
    return SmallCNN((4, 5, 6), image_size=8)


class TestConformance(StrategyTests):
    strategy = "review"


class TestConformanceOnOneStage(StrategyTests):
    strategy = "review"
    settings = {  # noqa: RUF012
        "student_taps": "features.1",
        "teacher_taps": "features.0",
        "width": 1,
    }


class TestConformanceWhereOneModelHasMoreMaps(StrategyTests):
    strategy = "review"
    settings = {"student_taps": ["features.0", "features.2"]}  # noqa: RUF012


class TestConformanceOnMapsOfOnePixel(StrategyTests):
    strategy = "review"
    teacher = _teacher_of_one_pixel
    student = _student_of_one_pixel
    input_shape = (3, 8, 8)


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def _adapters(student: Sequence[Tensor], teacher: Sequence[Tensor], width: int = 512) -> Adapters:
    torch.manual_seed(0)
    adapters = Review(width=width).adapt_shapes(
        student=Shapes({"maps": tuple(maps.shape for maps in student)}, None),
        teacher=Shapes({"maps": tuple(maps.shape for maps in teacher)}, None),
    )
    for module in adapters.modules.values():
        module.double()
        for name, tensor in module.state_dict().items():
            if "norm" in name and tensor.is_floating_point():  # nothing stays zero or one
                tensor.add_(torch.linspace(0.1, 0.4, tensor.numel()).double())
    return adapters


def _loss(
    modules: Adapters, student: Sequence[Tensor], teacher: Sequence[Tensor], training: bool = False
) -> Tensor:
    for module in modules.modules.values():
        module.train(training)
    return Review().compute_auxiliary_loss(
        student=Features({"maps": tuple(student)}, None),
        teacher=Features({"maps": tuple(teacher)}, None),
        modules=modules.modules,
    )


def _convolved(maps: Array, weight: Array) -> Array:
    """Return ``Σ w_oiyx · m_i`` around each place, zeros beyond the border."""
    side = weight.shape[2]
    edge = side // 2
    padded = np.pad(maps, ((0, 0), (0, 0), (edge, edge), (edge, edge)))
    result = np.empty((len(maps), len(weight), *maps.shape[2:]))
    for n, o, y, x in product(*map(range, result.shape)):
        result[n, o, y, x] = (weight[o] * padded[n, :, y : y + side, x : x + side]).sum()
    return result


def _normal(maps: Array, of: dict[str, Array], name: str, training: bool) -> Array:
    """Return maps, each channel with its mean taken off and divided by its deviation."""
    result = np.empty_like(maps)
    for c in range(maps.shape[1]):
        mean, variance = of[f"{name}.running_mean"][c], of[f"{name}.running_var"][c]
        if training:
            mean, variance = maps[:, c].mean(), maps[:, c].var()
        result[:, c] = (maps[:, c] - mean) / math.sqrt(variance + 1e-5)
        result[:, c] = result[:, c] * of[f"{name}.weight"][c] + of[f"{name}.bias"][c]
    return result


def _nearest(maps: Array, height: int, width: int) -> Array:
    rows = [y * maps.shape[2] // height for y in range(height)]
    columns = [x * maps.shape[3] // width for x in range(width)]
    return maps[:, :, rows][:, :, :, columns]


def _reviewed(
    modules: Adapters, student: Sequence[Tensor], teacher: Sequence[Tensor], training: bool
) -> list[Array]:
    """Return all ``y``, the deepest first."""
    results = []
    deeper: Array | None = None
    stages = zip(modules.modules.values(), reversed(student), reversed(teacher), strict=False)
    for fusion, s, t in stages:
        of = {name: each.numpy().copy() for name, each in fusion.state_dict().items()}
        x = _convolved(s.detach().numpy(), of["narrow.weight"])
        f = x = _normal(x, of, "narrow_norm", training)
        if deeper is not None:
            deeper = _nearest(deeper, *x.shape[2:])
            scores = _convolved(np.concatenate([x, deeper], 1), of["attention.weight"])
            gates = 1 / (1 + np.exp(-(scores + of["attention.bias"][:, None, None])))
            f = gates[:, :1] * x + gates[:, 1:] * deeper
        wide = _convolved(_nearest(f, *t.shape[2:]), of["widen.weight"])
        results.append(_normal(wide, of, "widen_norm", training))
        deeper = f
    return results


def _pooled(maps: Array, side: int) -> Array:
    """Return the mean of what falls into each of ``side`` times ``side`` windows."""
    height, width = maps.shape[2:]
    result = np.empty((*maps.shape[:2], side, side))
    for y, x in product(range(side), range(side)):
        top, bottom = y * height // side, math.ceil((y + 1) * height / side)
        left, right = x * width // side, math.ceil((x + 1) * width / side)
        result[:, :, y, x] = maps[:, :, top:bottom, left:right].mean((2, 3))
    return result


def _context(y: Array, t: Array) -> Array:
    total, weights, weight = np.zeros(len(y)), 0.0, 1.0
    sides = [side for side in (4, 2, 1) if side < min(y.shape[2:])]
    for side in (None, *sides):
        one, other = (y, t) if side is None else (_pooled(y, side), _pooled(t, side))
        total += weight * np.array([((a - b) ** 2).mean() for a, b in zip(one, other, strict=True)])
        weights += weight
        weight /= 2
    return total / weights


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (5, 9), (4, 4), (3, 3), (2, 6), (1, 1)])
def test_the_context_loss_is_its_formula(size: tuple[int, int]) -> None:
    y, t = _random(3, 2, *size), _random(3, 2, *size, seed=1)
    expected = _context(y.numpy(), t.numpy())
    assert hcl(y, t).tolist() == pytest.approx(expected.tolist(), rel=1e-12)


def test_the_context_loss_of_a_shift_is_its_square_at_every_level() -> None:
    t = _random(3, 2, 8, 8)
    assert hcl(t + 3, t).tolist() == pytest.approx([9.0] * 3, rel=1e-12)
    assert hcl(t, t).tolist() == [0.0] * 3


def test_the_context_loss_is_symmetric_and_grows_with_the_square() -> None:
    y, t = _random(3, 2, 8, 8), _random(3, 2, 8, 8, seed=1)
    assert torch.equal(hcl(y, t), hcl(t, y))
    assert torch.allclose(hcl(3 * y, 3 * t), 9 * hcl(y, t), rtol=1e-12)


def test_what_pooling_hides_counts_on_the_whole_map_alone() -> None:
    t = _random(1, 1, 8, 8)
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    y = t + (-1.0) ** (rows + columns)
    # The squared error is one on the whole map and zero on its pools: 1 / (1 + 1/2 + 1/4 + 1/8).
    assert hcl(y, t).item() == pytest.approx(1 / 1.875, rel=1e-12)


MAPS = {
    "equal sizes": ([(3, 4, 6), (4, 2, 3), (5, 1, 1)], [(2, 4, 6), (6, 2, 3), (3, 1, 1)]),
    "other sizes": ([(3, 4, 4), (4, 2, 2)], [(2, 6, 5), (6, 3, 3)]),
    "more of the student": ([(3, 6, 6), (2, 4, 4), (4, 2, 2)], [(2, 4, 4), (6, 2, 2)]),
    "more of the teacher": ([(4, 2, 2)], [(2, 4, 4), (6, 2, 2)]),
}


def _maps(shapes: Sequence[tuple[int, ...]], seed: int) -> list[Tensor]:
    return [_random(3, *shape, seed=seed + place) for place, shape in enumerate(shapes)]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("sizes", MAPS)
def test_it_is_the_formula_summed_over_stages(sizes: str, training: bool) -> None:
    student, teacher = _maps(MAPS[sizes][0], 0), _maps(MAPS[sizes][1], 10)
    modules = _adapters(student, teacher, width=3)
    expected = sum(
        (
            _context(y, t.numpy())
            for y, t in zip(
                _reviewed(modules, student, teacher, training), reversed(teacher), strict=False
            )
        ),
        start=np.zeros(3),
    )
    found = _loss(modules, student, teacher, training)
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-9)


def test_its_gradient_is_that_of_its_value() -> None:
    student, teacher = _maps([(2, 3, 3), (2, 2, 2)], 0), _maps([(3, 4, 4), (2, 2, 2)], 10)
    modules = _adapters(student, teacher, width=2)
    trained = [p for module in modules.modules.values() for p in module.parameters()]

    def loss(shallow: Tensor, deep: Tensor, *_: Tensor) -> Tensor:
        return _loss(modules, [shallow, deep], teacher)

    inputs = (*(maps.requires_grad_() for maps in student), *trained)
    assert torch.autograd.gradcheck(loss, inputs)


def test_a_shallow_stage_is_reviewed_by_the_deeper_ones_and_not_the_reverse() -> None:
    shallow, deep = (maps.requires_grad_() for maps in _maps([(3, 4, 4), (4, 2, 2)], 0))
    teacher = _maps([(2, 4, 4), (6, 2, 2)], 10)
    first, second = _adapters([shallow, deep], teacher).modules.values()
    y_deep, f = first.eval()(deep, None)
    y_shallow, _ = second.eval()(shallow, f)
    own, other = torch.autograd.grad(y_shallow.sum(), [shallow, deep], retain_graph=True)
    assert bool(own.any())
    assert bool(other.any())
    (reverse,) = torch.autograd.grad(y_deep.sum(), [shallow], materialize_grads=True)
    assert not bool(reverse.any())


def test_one_value_a_channel_is_normalised_by_what_is_remembered() -> None:
    norm = nn.BatchNorm2d(3).double()
    norm(_random(4, 3, 2, 2))
    before = {name: each.clone() for name, each in norm.state_dict().items()}
    x = _random(1, 3, 1, 1, seed=1)
    expected = norm.eval()(x)
    norm.train()
    assert torch.equal(normalised(norm, x), expected)
    assert all(torch.equal(each, before[name]) for name, each in norm.state_dict().items())
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        norm(x)  # the control


def test_two_values_a_channel_are_normalised_by_the_batch() -> None:
    norm = nn.BatchNorm2d(3).double()
    x = _random(2, 3, 1, 1)
    found = normalised(norm, x)
    assert found.mean((0, 2, 3)).tolist() == pytest.approx([0.0] * 3, abs=1e-9)
    assert bool(norm.running_mean is not None and norm.running_mean.any())


@pytest.mark.parametrize(("setting", "width"), [(512, 4), (3, 3)])
def test_fused_maps_are_no_wider_than_the_deepest(setting: int, width: int) -> None:
    student, teacher = _maps([(3, 4, 4), (4, 2, 2)], 0), _maps([(2, 4, 4), (6, 2, 2)], 10)
    for module in _adapters(student, teacher, width=setting).modules.values():
        assert isinstance(module, Fusion)
        assert module.narrow.out_channels == width


def test_what_the_teacher_has_more_of_is_kept_as_one_value() -> None:
    student, teacher = _maps(MAPS["more of the teacher"][0], 0), _maps([(2, 4, 4), (6, 2, 2)], 10)
    kept = _adapters(student, teacher).teacher["maps"]
    assert not isinstance(kept, nn.Module)
    shapes = [tuple(module(maps).shape) for module, maps in zip(kept, teacher, strict=True)]
    assert shapes == [(3, 1), (3, 6, 2, 2)]


def test_in_a_run_it_may_be_warmed_up() -> None:
    images = _random(4, 3, 16, 16).float()
    entry = {"name": "review", "weight": Moving(start=5.0, warmup=20)}
    models = small_teacher(), small_student()
    with Distiller(*models, [entry], sample_input=images) as distiller:
        losses = distiller(images)
        names = [name for name, _ in distiller.strategies.named_parameters()]
    assert losses.weights["review"] == pytest.approx(5.0 / 21)
    assert not [name for name in names if "fusion0.attention" in name]
    assert [name for name in names if "fusion1.attention.weight" in name]


def test_what_is_no_map_is_refused() -> None:
    with pytest.raises(TapError, match="needs feature maps"):
        _adapters([_random(2, 3, 4)], [_random(2, 3, 4, 4)])


@pytest.mark.parametrize("width", [0, -1, 2.5, "wide"])
def test_a_width_that_is_none_is_refused(width: object) -> None:
    with pytest.raises(ConfigError, match="width"):
        Review(width=width)


def test_without_settings_it_is_the_published_one() -> None:
    assert Review().settings.model_dump() == {
        "student_taps": "auto:stages",
        "teacher_taps": "auto:stages",
        "width": 512,
    }
    assert (Review.recommended.weight, Review.recommended.task_weight) == (5.0, 1.0)
