import hashlib
import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from kdcore.data.chance import below, beta, log_uniform, splitmix64, uniform, uniforms

MASK = 2**64 - 1
MANY = torch.arange(20_000)


def _splitmix64(state: int, place: int) -> int:
    """Go through the published algorithm with whole numbers of any size."""
    for _ in range(place + 1):
        state = (state + 0x9E3779B97F4A7C15) & MASK
    bits = state
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & MASK
    return bits ^ (bits >> 31)


def _kolmogorov_smirnov(values: Tensor, distribution: str, *arguments: float) -> float:
    return float(stats.kstest(values.numpy(), distribution, args=arguments).pvalue)


# The generator


def test_the_generator_gives_the_published_outputs_of_splitmix64() -> None:
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    given = splitmix64(torch.tensor(1234567), torch.arange(3))
    assert [output & MASK for output in given.tolist()] == published


def test_outputs_equal_those_of_whole_numbers_of_any_size() -> None:
    places = torch.tensor([0, 1, 2, 77, 1000])
    for state in (0, 5, 2**62 + 12345, 2**63 - 1):
        given = splitmix64(torch.tensor(state), places).tolist()
        assert [output & MASK for output in given] == [
            _splitmix64(state, place) for place in places.tolist()
        ]


def test_a_number_is_the_upper_bits_of_the_output_of_a_stream_named_by_seed_view_and_draw() -> None:
    digest = hashlib.sha256(b"7/chance/3/flip").digest()
    state = int.from_bytes(digest[:8], "big") >> 1
    expected = [(_splitmix64(state, place) >> 11) / 2**53 for place in (0, 4, 900)]
    assert uniform(7, 3, torch.tensor([0, 4, 900]), "flip").tolist() == expected


# What the numbers depend on


def test_a_samples_number_does_not_depend_on_the_batch() -> None:
    numbers = uniform(1, 2, MANY, "draw")
    some = torch.tensor([19_999, 3, 3, 77])
    assert torch.equal(uniform(1, 2, some, "draw"), numbers[some])
    assert torch.equal(beta(1, 2, some, "draw", 0.4), beta(1, 2, MANY, "draw", 0.4)[some])


def test_several_draws_at_once_are_those_drawn_one_by_one() -> None:
    first, second = uniforms(1, 2, MANY, "a", "b")
    assert torch.equal(first, uniform(1, 2, MANY, "a"))
    assert torch.equal(second, uniform(1, 2, MANY, "b"))


def test_seeds_views_draws_and_neighbours_are_not_correlated() -> None:
    numbers = uniform(1, 2, MANY, "draw")
    others = [
        uniform(2, 2, MANY, "draw"),
        uniform(1, 3, MANY, "draw"),
        uniform(1, 2, MANY, "other draw"),
        uniform(1, 2, MANY + 1, "draw"),
        uniform(1, 2, MANY + 2, "draw"),
        uniform(1, 2, MANY + 1024, "draw"),
    ]
    correlations = torch.corrcoef(torch.stack([numbers, *others]))
    # Five standard deviations of the correlation of independent numbers.
    assert (correlations - torch.eye(7)).abs().max() < 5 / math.sqrt(len(MANY))


# Distributions


@pytest.mark.parametrize("step", [1, 2, 1000, 65536])
def test_numbers_are_uniform_from_0_to_1_also_for_indices_in_steps(step: int) -> None:
    numbers = uniform(11, 0, MANY * step, "draw")
    assert numbers.dtype == torch.float64
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert _kolmogorov_smirnov(numbers, "uniform") > 0.001


def test_pairs_of_neighbours_fill_the_square_evenly() -> None:
    cells = below(10, uniform(5, 0, MANY, "draw"))
    counts = torch.bincount(cells[::2] * 10 + cells[1::2], minlength=100)
    assert stats.chisquare(counts.numpy()).pvalue > 0.001


@pytest.mark.parametrize("count", [1, 3, 7, 2**32 - 1])
def test_whole_numbers_stay_below_their_count_even_at_the_largest_uniform_number(
    count: int,
) -> None:
    extremes = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
    assert below(count, extremes).tolist() == [0, count - 1]
    assert below(torch.tensor([count, count]), extremes).tolist() == [0, count - 1]


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.5])
def test_beta_numbers_follow_the_beta_distribution(alpha: float) -> None:
    numbers = beta(3, 1, MANY, "share", alpha)
    assert _kolmogorov_smirnov(numbers, "beta", alpha, alpha) > 0.001
    # Of another alpha the same test finds them out.
    assert _kolmogorov_smirnov(numbers, "beta", alpha * 1.2, alpha * 1.2) < 0.001


def test_beta_numbers_are_finite_where_the_distribution_is_all_at_its_ends() -> None:
    numbers = beta(3, 1, MANY, "share", 0.001)
    assert numbers.min() >= 0
    assert numbers.max() <= 1
    assert 0.49 < float((numbers < 0.5).double().mean()) < 0.51


def test_logarithms_of_log_uniform_numbers_are_uniform() -> None:
    numbers = log_uniform(3 / 4, 4 / 3, uniform(3, 1, MANY, "aspect"))
    assert numbers.min() >= 3 / 4
    assert numbers.max() <= 4 / 3
    spread = 2 * math.log(4 / 3)
    assert _kolmogorov_smirnov(numbers.log() / spread + 0.5, "uniform") > 0.001
