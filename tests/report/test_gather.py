import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from kdcore.errors import UserError
from kdcore.files import write_json
from kdcore.job import RunResult
from kdcore.report import write_report
from kdcore.report.gather import gather
from kdcore.report.rows import Sheet
from tests.report.runs import comparison, run

NAMES = ("cat", "dog", "eel")
OTHER = "e" * 64


def _places(results: list[RunResult]) -> list[tuple[str, int]]:
    return [(each.name, each.seed) for each in results]


def test_a_comparison_is_gathered_as_it_was_run(tmp_path: Path) -> None:
    results = comparison(tmp_path / "out", names=NAMES)
    found = gather([tmp_path / "out"])
    assert found.sheet == Sheet.of(results)
    assert (found.title, found.about, found.missing) == (
        "kdcore compare: out",
        ("of what, in out",),
        (),
    )


def test_a_comparison_that_was_moved_is_found_with_its_files(tmp_path: Path) -> None:
    comparison(tmp_path / "out", names=NAMES)
    (tmp_path / "out").rename(tmp_path / "moved")
    for each in gather([tmp_path / "moved"]).sheet.results:
        assert Path(each.folder).parent == tmp_path / "moved"
        assert each.outcome is not None
        assert Path(each.outcome).is_file()


def test_students_that_are_missing_and_seeds_that_differ_are_said(tmp_path: Path) -> None:
    comparison(tmp_path, names=NAMES, only=[0, 1, 2, 3])
    found = gather([tmp_path])
    assert [(each.number, each.name) for each in found.missing] == [(4, "a"), (5, "b")]
    assert found.sheet.warnings == (
        "not every row has every seed: teacher 1; student alone 1, 2; a 1; b 1",
    )


def test_one_run_has_the_teachers_of_its_report_or_comparison(tmp_path: Path) -> None:
    results = comparison(tmp_path / "out", ["a"], [1], NAMES)
    by_records = gather([Path(results[2].folder)])
    assert _places(by_records.sheet.results) == [("teacher", 1), ("a", 1)]
    teacher, own = run(tmp_path / "r", "teacher", 1, NAMES), run(tmp_path / "r", "a", 1, NAMES)
    write_report(Path(own.folder), "kdcore run: a", ["of mine"], [teacher, own])
    by_report = gather([Path(own.folder)])
    assert (by_report.title, by_report.about) == ("kdcore run: a", ("of mine",))
    assert by_report.sheet.results == [teacher, own]


def test_a_folder_of_runs_has_a_row_a_setting(tmp_path: Path) -> None:
    for seed in (1, 2):
        run(tmp_path, "student", seed, NAMES)
        run(tmp_path, "a", seed, NAMES)
    run(tmp_path, "a", 3, NAMES, lr=0.5)
    sheet = gather([tmp_path]).sheet
    titles = sheet.titles
    assert titles[0] == "student alone"
    assert [title.startswith(f"a ({tmp_path.name}) ") for title in titles[1:]] == [True, True]
    assert [len(sheet.of_row(title)) for title in titles[1:]] == [2, 1]
    assert sheet.of_row(titles[1])[0].alone == sheet.of_row("student alone")[0].result
    assert sheet.of_row(titles[2])[0].alone is None  # trained with another learning rate


def test_comparisons_of_other_seeds_make_rows_of_all(tmp_path: Path) -> None:
    comparison(tmp_path / "x", ["a"], [1, 2], NAMES)
    comparison(tmp_path / "y", ["a"], [3], NAMES)
    found = gather([tmp_path / "x", tmp_path / "y"])
    assert found.title == "kdcore report: x, y"
    assert found.about == ("x: of what, in x", "y: of what, in y")
    own = found.sheet.of_row("a")
    assert [(each.result.seed, each.place) for each in own] == [(1, "x"), (2, "x"), (3, "y")]
    assert all(each.alone is not None and each.alone.seed == each.result.seed for each in own)


@pytest.mark.parametrize(
    ("name", "models"),
    [
        ("student", '[student]\nmodel = "resnet8"'),
        ("a", '[student]\nmodel = "resnet8"'),
        ("a", '[teacher]\nmodel = "resnet20"'),
        ("a", "[teacher]\nseed = 7"),
        ("a", "[teachers.big]\ntrain = { epochs = 3 }"),
    ],
)
def test_other_models_make_rows_of_their_own(tmp_path: Path, name: str, models: str) -> None:
    run(tmp_path / "x", name, 1, NAMES)
    run(tmp_path / "y", name, 2, NAMES, models=models)
    assert len(gather([tmp_path / "x", tmp_path / "y"]).sheet.titles) == 2


@pytest.mark.parametrize(
    ("name", "models"),
    [
        ("student", '[teacher]\nmodel = "resnet20"'),
        ("a", '[teacher]\nweights = "of-this-seed.safetensors"'),
    ],
)
def test_a_teacher_that_is_not_asked_and_files_of_weights_make_no_row(
    tmp_path: Path, name: str, models: str
) -> None:
    run(tmp_path / "x", name, 1, NAMES, models="[teacher]\n")
    run(tmp_path / "y", name, 2, NAMES, models=models)
    assert len(gather([tmp_path / "x", tmp_path / "y"]).sheet.titles) == 1


def test_one_run_in_two_folders_counts_once(tmp_path: Path) -> None:
    comparison(tmp_path / "x", ["a"], [1], NAMES)
    shutil.copytree(tmp_path / "x", tmp_path / "y")
    sheet = gather([tmp_path / "x", tmp_path / "y"]).sheet
    assert len(sheet.of_row("a")) == len(sheet.of_row("student alone")) == 1


def test_other_data_are_plainly_said_and_never_paired(tmp_path: Path) -> None:
    comparison(tmp_path / "x", ["a"], [1], NAMES)
    run(tmp_path / "y", "b", 1, NAMES, data=OTHER)
    sheet = gather([tmp_path / "x", tmp_path / "y"]).sheet
    assert "not all rows are of the same data: x (dddddddd), y (eeeeeeee)" in sheet.warnings[0]
    assert sheet.titles == ["teacher (x)", "student alone (x)", "a (x)", "b (y)"]
    assert sheet.of_row("b (y)")[0].alone is None
    assert sheet.of_row("a (x)")[0].alone is not None
    run(tmp_path / "z", "b", 1, NAMES)  # the control: of the same data
    same = gather([tmp_path / "x", tmp_path / "z"]).sheet
    assert same.warnings == ()
    assert same.of_row("b")[0].alone is not None


def test_other_scores_make_no_table(tmp_path: Path) -> None:
    run(tmp_path / "x", "a", 1, NAMES)
    own = run(tmp_path / "y", "a", 1, NAMES)
    file = Path(own.folder) / "result.json"
    other = replace(own, metrics=(), scores={})
    write_json(file, {**vars(other), "metrics": [], "costs": None})
    with pytest.raises(UserError, match=r"x \(accuracy, macro-F1\) and y \(no scores\) have diff"):
        gather([tmp_path / "x", tmp_path / "y"])


def test_a_folder_with_nothing_in_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no comparison\.toml; nor of a run that is finished"):
        gather([tmp_path])
