"""Neuron selectivity transfer against Huang & Wang 2017, by the kernel, in numpy's float64."""

from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdcore import Distiller, Features, Shapes
from kdcore.errors import ConfigError, StrategyError, TapError
from kdcore.testing import SmallCNN, StrategyTests
from kdcore_nst import NST

Array = NDArray[np.float64]


class TestConformance(StrategyTests):
    strategy = "nst"


class TestConformanceOnLargerMapsOfTheStudent(StrategyTests):
    strategy = "nst"
    student = partial(SmallCNN, (4, 5))


class TestConformanceOnLargerMapsOfTheTeacher(StrategyTests):
    strategy = "nst"
    teacher = partial(SmallCNN, (6, 8))


def _loss(student: Tensor, teacher: Tensor) -> Tensor:
    adapters = NST().adapt_shapes(
        student=Shapes({"map": (student.shape,)}, None),
        teacher=Shapes({"map": (teacher.shape,)}, None),
    )
    own, other = adapters.student["map"], adapters.teacher["map"]
    assert isinstance(own, nn.Module)
    assert isinstance(other, nn.Module)
    return NST().compute_auxiliary_loss(
        student=Features({"map": (own(student),)}, None),
        teacher=Features({"map": (other(teacher),)}, None),
    )


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def _patterns(maps: Array) -> list[list[float]]:
    """Return each channel of one sample as a vector over places, divided by its norm."""
    channels = [channel.ravel().tolist() for channel in maps]
    norms = [sum(value * value for value in channel) ** 0.5 for channel in channels]
    return [[v / norm for v in channel] for channel, norm in zip(channels, norms, strict=True)]


def _mean_kernel(first: list[list[float]], second: list[list[float]]) -> float:
    """Return the mean over pairs of ``(x · y)²``."""
    total = 0.0
    for x in first:
        for y in second:
            total += sum(a * b for a, b in zip(x, y, strict=True)) ** 2
    return total / len(first) / len(second)


def _expected(student: Tensor, teacher: Tensor) -> list[float]:
    """Return ``MMD² / 2`` of maps of one height and width, sample by sample."""
    result = []
    for own, other in zip(student.numpy(), teacher.numpy(), strict=True):
        s, t = _patterns(own), _patterns(other)
        result.append((_mean_kernel(t, t) + _mean_kernel(s, s) - 2 * _mean_kernel(t, s)) / 2)
    return result


def test_it_is_half_the_squared_discrepancy_sample_by_sample() -> None:
    student, teacher = _random(3, 2, 4, 5), _random(3, 6, 4, 5, seed=1)
    expected = _expected(student, teacher)
    assert _loss(student, teacher).tolist() == pytest.approx(expected, rel=1e-11)


def test_channels_that_see_one_place_each_are_as_by_hand() -> None:
    # The student's two channels see places 0 and 1, the teacher's only one sees place 0:
    # k is 1/2 within the student, 1 within the teacher, 1/2 between them.
    student = torch.tensor([[[[7.0, 0.0]], [[0.0, 2.0]]]]).double()
    teacher = torch.tensor([[[[3.0, 0.0]]]]).double()
    assert _loss(student, teacher).tolist() == pytest.approx([(0.5 + 1 - 2 * 0.5) / 2])


@pytest.mark.parametrize("larger", ["student", "teacher"])
def test_larger_maps_are_averaged_to_the_smaller_size(larger: str) -> None:
    maps, small = _random(2, 3, 6, 4), _random(2, 5, 3, 2, seed=1)
    averaged = torch.from_numpy(maps.numpy().reshape(2, 3, 3, 2, 2, 2).mean((3, 5)))
    pair = (maps, small) if larger == "student" else (small, maps)
    assert _loss(*pair).tolist() == pytest.approx(_expected(averaged, small), rel=1e-11)


def test_maps_of_which_each_is_larger_in_one_direction_meet_at_the_smaller_sides() -> None:
    student, teacher = _random(2, 3, 4, 2), _random(2, 5, 2, 6, seed=1)
    own = torch.from_numpy(student.numpy().reshape(2, 3, 2, 2, 2).mean(3))
    other = torch.from_numpy(teacher.numpy().reshape(2, 5, 2, 2, 3).mean(4))
    assert _loss(student, teacher).tolist() == pytest.approx(_expected(own, other), rel=1e-11)


def test_its_gradient_is_that_of_its_value() -> None:
    teacher = _random(2, 4, 2, 3, seed=1)
    student = _random(2, 3, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: _loss(x, teacher), student)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_zero_at_equality_with_its_gradient(dtype: torch.dtype) -> None:
    student = _random(2, 3, 4, 4).to(dtype).requires_grad_()
    loss = _loss(student, student.detach())
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert loss.tolist() == [0.0, 0.0]
    assert not gradient.any()


