import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from kdcore.costs import Costs
from kdcore.job import RunResult
from kdcore.report import (
    Sheet,
    csv_table,
    latex_table,
    markdown_table,
    print_table,
    terminal_table,
    write_report,
)
from kdcore.report.columns import cost_columns, lay_out, score_columns
from kdcore.report.rows import Entry
from kdcore.report.scores import cost_notes
from kdcore.report.table import latex_text
from kdcore.tasks import ACCURACY, Metric
from kdcore.values import Regression

EPOCHS = tuple({"epoch": e, "scores": {"accuracy": 80.0 + e}, "loss": 1.0 / e} for e in (1, 2))


def _run(name: str, seed: int, accuracy: float, best: float | None = None) -> RunResult:
    scores, chosen = {"accuracy": accuracy}, {"accuracy": best} if best else None
    first = 1 if best else None
    return RunResult(name, seed, scores, 0.5, 12.34, EPOCHS, first, chosen, "out", (ACCURACY,))


def test_the_table_has_a_row_a_name_and_the_difference_to_the_student_alone() -> None:
    text = markdown_table([_run("teacher", 1, 97), _run("student", 1, 90), _run("logits", 1, 96)])
    lines = text.splitlines()
    assert lines[2].startswith("| teacher | 97.00 | +7.00 |")
    assert lines[3].startswith("| student alone | 90.00 | – |")
    assert lines[4].startswith("| logits | 96.00 | +6.00 | 0.5000 | 12.3 |")


def test_one_seed_is_said_to_prove_little_and_several_have_intervals() -> None:
    assert "one seed proves little" in markdown_table([_run("student", 1, 90)])
    several = markdown_table(
        [
            *(_run("student", s, a) for s, a in ((1, 90), (2, 92))),
            *(_run("logits", s, a) for s, a in ((1, 90), (2, 92.5))),
        ]
    )
    assert "95 % interval" in several
    assert "91.00 ± 1.41" in several


def _equal() -> list[RunResult]:
    return [_run(n, s, a) for s, a in ((1, 90), (2, 92)) for n in ("student", "logits")]


def test_differences_that_are_all_equal_are_said_to_have_no_interval() -> None:
    text = markdown_table(_equal())
    assert "| logits | 91.00 ± 1.41 | +0.00 (equal, no interval) |" in text
    assert "95 % interval" not in text
    (line,) = [e for e in csv.DictReader(io.StringIO(csv_table(_equal()))) if e["row"] == "logits"]
    found = [line[f"accuracy (%) difference{each}"] for each in ("", " sd", " low", " high")]
    assert found == ["0.0", "0.0", "", ""]
    printed = io.StringIO()
    print_table(Console(file=printed), _equal())
    assert "+0.00 (equal, no interval)" in printed.getvalue()
    assert "+0.00 (equal, no interval)" in latex_table(_equal())


def test_a_difference_that_rounds_to_nothing_is_not_below_it() -> None:
    text = markdown_table(_three_seeds(a=[89.999, 91.002, 91.998]))
    assert format(-1e-3, "+.2f") == "-0.00"  # what a difference of a thousandth would be
    assert "| +0.00 (-0.01 to +0.00) |" in text


def test_rows_of_one_run_each_have_no_mean_over_seeds() -> None:
    runs = [_run("student", 1, 90), _run("logits", 2, 96)]
    assert "one run a row, of seeds 1, 2" in markdown_table(runs)
    assert "standard deviation" not in markdown_table(runs)
    more = markdown_table([*runs, _run("logits", 3, 97)])
    assert "standard deviation over seeds 1, 2, 3 (one run: student alone)" in more


def test_the_best_column_is_there_only_where_there_was_validation() -> None:
    assert "of the best weights" not in markdown_table([_run("student", 1, 90)])
    assert "of the best weights" in markdown_table([_run("student", 1, 90, 91)])


def test_names_cannot_break_the_table() -> None:
    assert "a\\|b" in markdown_table([_run("student", 1, 90), _run("a|b", 1, 90)])
    assert terminal_table([_run("student", 1, 90), _run("[red]x", 1, 90)]).row_count == 2


