"""Attention transfer against equation 2 of Zagoruyko & Komodakis 2017, in numpy's float64."""

from collections.abc import Sequence
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdcore import Distiller, Features
from kdcore.errors import ConfigError, TapError
from kdcore.testing import SmallCNN, StrategyTests
from kdcore_attention import Attention

Array = NDArray[np.float64]


class TestConformance(StrategyTests):
    strategy = "attention"


class TestConformanceOnOnePair(StrategyTests):
    strategy = "attention"
    settings = {"depth": 1}  # noqa: RUF012


class TestConformanceOnOtherSizes(StrategyTests):
    strategy = "attention"
    settings = {"depth": 2}  # noqa: RUF012
    student = partial(SmallCNN, (4, 5))


def _loss(student: Sequence[Tensor], teacher: Sequence[Tensor], depth: int = 3) -> Tensor:
    return Attention(depth=depth).compute_auxiliary_loss(
        student=Features({"maps": tuple(student)}, None),
        teacher=Features({"maps": tuple(teacher)}, None),
    )


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def _attention(maps: Array) -> Array:
    """Return ``F(A)`` of one sample: at each place the sum over channels of ``|A_i|²``."""
    result = np.zeros(maps.shape[1:])
    for channel, y, x in product(*map(range, maps.shape)):
        result[y, x] += abs(maps[channel, y, x]) ** 2
    return result


def _averaged(attention: Array, height: int, width: int) -> Array:
    """Average the places that fall together, where the size is divided by a whole number."""
    tall, wide = attention.shape[0] // height, attention.shape[1] // width
    result = np.empty((height, width))
    for y, x in product(range(height), range(width)):
        result[y, x] = attention[y * tall : (y + 1) * tall, x * wide : (x + 1) * wide].mean()
    return result


def _distance(q_s: Array, q_t: Array) -> float:
    """Return ``|q_s / |q_s| - q_t / |q_t||_2 / 2``, divided by the elements."""
    s, t = q_s.ravel().tolist(), q_t.ravel().tolist()
    norm_s, norm_t = sum(v * v for v in s) ** 0.5, sum(v * v for v in t) ** 0.5
    squares = sum((a / norm_s - b / norm_t) ** 2 for a, b in zip(s, t, strict=True))
    distance: float = squares**0.5 / 2 / len(s)
    return distance


def _expected(student: Tensor, teacher: Tensor) -> list[float]:
    """Return the formula for a pair of maps of one height and width, sample by sample."""
    samples = zip(student.numpy(), teacher.numpy(), strict=True)
    return [_distance(_attention(s), _attention(t)) for s, t in samples]


def test_it_is_the_formula_sample_by_sample() -> None:
    student, teacher = _random(3, 2, 4, 5), _random(3, 6, 4, 5, seed=1)
    expected = _expected(student, teacher)
    assert _loss([student], [teacher]).tolist() == pytest.approx(expected, rel=1e-12)


def test_pairs_are_added_up() -> None:
    student = [_random(2, 3, 8, 8), _random(2, 4, 4, 4)]
    teacher = [_random(2, 5, 8, 8, seed=1), _random(2, 6, 4, 4, seed=1)]
    first, second = (_expected(s, t) for s, t in zip(student, teacher, strict=True))
    expected = np.add(first, second)
    assert _loss(student, teacher).tolist() == pytest.approx(expected, rel=1e-12)


def test_the_last_are_paired_with_the_last_as_many_as_depth_says() -> None:
    student = [_random(2, 3, side, side, seed=side) for side in (8, 4, 2)]
    teacher = [_random(2, 5, side, side, seed=side) for side in (16, 8, 4, 2)]
    last, middle = (_expected(student[-i], teacher[-i]) for i in (1, 2))
    assert _loss(student, teacher, 1).tolist() == pytest.approx(last, rel=1e-12)
    both = np.add(last, middle)
    assert _loss(student, teacher, 2).tolist() == pytest.approx(both, rel=1e-12)
    assert torch.equal(_loss(student, teacher, 3), _loss(student, teacher, 9))


@pytest.mark.parametrize("larger", ["student", "teacher"])
def test_larger_attention_maps_are_averaged_to_the_smaller_size(larger: str) -> None:
    maps, small = _random(2, 3, 6, 4), _random(2, 5, 3, 2, seed=1)
    pairs = zip(maps.numpy(), small.numpy(), strict=True)
    expected = [_distance(_averaged(_attention(m), 3, 2), _attention(s)) for m, s in pairs]
    pair = ([maps], [small]) if larger == "student" else ([small], [maps])
    assert _loss(*pair).tolist() == pytest.approx(expected, rel=1e-12)


def test_signs_do_not_cancel_where_maps_are_averaged() -> None:
    # Averaging activations instead of attention would leave nothing of a checkerboard.
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64).repeat(2, 2)[None, None]
    flat = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    assert _loss([board], [flat]).tolist() == pytest.approx([0.0], abs=1e-15)


