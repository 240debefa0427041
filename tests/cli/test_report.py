"""`kdcore report` on folders that nobody trained, and the page that a run and it write."""

import csv
import io
import json
from pathlib import Path

import pytest

from kdcore.cli.main import run_command
from tests.report.runs import comparison, run

NAMES = ("cat", "dog", "eel")


def test_a_folder_gets_its_report_and_the_tables_that_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    comparison(tmp_path / "out", names=NAMES)
    files = {kind: tmp_path / f"table.{kind}" for kind in ("csv", "latex", "json")}
    options = [each for kind, file in files.items() for each in (f"--{kind}", str(file))]
    assert run_command(["report", str(tmp_path / "out"), *options]) == 0
    said = capsys.readouterr().out
    assert f"report: {tmp_path / 'out' / 'report.html'}" in said.replace("\n", "")
    rows = list(csv.DictReader(io.StringIO(files["csv"].read_text(encoding="utf-8"))))
    assert [row["row"] for row in rows] == ["teacher", "student alone", "a", "b"]
    assert r"\begin{tabular}" in files["latex"].read_text(encoding="utf-8")
    assert len(json.loads(files["json"].read_text())["rows"]) == 8
    before = (tmp_path / "out" / "report.html").read_bytes()
    assert run_command(["report", str(tmp_path / "out"), "--out", str(tmp_path / "more")]) == 0
    assert (tmp_path / "more" / "report.html").read_bytes() == before


def test_several_folders_make_one_table_and_a_report_where_one_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    comparison(tmp_path / "x", ["a"], [1], NAMES)
    run(tmp_path / "y", "b", 1, NAMES, data="e" * 64)
    folders = [str(tmp_path / name) for name in "xy"]
    assert run_command(["report", *folders]) == 0
    said = capsys.readouterr().out
    assert "not all rows are of the same data" in said
    assert "--out DIR writes their report" in said
    assert run_command(["report", *folders, "--out", str(tmp_path / "both")]) == 0
    page = (tmp_path / "both" / "report.html").read_text(encoding="utf-8")
    assert "not all rows are of the same data" in page
    assert "b (y)" in page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gone"], "gone is no folder"),
        (["."], "is no folder of a comparison: it has no comparison.toml"),
        ([".", "--csv", "gone/x.csv"], "--csv gone/x.csv: cannot be written"),
        ([".", "--latex", "."], "--latex .: cannot be written"),
    ],
)
def test_what_cannot_be_reported_is_one_line(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(["report", *arguments]) == 2
    assert words in capsys.readouterr().err


RUN = """
seed = 3
device = "cpu"
[data]
name = "digits"
limit = 60
[teacher]
model = "lightnn"
[student]
model = "lightnn"
[train]
epochs = 1
batch_size = 32
[[strategies]]
name = "logits"
"""


@pytest.mark.slow
def test_a_run_writes_its_page_and_report_makes_the_same_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(RUN)
    assert run_command(["run", "mine.toml", "--out", "out"]) == 0
    (page,) = Path("out").glob("logits-seed3-*/report.html")
    assert f"report: {page}" in capsys.readouterr().out.replace("\n", "")
    before = page.read_bytes()
    assert b"kdcore run: logits" in before
    assert b"config.toml" in before
    page.unlink()
    assert run_command(["report", str(page.parent)]) == 0
    assert page.read_bytes() == before
