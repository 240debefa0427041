import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from kdcore.history import History
from kdcore.job import BEGUN, Job, RunResult, best_on_validation
from kdcore.saving import Seconds
from kdcore.tasks import ACCURACY, Metric

LOSS = Metric("MAE", higher_is_better=False)


def _run(name: str, seed: int, validation: float | None, metric: Metric = ACCURACY) -> RunResult:
    """Return a run of two epochs, of which the second is said to be the best."""
    scored: list[Mapping[str, float]] = [{metric.name: 1.0}, {}]
    if validation is not None:
        scored[1] = {metric.name: validation}
    epochs = tuple({"validation": each} for each in scored)
    return RunResult(name, seed, {}, None, 0.0, epochs, 2, None, "f", (metric,))


def _chosen(*runs: RunResult) -> tuple[str, float, int] | None:
    best = best_on_validation((each.name, each) for each in runs)
    return None if best is None else (best.row, best.mean, best.run.seed)


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("teacher", "teacher"),
        ("teacher big", "teacher"),
        ("student", "alone"),
        ("teachers-like", "candidate"),
        ("logits", "candidate"),
    ],
)
def test_a_name_says_whose_run_it_is(name: str, role: str) -> None:
    assert _run(name, 1, None).role == role


def test_the_score_on_validation_is_that_of_the_best_epoch() -> None:
    assert _run("a", 1, 3.0).validation_score == 3.0
    assert _run("a", 1, None).validation_score is None
    without_split = RunResult("a", 1, {}, None, 0.0, ({},), None, None, "f", (ACCURACY,))
    assert without_split.validation_score is None
    without_record = RunResult("a", 1, {}, None, 0.0, ({},), 1, None, "f", (ACCURACY,))
    assert without_record.validation_score is None
    without_metric = RunResult("a", 1, {}, None, 0.0, ({},), 1, None, "f", ())
    assert without_metric.validation_score is None


def test_the_best_mean_is_chosen_and_of_its_runs_the_best() -> None:
    runs = [_run("a", 1, 90), _run("b", 1, 70), _run("a", 2, 20), _run("b", 2, 71)]
    assert _chosen(*runs) == ("b", 70.5, 2)
    less = [_run("a", 1, 9, LOSS), _run("b", 1, 3, LOSS), _run("b", 2, 2, LOSS)]
    assert _chosen(*less) == ("b", 2.5, 2)


def test_of_equal_rows_and_runs_the_first_is_chosen() -> None:
    assert _chosen(_run("a", 1, 5), _run("b", 1, 5), _run("a", 2, 5)) == ("a", 5, 1)


def test_teachers_and_runs_without_a_score_are_not_chosen() -> None:
    assert _chosen(_run("teacher", 1, 99), _run("a", 1, None), _run("b", 1, 5)) == ("b", 5, 1)
    assert _chosen(_run("teacher big", 1, 99), _run("a", 1, None)) is None


def test_a_row_is_not_chosen_by_those_of_its_runs_that_have_a_score() -> None:
    whole = [_run("b", 1, 85), _run("b", 2, 85)]
    assert _chosen(_run("a", 1, None), _run("a", 2, 90), *whole) == ("b", 85, 1)
    assert _chosen(_run("a", 1, 86), _run("a", 2, 90), *whole) == ("a", 88, 2)  # the control


@pytest.mark.parametrize("metric", [ACCURACY, LOSS], ids=["more", "less"])
def test_what_is_no_number_is_never_chosen(metric: Metric) -> None:
    broken, whole = _run("a", 1, math.nan, metric), _run("b", 1, 5, metric)
    assert _chosen(broken, whole) == _chosen(whole, broken) == ("b", 5, 1)
    # One seed that is no number leaves a mean that is none, however good the others are.
    other = _run("a", 2, 0 if metric is LOSS else 99, metric)
    assert _chosen(broken, other, whole) == ("b", 5, 1)
    assert _chosen(broken) is None
    assert _chosen(other, whole) == ("a", other.validation_score, 2)  # the control


def test_asking_for_a_job_makes_no_folder_and_locking_or_beginning_it_does(tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked, locked, begun = (Job("student", "a", seed, {}, out, "m", "s") for seed in (1, 2, 3))
    assert (asked.finished(), asked.why_not()) == (None, None)
    asked.forget()
    assert not out.exists()
    with locked.alone(lambda _: None):
        assert locked.folder.is_dir()
    begun.begin()
    assert (begun.folder / BEGUN).is_file()
    assert {each.name for each in out.iterdir()} == {
        locked.folder.name,
        begun.folder.name,
    }


def test_a_job_whose_key_begins_alike_does_not_take_what_lies_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"one": "12345678a", "two": "12345678b"}
    monkeypatch.setattr("kdcore.job.fingerprint_of_facts", lambda facts: keys[facts["is"]])
    one, two = (Job("student", "a", 1, {"is": each}, tmp_path, "m", "s") for each in keys)
    assert one.folder == two.folder
    one.begin()
    one.finish(History(), Seconds(), None, (), {})
    assert two.finished() is None
    assert two.why_not() is not None
    assert one.finished() is not None  # the control
