"""Streams depend on their purpose alone, and leave the global one alone."""

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdcore.randomness import derive_seed, isolated, seed_all, stream


def _draw(generator: torch.Generator) -> Tensor:
    return torch.rand(8, generator=generator)


def test_a_seed_is_the_same_on_every_machine_and_in_every_version() -> None:
    # The first 8 bytes of: printf '42/fitnets/adapters' | sha256sum
    assert derive_seed(42, "fitnets", "adapters") == 0xFD22216D410916A5 >> 1


def test_seeds_are_valid_for_torch_and_differ_by_seed_and_purpose() -> None:
    seeds = [
        derive_seed(seed, purpose, number)
        for seed in (0, 1, 2**63 - 1)
        for purpose in ("adapters", "loss", "order")
        for number in range(100)
    ]
    assert len(set(seeds)) == 900
    assert 0 <= min(seeds) <= max(seeds) < 2**63


def test_words_of_a_purpose_are_not_run_together() -> None:
    assert derive_seed(0, "ab", "c") != derive_seed(0, "a", "bc")
    assert derive_seed(1, 2) != derive_seed(12)


def test_a_stream_gives_the_same_numbers_whatever_was_drawn_before() -> None:
    first = _draw(stream(7, "loss"))
    torch.rand(3)
    assert torch.equal(first, _draw(stream(7, "loss")))
    assert not torch.equal(first, _draw(stream(7, "order")))
    assert not torch.equal(first, _draw(stream(8, "loss")))


def test_a_stream_draws_nothing_from_the_global_one() -> None:
    before = torch.get_rng_state()
    _draw(stream(7, "loss"))
    assert torch.equal(before, torch.get_rng_state())


def test_modules_built_in_isolation_are_the_same_whatever_was_drawn_before() -> None:
    def built(isolate: bool) -> Tensor:
        torch.rand(1)
        if not isolate:
            return nn.Linear(4, 4).weight
        with isolated(3, "adapters"):
            return nn.Linear(4, 4).weight

    assert torch.equal(built(True), built(True))
    assert not torch.equal(built(False), built(False))  # the control


@pytest.mark.parametrize("isolate", [True, False])
def test_what_is_drawn_in_isolation_is_not_missed_outside(isolate: bool) -> None:
    before = torch.get_rng_state()
    if isolate:
        with isolated(3, "adapters"):
            nn.Linear(4, 4)
    else:
        nn.Linear(4, 4)
    assert torch.equal(before, torch.get_rng_state()) == isolate


def test_the_global_stream_is_put_back_when_building_fails() -> None:
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), isolated(3, "adapters"):
        raise ZeroDivisionError(nn.Linear(4, 4))
    assert torch.equal(before, torch.get_rng_state())


def test_all_global_streams_are_seeded() -> None:
    drawn = []
    for _ in range(2):
        seed_all(2**63 - 1)
        drawn.append((torch.rand(1).item(), random.random(), np.random.rand()))
    assert drawn[0] == drawn[1]
    seed_all(3)
    assert (torch.rand(1).item(), random.random(), np.random.rand()) != drawn[0]
