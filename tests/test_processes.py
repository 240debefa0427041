"""How the samples of a step are shared out; what processes tell each other is in `together`."""

import pytest
import torch

from kdcore.processes import Processes, gathered, here, joined, started_together


@pytest.mark.parametrize("accumulate", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("samples", [1, 2, 3, 5, 8, 17])
def test_every_sample_counts_once_and_all_have_equally_many_parts(
    samples: int, count: int, accumulate: int
) -> None:
    step = torch.arange(100, 100 + samples)
    shared = [Processes(rank, count).parts(step, accumulate) for rank in range(count)]
    counted = [part for parts, idle in shared for part in parts if not idle]
    assert sorted(torch.cat(counted).tolist()) == step.tolist()
    assert len({len(parts) for parts, _ in shared}) == 1
    assert all(len(part) for parts, _ in shared for part in parts)
    assert sum(idle for _, idle in shared) == max(0, count - samples)
    sizes = [len(part) for part in counted]
    assert max(sizes) - min(sizes) <= 1


def test_a_process_alone_has_the_micro_batches_that_it_always_had() -> None:
    step = torch.arange(10)
    parts, idle = Processes().parts(step, 3)
    assert [part.tolist() for part in parts] == [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]
    assert not idle


def test_the_largest_share_is_rounded_up() -> None:
    assert [Processes(0, 3).largest_share(samples) for samples in (1, 3, 4)] == [1, 1, 2]


def test_a_process_alone_is_told_what_it_knows() -> None:
    alone, tensor = here(), torch.arange(3)
    assert alone == Processes(0, 1)
    assert alone.first
    assert alone.summed(tensor) is tensor
    assert alone.rows(tensor) is tensor
    assert gathered(tensor) is tensor
    assert (alone.any(True), alone.any(False)) == (True, False)
    assert (alone.agreed("here"), alone.all(2)) == ("here", [2])


def test_only_what_a_launcher_started_joins_others() -> None:
    assert not started_together({})
    assert not started_together({"WORLD_SIZE": "1"})
    assert started_together({"WORLD_SIZE": "2"})
    with joined(1.0) as processes:
        assert processes == Processes()
