"""Adapters against arithmetic done by hand or by Python's floats."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdcore.adapters import (
    AveragePool,
    FixedAdapter,
    Flatten,
    Resize,
    canonical_of,
    pool_to_narrower,
    regressor,
    require_maps,
)
from kdcore.errors import TapError


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _size(*sides: int) -> torch.Size:
    return torch.Size(sides)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _map(*rows: Sequence[float]) -> Tensor:
    return torch.tensor([[list(map(float, row)) for row in rows]]).unsqueeze(0)


class TestFlatten:
    def test_channels_come_first_then_rows_then_columns(self) -> None:
        x = torch.arange(12).reshape(1, 3, 2, 2)
        assert Flatten()(x).tolist() == [list(range(12))]

    def test_a_vector_stays_as_it_is(self) -> None:
        x = _random(3, 5)
        assert torch.equal(Flatten()(x), x)


class TestAveragePool:
    @pytest.mark.parametrize(
        ("shape", "width"),
        [((32, 8, 8), 1024), ((2048,), 1024), ((2048,), 512), ((6, 4), 8), ((12,), 1), ((12,), 12)],
    )
    def test_for_whole_ratios_it_is_the_average_of_runs(
        self, shape: tuple[int, ...], width: int
    ) -> None:
        x = _random(3, *shape)
        run = math.prod(shape) // width
        expected = F.avg_pool1d(x.flatten(1), run)
        assert torch.allclose(AveragePool(width)(x), expected, rtol=0, atol=1e-15)

    def test_the_tutorials_2048_values_become_means_of_neighbours_in_flattened_order(self) -> None:
        x = torch.arange(2048.0).reshape(1, 32, 8, 8)
        assert AveragePool(1024)(x).flatten().tolist() == [2 * i + 0.5 for i in range(1024)]

    @pytest.mark.parametrize(("values", "width"), [(10, 4), (7, 3), (5, 4), (3, 5)])
    def test_for_other_ratios_runs_overlap_as_in_adaptive_pooling(
        self, values: int, width: int
    ) -> None:
        x = _random(2, values)
        expected = [
            [
                _mean(row[i * values // width : math.ceil((i + 1) * values / width)])
                for i in range(width)
            ]
            for row in x.tolist()
        ]
        result = AveragePool(width)(x)
        assert torch.allclose(result, torch.tensor(expected, dtype=torch.float64), atol=1e-15)


class TestResize:
    def test_a_map_shrinks_to_the_average_of_what_falls_together(self) -> None:
        x = _map([1, 3, 0, 0], [5, 7, 0, 8])
        assert Resize(1, 2)(x).tolist() == [[[[4.0, 2.0]]]]

    def test_a_map_grows_bilinearly(self) -> None:
        # Centres of the new pixels lie at -1/4, 1/4, 3/4 and 5/4 of the old ones.
        x = _map([0, 4], [0, 4])
        assert Resize(2, 4)(x).tolist() == [[[[0.0, 1.0, 3.0, 4.0]] * 2]]

    def test_where_one_side_grows_both_are_interpolated(self) -> None:
        x = _map([0, 4, 0, 4], [8, 12, 8, 12])
        rows = [[2.0, 2.0], [4.0, 4.0], [8.0, 8.0], [10.0, 10.0]]
        assert Resize(4, 2)(x).tolist() == [[rows]]

    def test_tokens_shrink_along_the_sequence_and_not_along_the_width(self) -> None:
        x = torch.tensor([[[1.0, 10.0], [3.0, 30.0], [5.0, 50.0], [7.0, 70.0]]])
        assert Resize(2)(x).tolist() == [[[2.0, 20.0], [6.0, 60.0]]]

    def test_tokens_grow_linearly(self) -> None:
        x = torch.tensor([[[0.0, 8.0], [4.0, 0.0]]])
        assert Resize(4)(x).tolist() == [[[0.0, 8.0], [1.0, 6.0], [3.0, 2.0], [4.0, 0.0]]]

    @pytest.mark.parametrize(("shape", "size"), [((2, 3, 5, 4), (5, 4)), ((2, 5, 3), (5,))])
    def test_what_has_the_size_already_is_left_alone(
        self, shape: tuple[int, ...], size: tuple[int, ...]
    ) -> None:
        x = _random(*shape)
        assert torch.equal(Resize(*size)(x), x)

    @pytest.mark.parametrize("size", [(2, 3), (7, 9), (3, 9)])
    def test_a_constant_map_stays_constant(self, size: tuple[int, int]) -> None:
        resized = Resize(*size)(torch.full((1, 2, 5, 5), 3.0))
        assert torch.allclose(resized, torch.full((1, 2, *size), 3.0))


FIXED = [Flatten(), AveragePool(7), Resize(3, 3), Resize(6, 2)]


class TestFixedAdapters:
    @pytest.mark.parametrize("adapter", FIXED, ids=lambda adapter: adapter.canonical)
    def test_they_have_no_parameters_and_treat_each_sample_alone(
        self, adapter: FixedAdapter
    ) -> None:
        x = _random(4, 2, 4, 4)
        assert not adapter.state_dict()
        alone = torch.cat([adapter(x[i : i + 1]) for i in range(4)])
        assert torch.allclose(adapter(x), alone, rtol=0, atol=1e-15)

    def test_their_names_are_equal_exactly_where_they_do_the_same(self) -> None:
        def name(adapter: FixedAdapter) -> str:
            return adapter.canonical

        one = [Flatten(), AveragePool(2), AveragePool(12), Resize(1, 2), Resize(12), Resize(1)]
        other = [Flatten(), AveragePool(2), AveragePool(12), Resize(1, 2), Resize(12), Resize(1)]
        assert list(map(name, one)) == list(map(name, other))
        assert len(set(map(name, one))) == len(one)


class TestRegressor:
    @pytest.mark.parametrize(
        ("student", "teacher", "layer"),
        [
            ((2, 6), (2, 9), nn.Linear),
            ((2, 5, 6), (2, 5, 9), nn.Linear),
            ((2, 6, 4, 4), (2, 9, 4, 4), nn.Conv2d),
        ],
    )
    def test_of_equal_sides_it_is_one_layer_with_bias_to_the_teachers_shape(
        self, student: tuple[int, ...], teacher: tuple[int, ...], layer: type[nn.Module]
    ) -> None:
        module = regressor(_size(*student), _size(*teacher))
        assert type(module) is layer
        assert module(torch.zeros(student)).shape == teacher
        assert dict(module.named_parameters()).keys() == {"weight", "bias"}

    @pytest.mark.parametrize(
        ("student", "teacher"),
        [
            ((2, 5, 6), (2, 3, 9)),
            ((2, 3, 6), (2, 5, 9)),
            ((2, 6, 4, 4), (2, 9, 8, 8)),
            ((2, 6, 8, 8), (2, 9, 4, 4)),
            ((2, 6, 4, 4), (2, 9, 4, 2)),
        ],
    )
    def test_of_unequal_sides_the_layer_is_followed_by_a_resize(
        self, student: tuple[int, ...], teacher: tuple[int, ...]
    ) -> None:
        module = regressor(_size(*student), _size(*teacher))
        x = _random(*student).float()
        assert module(x).shape == teacher
        layer, resize = module.children()
        assert isinstance(resize, Resize)
        sides = teacher[1:2] if len(teacher) == 3 else teacher[2:]
        assert torch.equal(module(x), Resize(*sides)(layer(x)))

    @pytest.mark.parametrize(("kernel_size", "weights"), [(1, 6 * 9), (3, 6 * 9 * 9)])
    def test_the_kernels_side_leaves_height_and_width_alone(
        self, kernel_size: int, weights: int
    ) -> None:
        module = regressor(
            _size(2, 6, 5, 7),
            _size(2, 9, 5, 7),
            kernel_size,  # type: ignore[arg-type]  # parametrized over the literals
        )
        assert sum(p.numel() for p in module.parameters()) == weights + 9
        assert module(torch.zeros(2, 6, 5, 7)).shape == (2, 9, 5, 7)

    @pytest.mark.parametrize(
        ("student", "teacher"),
        [
            ((2, 6), (2, 9, 4, 4)),
            ((2, 6, 4, 4), (2, 9)),
            ((2, 5, 6), (2, 9, 4, 4)),
            ((2, 6, 4, 4, 4), (2, 9, 4, 4, 4)),
            ((2,), (2,)),
        ],
    )
    def test_other_and_mixed_ranks_are_refused_with_both_shapes(
        self, student: tuple[int, ...], teacher: tuple[int, ...]
    ) -> None:
        with pytest.raises(TapError, match="no regressor from the student's") as raised:
            regressor(_size(*student), _size(*teacher))
        assert str(list(student)) in str(raised.value)
        assert str(list(teacher)) in str(raised.value)


class TestRequireMaps:
    def test_maps_are_legal_and_everything_else_is_refused_with_its_shape(self) -> None:
        require_maps(_size(2, 3, 4, 4), _size(2, 9, 8, 8))
        for shape in ((2, 3, 4), (2, 3), (2, 3, 4, 4, 4)):
            with pytest.raises(TapError, match="needs feature maps") as raised:
                require_maps(_size(2, 3, 4, 4), _size(*shape))
            assert f"a tap gives {list(shape)};" in str(raised.value)


class TestPoolToNarrower:
    @pytest.mark.parametrize(
        ("student", "teacher", "names"),
        [
            ((2, 1024), (2, 2048), ["flatten", "flatten,average-pool:1024"]),
            ((2, 32, 8, 8), (2, 1024), ["flatten,average-pool:1024", "flatten"]),
            ((2, 16, 4, 4), (2, 256), ["flatten", "flatten"]),
        ],
    )
    def test_the_wider_is_pooled_to_the_width_of_the_narrower(
        self, student: tuple[int, ...], teacher: tuple[int, ...], names: list[str]
    ) -> None:
        own, other = pool_to_narrower(_size(*student), _size(*teacher))
        assert [own.canonical, other.canonical] == names
        width = min(math.prod(student[1:]), math.prod(teacher[1:]))
        assert own(torch.zeros(student)).shape == (2, width)
        assert other(torch.zeros(teacher)).shape == (2, width)


def test_only_kdcores_own_adapters_have_a_name_to_store_by() -> None:
    class Louder(AveragePool):
        pass

    class Claiming(FixedAdapter):
        canonical = "flatten"

    assert canonical_of(Flatten()) == "flatten"
    assert canonical_of(AveragePool(3)) == "flatten,average-pool:3"
    assert canonical_of(Resize(2, 4)) == "resize:2x4"
    assert [canonical_of(each) for each in (Louder(3), Claiming(), nn.Flatten())] == ["", "", ""]