def test_a_report_is_a_page_its_numbers_and_a_picture(tmp_path: Path) -> None:
    write_report(tmp_path, "title", ["of digits"], [_run("student", 1, 90), _run("logits", 1, 96)])
    assert (tmp_path / "report.md").read_text().startswith("# title\n")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert [(row["name"], row["seed"], row["scores"]["accuracy"]) for row in rows] == [
        ("student", 1, 90),
        ("logits", 1, 96),
    ]
    assert all(isinstance(row["seconds"], float) for row in rows)


REGRESSION = {"R²": 0.5, "MAE": 0.25, "RMSE": 0.125}


def _other(name: str, scores: dict[str, float], metrics: tuple[Metric, ...]) -> RunResult:
    epochs = ({"epoch": 1, "scores": scores, "loss": 1.5},)
    return RunResult(name, 1, scores, 1.5, 2.0, epochs, 1, scores or None, "out", metrics)


def test_other_scores_have_columns_and_units_of_their_own() -> None:
    runs = [_other(name, REGRESSION, Regression.metrics) for name in ("student", "hint")]
    lines = markdown_table(runs).splitlines()
    assert lines[0] == (
        "|  | R² | to student alone | MAE | RMSE | training loss | seconds | of the best weights |"
    )
    assert lines[3] == "| hint | 0.5000 | +0.0000 | 0.2500 | 0.1250 | 1.5000 | 2.0 | 0.5000 |"


def test_the_headings_of_classification() -> None:
    assert markdown_table([_run("student", 1, 90, 91)]).splitlines()[0] == (
        "|  | accuracy (%) | to student alone | training loss | seconds | of the best weights (%) |"
    )


def test_runs_without_any_score_have_a_report(tmp_path: Path) -> None:
    write_report(tmp_path, "title", [], [_other("teacher", {}, ()), _other("hint", {}, ())])
    text = (tmp_path / "report.md").read_text()
    assert "|  | score | to student alone | training loss | seconds |" in text
    assert "| hint | – | – | 1.5000 | 2.0 |" in text
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_in_a_file_a_table_is_as_wide_as_it_is_and_no_cell_is_cut() -> None:
    values = {metric.name: 0.125 for metric in Regression().metrics}
    runs = [
        _other(name, values, Regression().metrics)
        for name in ("student", "a-candidate-with-a-rather-long-label-that-says-much")
    ]
    narrow = io.StringIO()
    Console(file=narrow, width=80).print(terminal_table(runs))
    assert "…" in narrow.getvalue()  # the control
    wide = io.StringIO()
    print_table(Console(file=wide, width=80), runs)
    (line,) = [each for each in wide.getvalue().splitlines() if "rather-long" in each]
    assert "a-candidate-with-a-rather-long-label-that-says-much" in line
    assert line.count("0.1250") >= 3
    assert "…" not in wide.getvalue()


def _two(name: str = "a_b & <c>") -> list[RunResult]:
    return [_run(n, s, a, a - 1) for s, a in ((1, 90.0), (2, 92.0)) for n in ("student", name)]


def test_the_csv_has_means_deviations_and_bounds_apart() -> None:
    lines = list(csv.DictReader(io.StringIO(csv_table([*_two(), _run("a_b & <c>", 3, 94, 93)]))))
    assert [line["row"] for line in lines] == ["student alone", "a_b & <c>"]
    own = lines[1]
    assert float(own["accuracy (%)"]) == 92.0
    assert float(own["accuracy (%) sd"]) == 2.0
    assert float(own["accuracy (%) difference"]) == 0.0
    assert (own["runs"], own["best weights accuracy (%)"]) == ("3", "91.0")
    assert own["parameters"] == ""  # nothing was measured


def test_a_row_that_a_spreadsheet_would_compute_is_text() -> None:
    assert "'=1+1" in csv_table([_run("=1+1", 1, 90)])


def test_latex_has_its_signs_kept_from_meaning_something() -> None:
    text = latex_table(_two())
    assert r"a\_b \& \textless{}c\textgreater{} & 91.00 $\pm$ 1.41" in text
    third = [_run("student", 3, 90), _run("a_b & <c>", 3, 95)]
    assert r"95 \% interval" in latex_table([*_two(), *third])
    (columns,) = re.findall(r"begin\{tabular\}\{(\w+)\}", text)
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 3
    assert all(len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1 for row in rows)


