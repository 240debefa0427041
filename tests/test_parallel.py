"""Two processes and three compute what one computes; and what would go wrong without the guards."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.together.gradients import ALL, CASES, SAMPLES, Told
from tests.together.launch import run_together, together

pytestmark = pytest.mark.slow  # each starts several processes

BOUND = 1e-12
"""Of the largest value, where that is above 1: attention's loss has a weight of 1000."""

NAMES = [f"{name}, accumulate {accumulate}" for name in CASES for accumulate in (1, 3)]
RELATIONAL = [name for name in NAMES if name.startswith("correlation")]
"""Whose loss relates the samples of a shard: another loss where there are several."""

OTHERS = [
    "few labels, accumulate 3",
    "positions, accumulate 3",
    "in pieces, accumulate 1",
    "in pieces, accumulate 3",
    "whole, accumulate 1",
    "a tap alone, accumulate 1",
    "a second stage, accumulate 1",
]

COMPARED = [(2, name) for name in NAMES + OTHERS if name not in RELATIONAL]
COMPARED += [(3, name) for name in NAMES + OTHERS if name in OTHERS or name.startswith(ALL)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Told:
    return run_together("gradients", tmp_path_factory.mktemp("alone"), 1)[0]


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[Told]]:
    folder = tmp_path_factory.mktemp("several")
    return {count: run_together("gradients", folder, count) for count in (2, 3)}


@pytest.fixture(scope="module")
def of_both(tmp_path_factory: pytest.TempPathFactory) -> list[Told]:
    return run_together("mistakes", tmp_path_factory.mktemp("mistakes"), 2)


@pytest.fixture(scope="module")
def mistakes(of_both: list[Told]) -> Told:
    return of_both[0]


def distance(one: Any, other: Any) -> float:
    """Return the largest difference, as a share of the largest value where that is above 1."""
    if isinstance(one, Tensor):
        if not one.numel():
            return 0.0
        return float((one - other).abs().max() / one.abs().max().clamp(min=1))
    if isinstance(one, Mapping):
        assert one.keys() == other.keys()
        return max((distance(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, Sequence):
        assert len(one) == len(other)
        return max((distance(*pair) for pair in zip(one, other, strict=True)), default=0.0)
    return float(abs(one - other) / max(1.0, abs(one)))


@pytest.mark.parametrize(("count", "name"), COMPARED)
def test_gradients_losses_memory_and_scores_are_those_of_one_process(
    alone: Told, several: dict[int, list[Told]], count: int, name: str
) -> None:
    assert len(alone[name]["gradients"]) == 2 * (2 if name.startswith("few") else 4)
    for told in several[count]:
        assert distance(alone[name], told[name]) <= BOUND


@pytest.mark.parametrize("name", RELATIONAL)
def test_a_loss_that_relates_samples_is_of_each_share_and_the_same_in_all_processes(
    alone: Told, several: dict[int, list[Told]], name: str
) -> None:
    first, second = several[2]
    assert distance(alone[name], first[name]) > 1e-9
    assert distance(first[name], second[name]) == 0


def test_means_of_means_would_be_wrong(alone: Told, mistakes: Told) -> None:  # the control
    right = alone["fitnets, accumulate 1"]["gradients"][-1]
    wrong = mistakes["means"]["gradients"][-1]
    assert distance(right, wrong) > 1e-4


def test_a_parameter_outside_the_unit_is_refused(mistakes: Told) -> None:
    assert "the optimizer holds 2 parameters that are no part" in mistakes["outside refused"]


def test_without_that_guard_each_process_would_train_its_own(  # the control
    of_both: list[Told],
) -> None:
    first, second = (told["outside"] for told in of_both)
    assert distance(first, second) > 1e-6


def test_memory_in_a_buffer_is_refused(mistakes: Told) -> None:
    assert "buffer trained.bank.seen was changed" in mistakes["bank refused"]
    assert "Adapters.state" in mistakes["bank refused"]


def test_without_that_guard_the_writes_of_others_would_be_lost(mistakes: Told) -> None:
    (seen,) = mistakes["bank"].values()
    assert 0 < int(seen.sum()) < SAMPLES  # two epochs saw every sample


def test_a_whole_memory_of_a_share_is_refused(mistakes: Told) -> None:
    assert "strategy 'queue'" in mistakes["whole state refused"]
    assert "kdcore.gathered" in mistakes["whole state refused"]


def test_a_parameter_that_no_loss_depends_on_is_refused(mistakes: Told) -> None:
    assert "such as spare.weight" in mistakes["spare refused"]


def test_what_is_frozen_once_training_has_begun_is_refused(mistakes: Told) -> None:
    assert "student.head.bias was frozen or unfrozen" in mistakes["frozen refused"]


def test_all_processes_have_the_average_that_one_has(tmp_path: Path) -> None:
    (alone,), (first, second) = (run_together("averages", tmp_path, count) for count in (1, 2))
    assert distance(alone["plain"], first["plain"]) <= BOUND
    assert distance(first["plain"], second["plain"]) == 0
    # Statistics are of each share, but all processes have the first one's.
    assert distance(first["statistics"]["average"], second["statistics"]["average"]) == 0
    assert distance(first["apart"]["average"], second["apart"]["average"]) > 1e-6  # the control


@pytest.mark.parametrize("how", ["killed", "stuck"])
def test_a_lost_process_ends_the_others_in_one_line(how: str) -> None:
    first, second = together(["-m", "tests.together.lost", how], 2)
    assert first.returncode == 3
    assert first.stderr.startswith("another process ended, or did not answer within 0.05 minutes")
    assert (second.returncode != 0) == (how == "killed")


@pytest.mark.parametrize("count", [2, 3])
def test_each_process_asks_the_teacher_for_its_share_and_all_keep_the_same(
    tmp_path: Path, count: int
) -> None:
    (one,) = run_together("keeping", tmp_path, 1)
    many = run_together("keeping", tmp_path, count)
    for mode in ("memory", "disk", "disk again"):
        assert one[mode]
        for told in many:
            assert told[mode].keys() == one[mode].keys()
            assert all(torch.equal(told[mode][name], one[mode][name]) for name in one[mode])
    # All ask equally often, which a teacher that is spread over them needs: of their share, of the
    # shapes, and of the few that are checked.
    (share,) = {told["memory: asked"] for told in many}
    assert share < one["memory: asked"] * 0.7
    assert [told["disk again: asked"] for told in many] == [one["disk again: asked"]] * count
    assert any("does not run" in note for note in many[1]["disk again: notes"]) is False
    assert any("does not run" in note for note in many[0]["disk again: notes"])


def test_memory_of_all_samples_may_be_written_as_a_whole(of_both: list[Told]) -> None:
    first, second = (told["whole state of all"]["mean"]["mean"] for told in of_both)
    assert first.abs().sum() > 0
    assert torch.equal(first, second)


def test_processes_with_other_data_are_refused(mistakes: Told) -> None:
    words = "process 1 has something else than process 0: targets"
    assert words in mistakes["other data refused"]
