from dataclasses import replace

import pytest

from kdcore.costs import Costs
from kdcore.job import RunResult
from kdcore.report.rows import Sheet
from kdcore.tasks import ACCURACY, MACRO_F1, Metric

BOTH = (ACCURACY, MACRO_F1)


def _run(name: str, seed: int, accuracy: float, f1: float, seconds: float = 10.0) -> RunResult:
    scores = {"accuracy": accuracy, "macro-F1": f1}
    epochs = tuple({"validation": {"accuracy": value}} for value in (40.0, 60.0 + seed))
    best = {"accuracy": accuracy - 1, "macro-F1": f1 - 2 * seed}
    return RunResult(name, seed, scores, 0.5, seconds, epochs, 2, best, "f", BOTH)


RUNS = [
    _run("student", 1, 80, 70),
    _run("a", 1, 83, 75, 20.0),
    _run("student", 2, 90, 80),
    _run("a", 2, 91, 86, 30.0),
]


def test_scores_differences_and_times_are_paired_by_seed() -> None:
    alone, own = Sheet.of(RUNS).rows
    assert (alone.title, alone.role, own.title, own.role) == (
        "student alone",
        "alone",
        "a",
        "candidate",
    )
    assert alone.first(alone.differences) is None
    assert alone.times is None
    first, f1 = own.first(own.differences), own.differences["macro-F1"]
    assert first is not None
    assert f1 is not None
    assert (first.mean, f1.mean) == (2.0, 5.5)
    # Two differences d1, d2: half of the interval is t(0.975, 1) |d1 - d2| / 2, t = tan(0.475 pi).
    assert first.interval == pytest.approx((2 - 12.706205, 2 + 12.706205), abs=1e-5)
    assert own.times is not None
    assert own.times.mean == 2.5


def test_seconds_of_two_machines_are_not_divided() -> None:
    elsewhere = [replace(each, machine="b" if each.seed == 2 else "a") for each in RUNS]
    times = Sheet.of(elsewhere).rows[1].times
    assert times is not None
    assert times.mean == 2.5  # both pairs are of one machine each
    mixed = [replace(each, machine="b" if each.seconds == 30 else "a") for each in RUNS]
    times = Sheet.of(mixed).rows[1].times
    assert times is not None
    assert times.mean == 2.0  # the second pair is left out
    apart = [replace(each, machine="a" if each.name == "student" else "") for each in RUNS]
    assert Sheet.of(apart).rows[1].times is None
    assert Sheet.of(apart).machines == ["a", "a machine that was not noted"]


def test_the_seconds_of_asking_are_added_up_and_beside_those_of_training() -> None:
    asked = [replace(each, teacher_seconds=500.0 if each.name == "a" else 0.0) for each in RUNS]
    alone, own = Sheet.of(asked).rows
    assert (alone.teacher_seconds, own.teacher_seconds) == (0.0, 1000.0)
    assert Sheet.of(asked).teacher_seconds == 1000.0
    assert own.times is not None
    assert (own.seconds.mean, own.times.mean) == (25.0, 2.5)


def test_the_best_weights_have_differences_of_their_own_and_a_score_on_validation() -> None:
    own = Sheet.of(RUNS).rows[1]
    best, difference = own.best["macro-F1"], own.best_differences["macro-F1"]
    assert best is not None
    assert difference is not None
    assert (best.mean, difference.mean) == (77.5, 5.5)
    assert own.validation is not None
    assert own.validation.mean == 61.5


def test_a_seed_without_the_student_alone_has_no_difference() -> None:
    own = Sheet.of([*RUNS, _run("a", 3, 10, 10)]).rows[1]
    first = own.first(own.differences)
    assert first is not None
    assert first.mean == 2.0  # the third is left out
    score = own.first(own.scores)
    assert score is not None
    assert score.mean == pytest.approx((83 + 91 + 10) / 3)


def test_runs_without_scores_costs_and_validation_have_rows() -> None:
    bare = RunResult("a", 1, {}, None, 0.0, (), None, None, "f", ())
    (row,) = Sheet.of([bare]).rows
    assert (row.first(row.scores), row.costs, row.validation, row.loss) == (None,) * 4
    costs = Costs(1, None, 1.0, 2.0, 3)
    assert Sheet.of([replace(bare, costs=costs)]).rows[0].costs == costs


def test_a_sheet_stays_itself_and_knows_its_metrics() -> None:
    sheet = Sheet.of(RUNS)
    assert Sheet.of(sheet) is sheet
    assert sheet.metrics == BOTH
    assert sheet.metric == Metric("accuracy", "%")
    assert sheet.seeds == [1, 2]
