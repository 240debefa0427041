"""Candidates held against one of them, against scipy's own paired test."""

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from scipy.stats import ttest_rel

from kdcore.cli.main import run_command
from kdcore.errors import UserError
from kdcore.report import Entry, Sheet, print_whole, rivals, rivals_table
from tests.report.runs import comparison
from tests.tables import runs_of

LOGITS, MINE, WORSE = [91.0, 92.5, 93.0, 91.5], [92.0, 92.9, 94.1, 92.3], [90.0, 92.0, 91.0, 90.5]


def _sheet(**rows: Sequence[float]) -> Sheet:
    runs = [run for name, scores in rows.items() for run in runs_of(name, scores)]
    return Sheet.of(runs)


def test_differences_to_another_candidate_are_paired_by_seed_and_corrected() -> None:
    sheet = _sheet(student=[90.0] * 4, logits=LOGITS, mine=MINE, worse=WORSE)
    mine, worse = rivals(sheet, "logits")
    assert (mine.title, worse.title) == ("mine", "worse")
    raw = [float(ttest_rel(own, LOGITS).pvalue) for own in (MINE, WORSE)]
    assert mine.difference.p == pytest.approx(raw[0])
    # Holm: the smallest of two counts twice, and no other is corrected to less than it.
    twice = 2 * min(raw)
    expected = [twice if p == min(raw) else max(twice, p) for p in raw]
    assert [mine.p_holm, worse.p_holm] == pytest.approx(expected)
    assert mine.difference.mean == pytest.approx(sum(MINE) / 4 - sum(LOGITS) / 4)


def test_teachers_and_the_student_alone_are_not_among_them() -> None:
    sheet = _sheet(teacher=[96.0] * 4, student=[90.0] * 4, logits=LOGITS, mine=MINE)
    assert [each.title for each in rivals(sheet, "mine")] == ["logits"]
    for none in ("student", "student alone", "teacher", "min"):
        with pytest.raises(UserError, match=f"--against: unknown candidate '{none}'.*logits"):
            rivals(sheet, none)


def test_runs_of_another_student_alone_are_no_pair() -> None:
    one = _sheet(student=[90.0] * 4, logits=LOGITS, mine=MINE)
    other = _sheet(student=[80.0] * 4, other=WORSE)
    both = Sheet((*one.entries, *other.entries))
    assert [each.title for each in rivals(both, "logits")] == ["mine"]
    with pytest.raises(UserError, match="against other: no other candidate has a run of the same"):
        rivals(both, "other")
    apart = Sheet(tuple(Entry(each.result, each.title) for each in one.entries))
    with pytest.raises(UserError, match="against logits: no other candidate"):
        rivals(apart, "logits")


def test_without_a_score_there_is_nothing_to_compare() -> None:
    bare = [replace(each, metrics=(), scores={}) for each in runs_of("logits", LOGITS)]
    with pytest.raises(UserError, match="the task has no score"):
        rivals(Sheet.of(bare), "logits")


def test_a_pair_of_candidates_is_not_corrected_and_more_are() -> None:
    printed = io.StringIO()
    two = _sheet(student=[90.0] * 4, logits=LOGITS, mine=MINE)
    print_whole(Console(file=printed), rivals_table(rivals(two, "logits"), "logits", two))
    three = _sheet(student=[90.0] * 4, logits=LOGITS, mine=MINE, worse=WORSE)
    assert "Holm" not in printed.getvalue()
    assert "accuracy (%), to logits" in printed.getvalue()
    print_whole(Console(file=printed), rivals_table(rivals(three, "logits"), "logits", three))
    assert "corrected by Holm over 2 candidates" in " ".join(printed.getvalue().split())


def test_the_command_holds_candidates_against_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = comparison(tmp_path / "out", ["a", "b"], [1, 2, 3])
    file = tmp_path / "found.json"
    arguments = ["report", str(tmp_path / "out"), "--against", "a", "--json", str(file)]
    assert run_command(arguments) == 0
    assert "to a" in capsys.readouterr().out
    told = json.loads(file.read_text())["against"]
    own, base = (
        [each.scores["accuracy"] for each in results if each.name == name] for name in "ba"
    )
    (row,) = told["rows"]
    assert (told["row"], row["title"]) == ("a", "b")
    assert row["difference"]["mean"] == pytest.approx(sum(own) / 3 - sum(base) / 3)
    assert run_command(["report", str(tmp_path / "out"), "--against", "c"]) == 2
    assert "--against: unknown candidate 'c' (known: a, b)" in capsys.readouterr().err
    assert "against" not in json.loads((tmp_path / "out" / "report.json").read_text())
