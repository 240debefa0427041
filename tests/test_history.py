"""What the steps of an epoch add up to, and a history that is saved and read again."""

import math

import pytest
import torch
from torch import nn

from kdcore.errors import ScoreError
from kdcore.history import EpochRecord, EpochTotals, History
from kdcore.readings import StepRecord
from kdcore.tasks import ACCURACY, Metric


def _record(epoch: int, validation: float | None) -> EpochRecord:
    chosen = {} if validation is None else {ACCURACY.name: validation}
    return EpochRecord(epoch, 1.0, {"task": 1.0}, {"accuracy": 50.0}, chosen, 0.1, 8, 0.5)


def test_losses_are_means_over_steps_and_samples_add_up() -> None:
    totals = EpochTotals()
    for step in range(3):
        totals.add(StepRecord(0, step, 3, 4, {"total": float(step), "task": 2.0}))
        totals.steps += 1
    totals.lr = 0.25
    record = totals.record(1, {"accuracy": 10.0}, {})
    assert (record.loss, record.losses, record.samples) == (1.0, {"task": 2.0}, 12)
    assert (record.epoch, record.accuracy, record.validation, record.lr) == (1, 10.0, {}, 0.25)


def test_the_best_weights_are_the_first_of_the_highest_validation() -> None:
    history, student = History(metric=ACCURACY), nn.Linear(1, 1)
    for epoch, score in enumerate((40.0, 60.0, 60.0, 50.0), start=1):
        nn.init.constant_(student.weight, float(epoch))
        history.add(_record(epoch, score), student)
    assert history.best_epoch == 2
    assert history.best_weights is not None
    assert float(history.best_weights["weight"]) == 2.0


def test_a_history_comes_back_from_its_state() -> None:
    history, student = History(metric=ACCURACY), nn.Linear(1, 1)
    history.add(_record(1, None), student)
    assert History.of(history.state_dict()) == history
    history.add(_record(2, 30.0), student)
    again = History.of(history.state_dict())
    assert again.epochs == history.epochs
    assert again.best_weights is not None
    assert torch.equal(again.best_weights["weight"], student.weight)


def test_a_later_stage_is_appended_and_the_best_of_all_stays_the_best() -> None:
    student = nn.Linear(1, 1)

    def stage(first: int, *scores: float | None) -> History:
        history = History(metric=ACCURACY)
        for epoch, score in enumerate(scores, start=first):
            nn.init.constant_(student.weight, float(epoch))
            history.add(_record(epoch, score), student)
        return history

    for scores, best in (((40.0, 50.0), 4), ((70.0, 50.0), 1), ((None, None), 4)):
        whole = stage(1, *scores)
        whole.extend(stage(3, 45.0, 60.0))
        assert [each.epoch for each in whole.epochs] == [1, 2, 3, 4]
        assert whole.best_epoch == best
        assert whole.best_weights is not None
        assert float(whole.best_weights["weight"]) == best


def test_of_a_score_that_should_be_low_the_lowest_is_the_best() -> None:
    student = nn.Linear(1, 1)
    history = History(metric=Metric("accuracy", higher_is_better=False))
    for epoch, score in enumerate((3.0, 1.0, math.nan, 2.0), start=1):
        history.add(_record(epoch, score), student)
    assert (history.best_epoch, history.best_validation) == (2, 1.0)


def test_an_accuracy_that_there_is_not_names_the_scores_that_there_are() -> None:
    record = EpochRecord(1, 1.0, {}, {"R²": 0.5, "MAE": 1.0}, {}, 0.1, 8, 0.5)
    with pytest.raises(ScoreError, match=r"unknown score 'accuracy'.*known: MAE, R²"):
        _ = record.accuracy
    assert not hasattr(record, "accuracy")  # as with any attribute that there is not


def test_a_score_that_is_no_number_is_never_the_best() -> None:
    history = History(metric=ACCURACY)
    for epoch, score in enumerate([math.nan, 0.3, math.nan, 0.2], start=1):
        record = EpochRecord(epoch, 1.0, {}, {}, {"accuracy": score}, 0.1, 1, 1.0)
        history.add(record, nn.Linear(1, 1))
    assert history.best_epoch == 2
