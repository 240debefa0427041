import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from kdcore.configfile import as_comparison, as_run
from kdcore.errors import ConfigError, KdcoreError, RunError
from kdcore.experiment import ComparisonConfig
from kdcore.job import RunResult
from kdcore.report.rows import Sheet
from kdcore.report.scores import chosen as report_chosen
from kdcore.shipping import choice
from kdcore.shipping.choice import Attempt, attempt, choose
from kdcore.tasks import Classification, Metric

CANDIDATES = [{"label": label, "strategies": [{"name": "some"}]} for label in ("one", "two")]


def _comparison(count: int = 2, validation: float = 0.2, **more: Any) -> ComparisonConfig:
    tree = {
        "export": {},
        "data": {"validation": validation},
        "candidates": CANDIDATES[:count],
        **more,
    }
    return as_comparison(tree, "it")


def _result(
    name: str,
    seed: int,
    test: float,
    validation: Mapping[int, float] | None = None,
    metrics: tuple[Metric, ...] = Classification.metrics,
) -> RunResult:
    """Return a run with a score by epoch on the validation split."""
    scores = validation or {}
    key = metrics[0].name
    records = tuple({"epoch": epoch, "validation": {key: each}} for epoch, each in scores.items())
    better = max if metrics[0].higher_is_better else min
    best = better(scores, key=lambda epoch: scores[epoch]) if scores else None
    return RunResult(name, seed, {key: test}, 0.1, 1.0, records, best, None, "somewhere", metrics)


def test_the_best_in_the_mean_on_validation_is_shipped_and_of_it_the_best_seed() -> None:
    results = [
        _result("teacher", 1, 99.0),
        _result("student", 1, 99.0, {1: 50.0, 2: 60.0}),
        _result("one", 1, 10.0, {1: 95.0, 2: 40.0}),
        _result("two", 1, 20.0, {1: 80.0, 2: 70.0}),
        _result("student", 2, 99.0, {1: 61.0}),
        _result("one", 2, 90.0, {1: 20.0}),
        _result("two", 2, 20.0, {1: 81.0}),
    ]
    chosen, why = choose(_comparison(), results)
    assert (chosen.name, chosen.seed) == ("two", 2)
    assert why == "best on the validation split, accuracy 80.50 % in the mean"


def test_the_student_alone_is_shipped_where_no_method_is_better() -> None:
    results = [_result("student", 1, 0.0, {1: 90.0}), _result("one", 1, 99.0, {1: 89.0})]
    assert choose(_comparison(1), results)[0].name == "student"


def test_less_is_better_where_the_score_says_so() -> None:
    error = (Metric("error", higher_is_better=False),)
    results = [
        _result("one", 1, 0.0, {1: 0.3, 2: 0.9}, error),
        _result("two", 1, 9.0, {1: 0.2, 2: 0.8}, error),
    ]
    assert choose(_comparison(), results)[0].name == "two"


def test_the_one_candidate_is_shipped_without_validation() -> None:
    results = [_result("student", 4, 9.0), _result("one", 4, 1.0), _result("one", 5, 2.0)]
    chosen, why = choose(_comparison(1, 0.0), results)
    assert (chosen.name, chosen.seed, why) == ("one", 4, "the one candidate")


def test_a_run_ships_its_own() -> None:
    config = as_run({"export": {}}, "it")
    results = [_result("teacher", 1, 9.0), _result("teacher b", 1, 9.0), _result("student", 1, 1.0)]
    assert choose(config, results)[0].name == "student"


def test_several_candidates_without_validation_are_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="hold out some images"):
        _comparison(2, 0.0)
    assert as_comparison({"candidates": CANDIDATES}, "it").export is None  # nothing is asked for


def test_several_candidates_without_a_score_are_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="no score to choose one by"):
        _comparison(2, 0.2, task={"kind": "none"})
    with_score = {"kind": "none", "metric": "somewhere:metric"}
    assert _comparison(2, 0.2, task=with_score).chosen_by_validation


def test_int8_needs_onnx_and_formats_stand_once() -> None:
    for export, says in (
        ({"formats": ["torch"], "int8": True}, "add 'onnx' to formats"),
        ({"formats": ["onnx", "onnx"]}, "twice"),
        ({"formats": ["tflite"]}, "onnx"),
    ):
        with pytest.raises(ConfigError, match=says):
            as_run({"export": export}, "it")


def test_the_report_and_the_export_choose_the_same_also_where_a_score_is_no_number() -> None:
    whole = _result("two", 1, 20.0, {1: 80.0})
    for broken in (math.nan, 90.0):  # the second is the control: it is chosen
        first = _result("one", 1, 10.0, {1: broken})
        for results in ([first, whole], [whole, first]):
            chosen, _ = choose(_comparison(), results)
            told = report_chosen(Sheet.of([replace(e, best_scores=e.scores) for e in results]))
            assert chosen.name == ("one" if broken == 90.0 else "two")
            assert told is not None
            assert told.startswith(f"The validation split chooses {chosen.name} ")


def test_no_score_on_validation_fails() -> None:
    with pytest.raises(RunError, match="no student has a score"):
        choose(_comparison(), [_result("one", 1, 9.0), _result("two", 1, 9.0)])


def test_without_the_section_nothing_is_exported() -> None:
    assert attempt(as_run({}, "it"), [], print) == Attempt(())


def test_a_failure_is_told_after_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RunError("it is not the student")

    monkeypatch.setattr(choice, "export_run", fails)
    tried = attempt(as_run({"export": {}}, "it"), [_result("student", 1, 1.0)], lambda _: None)
    with pytest.raises(KdcoreError, match="it is not the student"):
        tried.tell(print)