def test_latex_says_a_backslash() -> None:
    assert latex_text("\\input{x}") == r"\textbackslash{}input\{x\}"


def test_costs_are_beside_the_student_alone() -> None:
    costs = Costs(1_000, None, 0.5, 0.75, 2048)
    runs = [replace(each, costs=costs) for each in _two()]
    names, lines = lay_out(cost_columns(), Sheet.of(runs).rows)
    assert len(names) == len(lines[0])
    assert lines[1][1:6] == ("1,000", "–", "0.50", "0.75", "2.0 KiB")
    assert (lines[0][-1], lines[1][-1]) == ("1", "1.00")


def test_both_last_and_best_weights_are_in_the_whole_table() -> None:
    both = Sheet.of(_two())
    names, lines = lay_out(score_columns(both), both.rows)
    assert names[1:5] == (
        "accuracy (%)",
        "to student alone",
        "best weights: accuracy (%)",
        "best weights: to student alone",
    )
    assert lines[0][3] == "90.00 ± 1.41"
    without = score_columns(Sheet.of([_run("student", 1, 90)]))
    assert not any("best" in column.heading for column in without)


def test_html_in_a_name_is_no_html_in_markdown() -> None:
    assert "<c>" not in markdown_table(_two())
    assert "&lt;c>" in markdown_table(_two())


def _three_seeds(**candidates: list[float]) -> list[RunResult]:
    columns = {"student": [90.0, 91.0, 92.0], **candidates}
    return [_run(name, seed, each[seed]) for seed in range(3) for name, each in columns.items()]


def test_several_candidates_have_p_values_corrected_for_their_number() -> None:
    good, none = [91.0, 92.1, 92.9], [90.5, 90.5, 92.1]
    alone = {row.title: row for row in Sheet.of(_three_seeds(good=good)).rows}
    both = {row.title: row for row in Sheet.of(_three_seeds(good=good, none=none)).rows}
    difference = alone["good"].first(alone["good"].differences)
    assert difference is not None
    assert difference.p is not None
    assert alone["good"].p_holm == difference.p
    assert both["good"].p_holm == 2 * difference.p
    assert both["student alone"].p_holm is None
    text = markdown_table(_three_seeds(good=good, none=none))
    assert "| to student alone | p (Holm) | training loss |" in text
    assert f"| {2 * difference.p:.3f} |" in text
    assert "p of paired t tests, corrected by Holm over 2 candidates" in text


def test_one_candidate_or_one_seed_has_no_column_of_corrected_p_values() -> None:
    assert "p (Holm)" not in markdown_table(_three_seeds(good=[91.0, 92.1, 92.9]))
    one = [_run("student", 1, 90), _run("a", 1, 91), _run("b", 1, 92)]
    assert "p (Holm)" not in markdown_table(one)


def _family(folder: str, seeds: range, **candidates: list[float]) -> list[Entry]:
    """Return the entries of one folder, whose student alone is a row of its own."""
    columns = {"student": [90.0, 91.0, 92.0], **candidates}
    found = []
    for place, seed in enumerate(seeds):
        runs = {name: _run(name, seed, each[place]) for name, each in columns.items()}
        alone = runs["student"]
        found += [Entry(run, f"{name} ({folder})", alone, folder) for name, run in runs.items()]
    return found


def test_what_is_held_against_another_student_alone_is_a_family_of_its_own() -> None:
    good, none, worse = [91.0, 92.1, 92.9], [90.5, 90.5, 92.1], [89.0, 90.2, 91.1]
    first = _family("x", range(3), good=good, none=none)
    second = _family("y", range(3), good=good, none=none, worse=worse)
    apart = {row.title: row for row in Sheet((*first, *second)).rows}
    assert [apart[f"good ({each})"].family for each in "xy"] == [2, 3]
    for entries in (first, second):  # as each of them comes out alone
        for row in Sheet(tuple(entries)).rows:
            assert (apart[row.title].p_holm, apart[row.title].family) == (row.p_holm, row.family)
    p = apart["good (x)"].p_holm
    assert p is not None
    text = markdown_table(Sheet((*first, *second)))
    assert "by Holm over the candidates of each student alone by themselves, 2 and 3." in text
    # The control: held against one row, all are one family.
    alone = {id(each.alone) for each in first}
    one = [replace(e, title="alone") if id(e.result) in alone else e for e in first]
    shared = [
        replace(e, alone=next(o.result for o in one if o.result.seed == e.result.seed))
        for e in second
        if e.role == "candidate"
    ]
    together = {row.title: row for row in Sheet((*one, *shared)).rows}
    assert together["good (x)"].family == 5
    assert together["good (x)"].p_holm != p


