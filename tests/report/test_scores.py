from dataclasses import replace
from pathlib import Path

from kdcore.job import RunResult
from kdcore.report.rows import Sheet
from kdcore.report.scores import chosen, mean_curve, sections, verdicts
from kdcore.shipping.record import FOLDER, Shipment, ShippedFile
from kdcore.tasks import ACCURACY, Metric

LOSS = Metric("MAE", higher_is_better=False)


def _run(name: str, seed: int, score: float, validation: float, metric: Metric) -> RunResult:
    record = {
        "epoch": 1,
        "loss": 1.0,
        "scores": {metric.name: score},
        "validation": {metric.name: validation},
    }
    scores = {metric.name: score}
    return RunResult(name, seed, scores, 1.0, 1.0, (record,), 1, scores, "", (metric,))


def _sheet(own: tuple[float, float], metric: Metric = ACCURACY, validation: float = 5) -> Sheet:
    return Sheet.of(
        [
            _run("student", 1, 50, 4, metric),
            _run("a", 1, own[0], validation, metric),
            _run("student", 2, 60, 4, metric),
            _run("a", 2, own[1], validation, metric),
        ]
    )


def test_a_candidate_is_better_or_worse_only_where_its_interval_says_so() -> None:
    assert verdicts(_sheet((52, 62.1)))[0].endswith(": better than the student alone.")
    assert verdicts(_sheet((48, 57.9)))[0].endswith(": worse than the student alone.")
    assert verdicts(_sheet((52, 72)))[0].endswith(
        "cannot be told from the student alone with these seeds."
    )
    # Where less is better, it is the other way round.
    assert verdicts(_sheet((52, 62.1), LOSS))[0].endswith(": worse than the student alone.")


def test_one_pair_of_runs_gets_no_verdict() -> None:
    runs = _sheet((52, 62)).results[:2]
    (said,) = verdicts(Sheet.of(runs))
    assert said == "a: +2.00 points accuracy in one pair of runs, which says little about the next."


def test_equal_differences_get_no_verdict_and_their_figure_says_why() -> None:
    sheet = _sheet((52, 62))
    (said,) = verdicts(sheet)
    assert said == (
        "a: +2.00 points accuracy, the same with every seed, which leaves no spread to judge it by."
    )
    body = sections(sheet)[0].body
    assert "equal with every seed have no interval" in body
    assert "mean and 95 % interval" not in body
    assert "mean and 95 % interval" in sections(_sheet((52, 62.1)))[0].body  # the control


def test_curves_of_one_run_a_row_are_no_mean() -> None:
    runs = [_run("student", 1, 50, 4, ACCURACY), _run("a", 2, 52, 4, ACCURACY)]
    body = next(e.body for e in sections(Sheet.of(runs)) if e.name == "curves")
    assert "mean over seeds" not in body
    assert "one run a row, of seeds 1, 2" in body


def test_the_validation_split_chooses_and_not_the_test_samples() -> None:
    worse = chosen(_sheet((40, 50), validation=5))
    assert worse is not None
    assert worse.startswith("The validation split chooses a (5.00 there): 45.00")
    alone = chosen(_sheet((90, 95), validation=3))
    assert alone is not None
    assert alone.startswith("The validation split chooses student alone")
    lower = chosen(_sheet((1, 1), LOSS, validation=3))
    assert lower is not None
    assert lower.startswith("The validation split chooses a")


def test_curves_are_means_over_runs() -> None:
    sheet = _sheet((52, 62))
    assert mean_curve(sheet.of_row("a"), ACCURACY) == ((1.0, 57.0),)
    assert mean_curve(sheet.of_row("a"), None) == ((1.0, 1.0),)


def test_more_candidates_than_colours_have_a_figure_each() -> None:
    runs = [_run("student", 1, 50, 4, ACCURACY)]
    few = [*runs, *(_run(f"c{n}", 1, 50 + n, 4, ACCURACY) for n in range(6))]
    many = [*few, _run("c6", 1, 56, 4, ACCURACY)]
    bodies = []
    for each in (few, many):
        sections_of = {section.name: section.body for section in sections(Sheet.of(each))}
        bodies.append(sections_of["curves"].count("<svg"))
    assert bodies == [2, 7]


def test_exported_files_are_shown_with_their_own_scores_and_latency(tmp_path: Path) -> None:
    file = ShippedFile(
        "student<.onnx",
        "onnx",
        4096,
        "0" * 64,
        1e-7,
        3.0,
        1e-4,
        99.5,
        {"accuracy": 61.25},
        0.125,
        0.5,
        "onnxruntime 1",
        {},
    )
    shipment = Shipment(
        "a", 1, "best", 300, (ACCURACY,), {"accuracy": 62.0}, 0, "a machine", "0.1", (file,)
    )
    own = replace(_run("a", 1, 60, 4, ACCURACY), folder=str(tmp_path))
    assert "exported" not in {each.name for each in sections(Sheet.of([own]))}
    (tmp_path / FOLDER).mkdir()
    shipment.save(tmp_path / FOLDER)
    body = next(e.body for e in sections(Sheet.of([own])) if e.name == "exported")
    for text in ("student&lt;.onnx", "61.25", "62.00", "0.12", "1.0e-07", "4.0 KiB", "a machine"):
        assert text in body


def test_a_difference_that_correction_takes_away_is_no_verdict() -> None:
    one = {"student": [90.0, 91.0, 92.0], "a": [90.7, 92.1, 93.2]}
    several = {**one, "b": [90.5, 90.8, 92.1], "c": [90.2, 91.1, 91.7]}

    def said(columns: dict[str, list[float]]) -> str:
        runs = [
            _run(name, seed, each[seed], 5, ACCURACY)
            for seed in range(3)
            for name, each in columns.items()
        ]
        return verdicts(Sheet.of(runs))[0]

    assert said(one).endswith("better than the student alone.")
    assert "cannot be told" in said(several)
    assert "p 0.0" in said(several)
    assert "corrected for several candidates" in said(several)


def test_a_difference_that_is_always_the_same_has_no_verdict() -> None:
    both = (("student", 90), ("a", 91))
    runs = [_run(name, seed, at, 5, ACCURACY) for seed in range(3) for name, at in both]
    assert verdicts(Sheet.of(runs)) == [
        "a: +1.00 points accuracy, the same with every seed, which leaves no spread to judge it by."
    ]


def test_what_gains_cost_is_drawn_where_there_are_several_candidates() -> None:
    runs = [
        _run(name, seed, 50 + seed * gain, 4, ACCURACY)
        for seed in (1, 2)
        for name, gain in (("student", 0), ("a", 1), ("b", 2))
    ]
    costs = next(each for each in sections(Sheet.of(runs)) if each.name == "costs")
    assert "What each gain costs" in costs.body
    assert "1 a, 2 b; at 1 × and 0 the student alone" in costs.body
    few = [each for each in runs if each.name != "b"]
    costs = next(each for each in sections(Sheet.of(few)) if each.name == "costs")
    assert "What each gain costs" not in costs.body
