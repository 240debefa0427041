"""Records for TensorBoard, read again by TensorBoard itself."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import kdcore
from kdcore.errors import UserError
from kdcore.history import EpochRecord
from kdcore.readings import StepRecord
from tests.extras import needed

needed("tensorboard")
DATA = torch.randn(16, 4, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 2


def _read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events: Any = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(each.step, each.value) for each in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_losses_scores_and_the_learning_rate_are_there_by_step(tmp_path: Path) -> None:
    torch.manual_seed(0)
    with kdcore.TensorBoard(tmp_path) as board:
        result = kdcore.distill(
            None, nn.Linear(4, 2), DATA, DATA, epochs=2, batch_size=8, observers=[board]
        )
    found = _read(tmp_path)
    assert [step for step, _ in found["loss/task"]] == [0, 1, 2, 3]
    accuracies = [each.accuracy for each in result.history.epochs]
    assert [value for _, value in found["test/accuracy"]] == pytest.approx(accuracies)
    assert [step for step, _ in found["test/accuracy"]] == [1, 3]
    assert found["lr"][0][1] == pytest.approx(1e-3)


def test_a_training_that_continues_takes_the_place_of_what_came_after(tmp_path: Path) -> None:
    def write(steps: range, value: float) -> None:
        with kdcore.TensorBoard(tmp_path) as board:
            for step in steps:
                board.on_step(StepRecord(0, step, 6, 1, {"total": value}))

    write(range(4), 1.0)
    write(range(2, 6), 2.0)
    expected = [(0, 1.0), (1, 1.0), (2, 2.0), (3, 2.0), (4, 2.0), (5, 2.0)]
    assert _read(tmp_path)["loss/total"] == expected


def _epoch(epoch: int, accuracy: float) -> EpochRecord:
    return EpochRecord(epoch, 1.0, {"task": 1.0}, {"accuracy": accuracy}, {}, 1e-3, 2, 1.0)


def _steps(board: kdcore.TensorBoard, steps: range) -> None:
    for step in steps:
        board.on_step(StepRecord(step // 2, step, 4, 1, {"total": 1.0}))


@pytest.mark.parametrize("last", [1, 2])
def test_an_epoch_whose_steps_were_taken_before_a_stop_is_placed_at_its_last(
    tmp_path: Path, last: int
) -> None:
    with kdcore.TensorBoard(tmp_path) as board:  # stopped after the last step of epoch `last`
        for epoch in range(1, last + 1):
            _steps(board, range(2 * epoch - 2, 2 * epoch))
            if epoch < last:
                board.on_epoch(_epoch(epoch, float(epoch)))
    with kdcore.TensorBoard(tmp_path) as board:
        board.on_epoch(_epoch(last, float(last)))
        for epoch in range(last + 1, 3):
            _steps(board, range(2 * epoch - 2, 2 * epoch))
            board.on_epoch(_epoch(epoch, float(epoch)))
    found = _read(tmp_path)
    assert [step for step, _ in found["loss/total"]] == [0, 1, 2, 3]
    assert found["test/accuracy"] == [(1, 1.0), (3, 2.0)]


def test_shares_in_the_gradient_are_there_where_they_were_measured(tmp_path: Path) -> None:
    with kdcore.TensorBoard(tmp_path) as board:
        board.on_step(StepRecord(0, 0, 2, 1, {"total": 1.0}, {"task": 0.25}))
        board.on_step(StepRecord(0, 1, 2, 1, {"total": 1.0}))
    assert _read(tmp_path)["gradient/task"] == [(0, 0.25)]


def test_without_tensorboard_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UserError, match=r'pip install "kdcore\[tensorboard\]"'):
        kdcore.TensorBoard(tmp_path)