def test_two_folders_of_one_candidate_each_have_nothing_corrected() -> None:
    good = [91.0, 92.1, 92.9]
    sheet = Sheet((*_family("x", range(3), good=good), *_family("y", range(3), good=good)))
    assert "Holm" not in markdown_table(sheet)
    rows = {row.title: row for row in sheet.rows}
    difference = rows["good (x)"].first(rows["good (x)"].differences)
    assert difference is not None
    assert rows["good (x)"].p_holm == difference.p


def test_the_table_says_what_asking_took_and_that_machines_differ() -> None:
    plain = [_run("student", 1, 90), _run("a", 1, 91), _run("b", 1, 92)]
    assert "asking" not in markdown_table(plain)
    assert "machines" not in markdown_table(plain)
    asked = [replace(each, teacher_seconds=640.0 * (each.name == "a")) for each in plain]
    text = markdown_table(asked)
    assert "took 640.0 seconds more, which are in no row's." in text
    assert "| a | 91.00 | +1.00 | 0.5000 | 12.3 |" in text
    lines = list(csv.DictReader(io.StringIO(csv_table(asked))))
    assert [line["teacher seconds of all runs"] for line in lines] == ["0.0", "640.0", "0.0"]
    assert [line["seconds"] for line in lines] == ["12.34"] * 3
    apart = [replace(each, machine=f"machine {each.name} [x]") for each in plain]
    assert "only those of one compare: machine student [x], and machine a [x], and" in (
        markdown_table(apart)
    )
    console = Console(record=True, width=500, file=io.StringIO())
    console.print(terminal_table(apart))
    assert "machine b [x]" in " ".join(console.export_text().split())
    _, costs = lay_out(cost_columns(), Sheet.of(apart).rows)
    assert [line[-1] for line in costs] == ["1", "–", "–"]


def test_a_factor_of_fewer_pairs_than_the_gain_says_of_how_many() -> None:
    runs = _three_seeds(a=[91.0, 92.1, 92.9])
    moved = [
        replace(each, machine="another" if each.name == "a" and each.seed == 2 else "one")
        for each in runs
    ]
    _, costs = lay_out(cost_columns(), Sheet.of(moved).rows)
    assert costs[1][-1] == "1.00 (2 of 3 pairs)"
    assert cost_notes(Sheet.of(moved))[1:] == [
        "seconds of fewer pairs than the gain: a (2 of 3 pairs)"
    ]
    (line,) = [each for each in csv.DictReader(io.StringIO(csv_table(moved))) if each["row"] == "a"]
    assert line["pairs of these seconds"] == "2"
    _, whole = lay_out(cost_columns(), Sheet.of(runs).rows)
    assert whole[1][-1] == "1.00"
    assert len(cost_notes(Sheet.of(runs))) == 1


def test_a_teacher_is_no_test_among_the_candidates() -> None:
    rows = Sheet.of(_three_seeds(teacher=[95.0, 96.1, 97.3], good=[91.0, 92.1, 92.9])).rows
    by_title = {row.title: row for row in rows}
    difference = by_title["good"].first(by_title["good"].differences)
    assert difference is not None
    assert by_title["teacher"].p_holm is None
    assert by_title["good"].p_holm == difference.p


def test_one_teacher_of_all_seeds_has_no_spread() -> None:
    rows = markdown_table(_three_seeds(teacher=[88.0, 88.0, 88.0], good=[91.0, 92.1, 92.9]))
    assert "| teacher | 88.00 |" in rows
    assert "| student alone | 91.00 ± 1.00 |" in rows
