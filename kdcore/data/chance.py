"""Random numbers without a state: each a function of seed, view, sample index and purpose.

What is drawn by them is elsewhere; streams that are drawn from in order are in `randomness`.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from kdcore.randomness import derive_seed

LEVELS = 2**16
"""A distribution with a table has so many values, all equally likely."""


def uniforms(seed: int, view: int, indices: Tensor, *draws: int | str) -> Tensor:
    """Draw several numbers a sample from the uniform distribution.

    Each draw of a view is a stream of SplitMix64 (Steele, Lea and Flood 2014) that begins at a
    state of its own; a sample's index is its place in the stream. Integers alone are computed, so
    the bits are equal on every device and do not depend on the other samples.

    Args:
        seed: of all that is random.
        view: which view of the samples.
        indices: ``int64 [batch]``, each sample's index, not negative.
        draws: what each number is for.

    Returns:
        ``float64 [draws, batch]`` in ``[0, 1)``, multiples of 2**-53, where the indices are.
    """
    states = [derive_seed(seed, "chance", view, draw) for draw in draws]
    keys = torch.tensor(states, dtype=torch.int64, device=indices.device).unsqueeze(1)
    return _shifted(splitmix64(keys, indices), 11).double().mul_(2.0**-53)


def uniform(seed: int, view: int, indices: Tensor, draw: int | str) -> Tensor:
    """Draw one number a sample, ``float64 [batch]`` in ``[0, 1)``; see `uniforms`."""
    return uniforms(seed, view, indices, draw)[0]


def below(count: int | Tensor, number: Tensor) -> Tensor:
    """Turn uniform numbers into whole ones, each below its count, ``int64``.

    Args:
        count: how many values there are, below 2**32; one for all, or one a number.
        number: from `uniforms`.
    """
    return number.mul(count).long()


def log_uniform(low: float, high: float, number: Tensor) -> Tensor:
    """Turn uniform numbers into ones whose logarithm is uniform, ``float64``.

    They are looked up in a table of `LEVELS` quantiles: an exponential of many numbers at once
    may depend, in its last bit, on how many there are.

    Args:
        low: lowest value, above 0.
        high: highest value.
        number: from `uniforms`.
    """
    return _look_up(_log_uniform_quantiles(low, high), number)


def beta(seed: int, view: int, indices: Tensor, draw: int | str, alpha: float) -> Tensor:
    """Draw one number a sample from the Beta(alpha, alpha) distribution.

    A sample's one uniform number is looked up in a table of `LEVELS` quantiles, which SciPy
    computes once an alpha; so the bits are equal as those of `uniforms` are.

    Args:
        seed: of all that is random.
        view: which view of the samples.
        indices: ``int64 [batch]``, each sample's index, not negative.
        draw: what the number is for.
        alpha: both parameters of the distribution, above 0.

    Returns:
        ``float64 [batch]`` in ``[0, 1]``.
    """
    return _look_up(_beta_quantiles(alpha), uniform(seed, view, indices, draw))


def splitmix64(state: Tensor, place: Tensor) -> Tensor:
    """Return outputs of SplitMix64, 64 bits each, as ``int64``.

    Args:
        state: the states that the streams begin at, ``int64``.
        place: which output of its stream, from 0, ``int64``; shapes are broadcast.
    """
    bits = state + (place + 1) * _signed(0x9E3779B97F4A7C15)
    bits = (bits ^ _shifted(bits, 30)) * _signed(0xBF58476D1CE4E5B9)
    bits = (bits ^ _shifted(bits, 27)) * _signed(0x94D049BB133111EB)
    return bits ^ _shifted(bits, 31)


def _signed(bits: int) -> int:
    return bits - 2**64 if bits >= 2**63 else bits


def _shifted(bits: Tensor, places: int) -> Tensor:
    # PyTorch's shift repeats the sign, the algorithm's does not.
    return (bits >> places) & ((1 << (64 - places)) - 1)


def _look_up(quantiles: Tensor, number: Tensor) -> Tensor:
    return quantiles.to(number.device)[below(len(quantiles), number)]


@lru_cache(maxsize=8)
def _log_uniform_quantiles(low: float, high: float) -> Tensor:
    width = math.log(high / low)
    shares = ((level + 0.5) / LEVELS for level in range(LEVELS))
    return torch.tensor([low * math.exp(width * share) for share in shares], dtype=torch.float64)


@lru_cache(maxsize=8)
def _beta_quantiles(alpha: float) -> Tensor:
    from scipy.special import betaincinv

    shares = torch.arange(LEVELS, dtype=torch.float64).add(0.5).div(LEVELS)
    return torch.from_numpy(betaincinv(alpha, alpha, shares.numpy()))
