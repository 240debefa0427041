import io
import json
from pathlib import Path

from rich.console import Console

from kdcore.job import RunResult
from kdcore.report import markdown_table, print_table, terminal_table, write_report
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
        [_run(n, s, a) for s, a in ((1, 90), (2, 92)) for n in ("student", "logits")]
    )
    assert "95 % interval" in several
    assert "91.00 ± 1.41" in several


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
