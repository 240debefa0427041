"""Cosine distance against the formula, written out in plain Python."""

import math

import pytest
import torch
from torch import Tensor, nn

from kdcore import Distiller, Features, Shapes
from kdcore.errors import ConfigError
from kdcore.testing import SmallCNN, StrategyTests
from kdcore_cosine import Cosine


class TestConformance(StrategyTests):
    strategy = "cosine"


class TestConformanceOnMaps(StrategyTests):
    strategy = "cosine"
    settings = {"student_tap": "features.0", "teacher_tap": "features.2"}  # noqa: RUF012


def _vectors(width: int = 6, rows: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, rows, width, generator=generator).double()
    return student, teacher


def _loss(student: Tensor, teacher: Tensor) -> Tensor:
    return Cosine().compute_auxiliary_loss(
        student=Features({"hidden": (student,)}, None),
        teacher=Features({"hidden": (teacher,)}, None),
    )


def _distance(x: list[float], y: list[float]) -> float:
    """Return ``1 - x · y / (|x| |y|)``."""
    product = math.fsum(a * b for a, b in zip(x, y, strict=True))
    return 1 - product / (math.hypot(*x) * math.hypot(*y))


def _pooled(values: list[float], width: int) -> list[float]:
    """Average neighbours: value ``i`` covers the places from ``i w / n`` to ``(i + 1) w / n``."""
    given = len(values)
    ranges = [(i * given // width, -(-(i + 1) * given // width)) for i in range(width)]
    return [math.fsum(values[start:end]) / (end - start) for start, end in ranges]


def test_it_is_the_formula_row_by_row() -> None:
    student, teacher = _vectors()
    rows = zip(student.tolist(), teacher.tolist(), strict=True)
    assert _loss(student, teacher).tolist() == pytest.approx(
        [_distance(x, y) for x, y in rows], rel=1e-9
    )


def test_its_gradient_is_that_of_its_value() -> None:
    student, teacher = _vectors()
    assert torch.autograd.gradcheck(lambda x: _loss(x, teacher), student.requires_grad_())


def test_directions_alone_count() -> None:
    student, teacher = _vectors()
    assert torch.allclose(_loss(5 * student, 0.1 * teacher), _loss(student, teacher), rtol=1e-8)
    assert _loss(3 * teacher, teacher).tolist() == pytest.approx([0] * 4, abs=1e-9)
    assert _loss(-teacher, teacher).tolist() == pytest.approx([2] * 4, abs=1e-9)


def test_it_is_symmetric() -> None:
    student, teacher = _vectors()
    assert torch.allclose(_loss(student, teacher), _loss(teacher, student), rtol=1e-12)


def test_a_vector_of_zeros_has_no_direction_and_a_finite_gradient() -> None:
    student = torch.zeros(1, 3, requires_grad=True)
    loss = _loss(student, torch.ones(1, 3))
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert loss.tolist() == [1.0]
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize(
    ("own", "other"),
    [((5,), (10,)), ((10,), (5,)), ((7,), (17,)), ((17,), (7,)), ((6,), (6,)), ((2, 3, 4), (11,))],
)
def test_the_wider_is_averaged_to_the_narrower(
    own: tuple[int, ...], other: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(3, *own, generator=generator).double()
    teacher = torch.randn(3, *other, generator=generator).double()
    adapters = Cosine().adapt_shapes(
        student=Shapes({"hidden": (student.shape,)}, None),
        teacher=Shapes({"hidden": (teacher.shape,)}, None),
    )
    one, two = adapters.student["hidden"], adapters.teacher["hidden"]
    assert isinstance(one, nn.Module)
    assert isinstance(two, nn.Module)
    assert not [*one.parameters(), *two.parameters()]
    width = min(math.prod(own), math.prod(other))
    expected = [
        _distance(_pooled(x, width), _pooled(y, width))
        for x, y in zip(student.flatten(1).tolist(), teacher.flatten(1).tolist(), strict=True)
    ]
    assert _loss(one(student), two(teacher)).tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("widths", [((4, 6), (4, 9)), ((4, 9), (4, 6))])
def test_in_a_run_it_compares_what_goes_into_the_heads(
    widths: tuple[tuple[int, int], tuple[int, int]],
) -> None:
    torch.manual_seed(0)
    student, teacher = (SmallCNN(channels, image_size=8).double() for channels in widths)
    images = torch.randn(3, 3, 8, 8).double()
    with Distiller(teacher, student, ["cosine"], sample_input=images) as distiller:
        loss = distiller(images).auxiliary["cosine"].item()
    own, other = (model.features(images).flatten(1).tolist() for model in (student, teacher))
    width = min(len(own[0]), len(other[0]))
    distances = [
        _distance(_pooled(x, width), _pooled(y, width)) for x, y in zip(own, other, strict=True)
    ]
    assert loss == pytest.approx(math.fsum(distances) / 3, rel=1e-9)


def test_maps_are_pooled_along_channel_row_column() -> None:
    maps = torch.arange(8.0).reshape(1, 2, 2, 2)
    adapters = Cosine().adapt_shapes(
        student=Shapes({"hidden": (torch.Size([1, 4]),)}, None),
        teacher=Shapes({"hidden": (maps.shape,)}, None),
    )
    pool = adapters.teacher["hidden"]
    assert isinstance(pool, nn.Module)
    assert pool(maps).tolist() == [[0.5, 2.5, 4.5, 6.5]]


def test_a_tap_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="student_tap"):
        Cosine(student_tap="head:middle")
    with pytest.raises(ConfigError, match="did you mean 'teacher_tap'"):
        Cosine(teacher_taps="head:input")


def test_without_settings_it_is_the_tutorials() -> None:
    taps = {"student_tap": "auto:embedding", "teacher_tap": "auto:embedding"}
    assert Cosine().settings.model_dump() == taps
    assert Cosine(student_tap="auto", teacher_tap="auto").settings.model_dump() == taps
    assert (Cosine.recommended.weight, Cosine.recommended.task_weight) == (0.25, 0.75)
