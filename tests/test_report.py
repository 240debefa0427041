import json
from pathlib import Path

from kdcore.job import RunResult
from kdcore.report import markdown_table, terminal_table, write_report

EPOCHS = tuple({"epoch": e, "accuracy": 80.0 + e, "loss": 1.0 / e} for e in (1, 2))


def _run(name: str, seed: int, accuracy: float, best: float | None = None) -> RunResult:
    return RunResult(name, seed, accuracy, 0.5, 12.34, EPOCHS, 1 if best else None, best, "out")


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
    assert [(row["name"], row["seed"], row["accuracy"]) for row in rows] == [
        ("student", 1, 90),
        ("logits", 1, 96),
    ]
    assert all(isinstance(row["seconds"], float) for row in rows)
