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
from kdcore.report import Rivals, Sheet, gather, print_whole
from tests.documented import runs_of
from tests.report.runs import run, said

LOGITS, MINE, WORSE = [91.0, 92.5, 93.0, 91.5], [92.0, 92.9, 94.1, 92.3], [90.0, 92.0, 91.0, 90.5]


def _sheet(**rows: Sequence[float]) -> Sheet:
    runs = [run for name, scores in rows.items() for run in runs_of(name, scores)]
    return Sheet.of(runs)


def test_differences_to_another_candidate_are_paired_by_seed_and_corrected() -> None:
    sheet = _sheet(student=[90.0] * 4, logits=LOGITS, mine=MINE, worse=WORSE)
    mine, worse = Rivals.of(sheet, "logits").rows
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
    assert [each.title for each in Rivals.of(sheet, "mine").rows] == ["logits"]
    for none in ("student", "student alone", "teacher", "min"):
        with pytest.raises(UserError, match=f"--against: unknown candidate '{none}'.*logits"):
            Rivals.of(sheet, none)


def test_seeds_that_two_candidates_have_are_pairs_whoever_else_has_them() -> None:
    runs = [*runs_of("logits", LOGITS), *runs_of("mine", MINE[:3]), *runs_of("student", [90.0])]
    (mine,) = Rivals.of(Sheet.of(runs), "logits").rows
    assert mine.difference.mean == pytest.approx((sum(MINE[:3]) - sum(LOGITS[:3])) / 3)
    assert mine.difference.count == 3


def test_runs_that_were_trained_otherwise_are_no_pairs() -> None:
    one = _sheet(student=[90.0] * 4, logits=LOGITS, mine=MINE)
    other = _sheet(student=[80.0] * 4, other=WORSE)
    entries = (*one.entries, *(replace(each, pairing="elsewhere") for each in other.entries))
    assert [each.title for each in Rivals.of(Sheet(entries), "logits").rows] == ["mine"]
    with pytest.raises(UserError, match="against other: no other candidate has a run of the same"):
        Rivals.of(Sheet(entries), "other")
    alike = (*one.entries, *other.entries)
    assert [each.title for each in Rivals.of(Sheet(alike), "logits").rows] == ["mine", "other"]


def test_of_several_folders_those_are_pairs_that_began_and_learned_alike(tmp_path: Path) -> None:
    for folder, name, lr in (("x", "a", 0.1), ("y", "b", 0.1), ("z", "c", 0.2)):
        for seed in (1, 2):
            run(tmp_path / folder, name, seed, ("cat", "dog"), lr=lr)
    sheet = gather([tmp_path / folder for folder in "xyz"]).sheet
    assert [each.title for each in Rivals.of(sheet, "a").rows] == ["b"]


def test_without_a_score_there_is_nothing_to_compare() -> None:
    bare = [replace(each, metrics=(), scores={}) for each in runs_of("logits", LOGITS)]
    with pytest.raises(UserError, match="the task has no score"):
        Rivals.of(Sheet.of(bare), "logits")


def _printed(title: str, **rows: Sequence[float]) -> str:
    printed = io.StringIO()
    print_whole(Console(file=printed), Rivals.of(_sheet(**rows), title).for_terminal())
    return " ".join(printed.getvalue().split())


def test_the_caption_tells_the_tests_that_were_made() -> None:
    two = _printed("logits", logits=LOGITS, mine=MINE)
    assert "accuracy (%), to logits" in two
    assert "with 95 % interval; p of the paired t test" in two
    assert "Holm" not in two
    three = _printed("logits", logits=LOGITS, mine=MINE, worse=WORSE)
    assert "p of paired t tests, corrected by Holm over 2 candidates" in three
    # One that is equal with every seed is not tested, and not counted.
    equal = _printed("logits", logits=LOGITS, mine=MINE, same=LOGITS)
    assert "p of the paired t test" in equal
    assert "equal, no interval" in equal
    once = _printed("logits", logits=LOGITS[:1], mine=MINE[:1])
    assert "difference paired by seed" in once
    assert "interval" not in once
    assert "test" not in once


def test_a_label_with_signs_is_shown_as_it_is() -> None:
    sheet = _sheet(student=[90.0] * 4, logits=LOGITS, mine=MINE)
    titled = [replace(each, title=f"{each.title} ([/red])") for each in sheet.entries]
    printed = io.StringIO()
    shown = Rivals.of(Sheet(tuple(titled)), "logits ([/red])").for_terminal()
    print_whole(Console(file=printed), shown)
    assert "to logits ([/red])" in printed.getvalue()


def test_the_command_holds_candidates_against_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = {}
    for name, first in (("student", 10), ("a", 20), ("b", 30)):
        for seed in (1, 2, 3):
            logits = said(first + seed, 2, sure=1.0)
            found = run(tmp_path / "out", name, seed, ("cat", "dog"), logits=logits)
            scores[name, seed] = found.scores["accuracy"]
    file = tmp_path / "found.json"
    arguments = ["report", str(tmp_path / "out"), "--against", "a", "--json", str(file)]
    assert run_command(arguments) == 0
    assert "to a" in capsys.readouterr().out
    told = json.loads(file.read_text())["against"]
    expected = sum(scores["b", seed] - scores["a", seed] for seed in (1, 2, 3)) / 3
    assert expected != 0
    (row,) = told["rows"]
    assert (told["title"], told["metric"]["name"], row["title"]) == ("a", "accuracy", "b")
    assert row["difference"]["mean"] == pytest.approx(expected)
    assert run_command(["report", str(tmp_path / "out"), "--against", "c"]) == 2
    assert "--against: unknown candidate 'c' (known: a, b)" in capsys.readouterr().err
    assert "against" not in json.loads((tmp_path / "out" / "report.json").read_text())