def test_its_gradient_is_that_of_its_value() -> None:
    teacher = [_random(2, 3, 4, 4, seed=1), _random(2, 4, 2, 2, seed=1)]

    def loss(*student: Tensor) -> Tensor:
        return _loss(student, teacher)

    student = (_random(2, 2, 8, 6).requires_grad_(), _random(2, 3, 2, 2).requires_grad_())
    assert torch.autograd.gradcheck(loss, student)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_zero_at_equality_with_its_gradient(dtype: torch.dtype) -> None:
    student = _random(2, 3, 4, 4).to(dtype).requires_grad_()
    loss = _loss([student], [student.detach()])
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert loss.tolist() == [0.0, 0.0]
    assert not gradient.any()
    # The root of the summed squares is zero there, too, but has no gradient.
    (broken,) = torch.autograd.grad((student - student.detach()).square().sum().sqrt(), student)
    assert bool(broken.isnan().all())


def test_scale_signs_and_channels_are_not_seen() -> None:
    maps, other = _random(2, 3, 4, 4), _random(2, 5, 4, 4, seed=1)
    many = torch.cat([-3 * maps, 4 * maps.flip(1)], dim=1)  # of squares: 25 times those of `maps`
    assert torch.allclose(_loss([many], [other]), _loss([maps], [other]), rtol=1e-12)
    assert _loss([many], [maps]).tolist() == pytest.approx([0, 0], abs=1e-15)
    assert float(_loss([maps.roll(1, dims=3)], [maps]).min()) > 1e-3


def test_it_is_symmetric_and_at_most_that_of_places_apart() -> None:
    one, other = _random(2, 3, 4, 4), _random(2, 3, 4, 4, seed=1)
    assert torch.equal(_loss([one], [other]), _loss([other], [one]))
    # Attention is never negative: two maps are farthest apart where they look at other places.
    here, there = torch.zeros(2, 1, 1, 4, 4, dtype=torch.float64)
    here[..., 0, 0], there[..., 3, 3] = 1.0, 2.0
    assert _loss([here], [there]).tolist() == pytest.approx([2**0.5 / 2 / 16])
    assert float(_loss([one], [other]).max()) < 2**0.5 / 2 / 16


def test_a_sample_that_activates_nothing_has_a_finite_loss_and_gradient() -> None:
    student = torch.cat([torch.zeros(1, 3, 4, 4).double(), _random(1, 3, 4, 4)]).requires_grad_()
    loss = _loss([student], [_random(2, 5, 4, 4, seed=1)])
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert loss[0].item() == pytest.approx(1 / 2 / 16)
    assert bool(gradient.isfinite().all())
    # Divided by its own norm alone, its attention would be no number.
    attention = student.detach().square().sum(1).flatten(1)
    assert bool((attention / attention.norm(dim=1, keepdim=True)).isnan().any())


def _activation(model: nn.Module, tap: str, images: Tensor) -> Tensor:
    """Return what a module of the model gives."""
    found: list[Tensor] = []
    handle = model.get_submodule(tap).register_forward_hook(lambda *given: found.append(given[2]))
    model(images)
    handle.remove()
    return found[0]


def test_in_a_run_it_compares_the_last_map_of_each_resolution() -> None:
    torch.manual_seed(0)
    student, teacher = (
        SmallCNN((2, 3), image_size=8).double(),
        SmallCNN((4, 5), image_size=8).double(),
    )
    images = torch.randn(3, 3, 8, 8).double()
    with Distiller(teacher, student, ["attention"], sample_input=images) as distiller:
        loss = distiller(images).auxiliary["attention"].item()
    with torch.no_grad():
        # Of each stage the pooled map; of the first also ReLU's, of the image's resolution.
        taps = ("features.0.1", "features.0", "features.1")
        expected = sum(
            np.mean(_expected(_activation(student, tap, images), _activation(teacher, tap, images)))
            for tap in taps
        )
    assert loss == pytest.approx(expected, rel=1e-9)


def test_activations_that_are_no_maps_are_refused() -> None:
    taps = {"student_taps": "head:input", "teacher_taps": "features.1"}
    models = SmallCNN((4, 5), image_size=8), SmallCNN((2, 3), image_size=8)
    with pytest.raises(TapError, match="needs feature maps"):
        Distiller(*models, [Attention(**taps)], sample_input=torch.zeros(2, 3, 8, 8))
    # Maps alone are taken, of unequal sizes, too.
    taps = {"student_taps": "features.0", "teacher_taps": "features.1"}
    Distiller(*models, [Attention(**taps)], sample_input=torch.zeros(2, 3, 8, 8)).close()


def test_token_sequences_are_refused() -> None:
    teacher, student = (
        nn.Sequential(nn.Linear(4, 6), nn.Flatten(), nn.Linear(18, 5)) for _ in range(2)
    )
    with pytest.raises(TapError, match="needs feature maps"):
        Distiller(teacher, student, ["attention"], sample_input=torch.zeros(2, 3, 4))


@pytest.mark.parametrize(
    ("setting", "value"),
    [("depth", 0), ("depth", 1.5), ("student_taps", ()), ("teacher_taps", 3), ("power", 2)],
)
def test_settings_that_make_no_sense_are_refused(setting: str, value: object) -> None:
    with pytest.raises(ConfigError, match=setting):
        Attention(**{setting: value})


def test_without_settings_it_is_the_papers() -> None:
    assert Attention().settings.model_dump() == {
        "student_taps": "auto:stages",
        "teacher_taps": "auto:stages",
        "depth": 3,
    }
    assert (Attention.recommended.weight, Attention.recommended.task_weight) == (1000.0, 1.0)