def test_order_number_scale_and_sign_of_channels_are_not_seen() -> None:
    student, teacher = _random(2, 3, 4, 4), _random(2, 5, 4, 4, seed=1)
    scales = torch.tensor([2.0, -0.5, 7.0], dtype=torch.float64)[:, None, None]
    many = torch.cat([(student * scales).flip(1), student], dim=1)
    assert torch.allclose(_loss(many, teacher), _loss(student, teacher), rtol=1e-12)
    assert _loss(many, student).tolist() == pytest.approx([0, 0], abs=1e-15)
    assert float(_loss(student.roll(1, dims=3), student).min()) > 1e-3


def test_moving_the_places_of_both_alike_changes_nothing() -> None:
    student, teacher = _random(2, 3, 4, 4), _random(2, 5, 4, 4, seed=1)
    moved = _loss(student.roll(1, dims=3), teacher.roll(1, dims=3))
    assert torch.allclose(moved, _loss(student, teacher), rtol=1e-12)


def test_it_is_symmetric_and_at_most_one() -> None:
    one, other = _random(2, 3, 4, 4), _random(2, 5, 4, 4, seed=1)
    assert torch.equal(_loss(one, other), _loss(other, one))
    assert float(_loss(one, other).max()) < 1
    # All channels of one model see one place, all of the other another: k is 1, 1 and 0.
    here, there = torch.zeros(2, 1, 2, 3, 3, dtype=torch.float64)
    here[..., 0, 0], there[..., 2, 2] = 1.0, 4.0
    assert _loss(here, there).tolist() == [1.0]


def test_it_is_never_negative_where_the_three_terms_are() -> None:
    # Almost equal distributions in float32: the difference of the kernels' means is rounding.
    differences, losses = [], []
    for seed in range(50):
        student = _random(1, 16, 4, 4, seed=seed).float()
        patterns = nn.functional.normalize(student.flatten(2), dim=2)
        moved = nn.functional.normalize(patterns + 1e-6 * _random(1, 16, 16).float(), dim=2)
        within, between = patterns @ patterns.transpose(1, 2), patterns @ moved.transpose(1, 2)
        own = moved @ moved.transpose(1, 2)
        terms = [k.square().mean().item() for k in (within, own, between)]
        differences.append(terms[0] + terms[1] - 2 * terms[2])
        losses.append(_loss(moved.view(1, 16, 4, 4), patterns.view(1, 16, 4, 4)).item())
    assert min(losses) >= 0
    assert min(differences) < 0


def test_a_channel_that_activates_nowhere_has_a_finite_loss_and_gradient() -> None:
    dead = torch.zeros(2, 1, 3, 3).double()
    student = torch.cat([dead, _random(2, 2, 3, 3)], dim=1).requires_grad_()
    loss = _loss(student, _random(2, 4, 3, 3, seed=1))
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert bool(loss.isfinite().all())
    assert not gradient[:, 0].any()
    assert bool(gradient.isfinite().all())
    # Divided by its own norm alone, its pattern would be no number.
    channels = student.detach().flatten(2)
    assert bool((channels / channels.norm(dim=2, keepdim=True)).isnan().any())


def test_in_a_run_it_compares_the_last_maps() -> None:
    torch.manual_seed(0)
    student, teacher = (
        SmallCNN((2, 3), image_size=8).double(),
        SmallCNN((4, 5), image_size=8).double(),
    )
    images = torch.randn(3, 3, 8, 8).double()
    with torch.no_grad():  # no channel is dead, whose pattern the formula does not have
        for model in (student, teacher):
            for parameter in model.features.parameters():
                parameter.abs_()
    with Distiller(teacher, student, ["nst"], sample_input=images) as distiller:
        loss = distiller(images).auxiliary["nst"].item()
    with torch.no_grad():
        expected = _expected(student.features(images), teacher.features(images))
    assert loss == pytest.approx(sum(expected) / 3, rel=1e-9)


def test_activations_that_are_no_maps_are_refused() -> None:
    with pytest.raises(TapError, match="needs feature maps"):
        _loss(_random(2, 3), _random(2, 3, 4, 4))
    with pytest.raises(TapError, match="needs feature maps"):
        _loss(_random(2, 3, 4, 4), _random(2, 5, 4))


def test_maps_that_are_not_of_the_size_they_were_set_up_for_are_refused() -> None:
    # One place against four would be broadcast in silence.
    with pytest.raises(StrategyError, match="must bring them to one shape"):
        NST().compute_auxiliary_loss(
            student=Features({"map": (_random(2, 3, 1, 1),)}, None),
            teacher=Features({"map": (_random(2, 3, 2, 2),)}, None),
        )


@pytest.mark.parametrize(
    ("setting", "value"), [("student_tap", 3), ("teacher_tap", ""), ("kernel", "gaussian")]
)
def test_settings_that_make_no_sense_are_refused(setting: str, value: object) -> None:
    with pytest.raises(ConfigError, match=setting):
        NST(**{setting: value})


def test_without_settings_it_is_the_papers() -> None:
    assert NST().settings.model_dump() == {
        "student_tap": "auto:feature_map",
        "teacher_tap": "auto:feature_map",
    }
    assert (NST.recommended.weight, NST.recommended.task_weight) == (50.0, 1.0)
