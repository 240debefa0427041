"""Commands on experiments that name their teachers."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kdcore.cli.main import run_command

COMPARISON = """
device = "cpu"
seeds = [1]

[data]
limit = 60

[teachers.big]
model = "deepnn"
image_size = 16
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]

[teachers.small]
model = "lightnn"
image_size = 8
train = { epochs = 2 }

[teachers.both]
ensemble = ["big", "small"]

[teachers.self]
average = 0.9

[student]
model = "lightnn"
image_size = 8

[train]
epochs = 1
batch_size = 16

[[candidates]]
label = "ensemble"
strategies = [{ name = "logits", teacher = "both" }]

[[candidates]]
label = "small"
strategies = [{ name = "logits", teacher = "small" }]

[[candidates]]
label = "staged"

[[candidates.stages]]
strategies = [{ name = "cosine", teacher = "self" }]

[[candidates.stages]]
strategies = [{ name = "logits", teacher = "big" }, { name = "cosine", teacher = "self" }]
"""

SELF = """
device = "cpu"
seed = 1
strategies = [{ name = "logits", teacher = "self" }]

[data]
limit = 60

[teachers.self]
average = 0.9

[student]
image_size = 8

[train]
epochs = 1
batch_size = 16
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path / "kept"))
    (tmp_path / "several.toml").write_text(COMPARISON)
    (tmp_path / "self.toml").write_text(SELF)
    return tmp_path


def _said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert run_command(list(arguments)) == code
    out, err = capsys.readouterr()
    assert code == 0 or len(err.splitlines()) == 1
    return " ".join((out + err).split())


def _rows(folder: Path, file: str) -> dict[str, Any]:
    rows = json.loads((folder / file).read_text())["rows"]
    return {row["name"]: row for row in rows}


def test_a_comparison_trains_each_teacher_and_measures_their_mean(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = _said(capsys, "compare", "several.toml", "--out", "out", "--json", "a.json")
    rows = _rows(folder, "a.json")
    assert list(rows) == [
        *("teacher big", "teacher small", "teacher both"),
        *("student", "ensemble", "small", "staged"),
    ]
    assert [len(rows[f"teacher {name}"]["epochs"]) for name in ("big", "small", "both")] == [
        1,
        2,
        0,
    ]
    assert [len(rows[name]["epochs"]) for name in ("ensemble", "staged")] == [1, 2]
    for line in (
        "images of 8 pixels for the student, 16 for teacher big, 8 for teacher small",
        "teacher big deepnn: ",
        "teacher both mean of big, small",
        "teacher self moving average of the student, decay 0.9",
        "learns from both",
        "learns from self",
        "teacher both, mean of big, small: accuracy",
    ):
        assert line in said, line
    # What each says is asked once, whoever learns from it and in what company.
    assert said.count("teacher big runs once") == said.count("teacher small runs once") == 1
    report = (folder / "out" / "report.md").read_text()
    assert "| teacher both |" in report
    assert "teacher big deepnn, teacher small lightnn, teacher both mean of big, small" in report
    names = sorted(path.name.partition("-seed")[0] for path in (folder / "out").glob("*-seed1-*"))
    assert names == ["ensemble", "small", "staged", "student", "teacher.big", "teacher.small"]
    weights = load_file(next((folder / "out").glob("staged-*/student.safetensors")))
    assert not any("self" in name for name in weights)
    again = _said(capsys, "compare", "several.toml", "--out", "out", "--json", "b.json")
    assert again.count("finished before, kept") == 6
    assert {n: r["scores"] for n, r in _rows(folder, "b.json").items()} == {
        n: r["scores"] for n, r in rows.items()
    }


def _same_weights(one: Path, two: Path) -> bool:
    """Return whether two files hold the same, but for what they say of their runs."""
    first, second = load_file(one), load_file(two)
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def test_a_run_of_a_comparison_names_the_teachers_that_it_learns_from_and_runs_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _said(capsys, "compare", "several.toml", "--out", "out", "--quiet")
    for name, teachers in (
        ("small", ["small"]),
        ("ensemble", ["big", "small", "both"]),
        ("staged", ["big", "self"]),
    ):
        (file,) = (folder / "out").glob(f"{name}-seed1-*/config.toml")
        text = file.read_text()
        assert list(tomllib.loads(text)["teachers"]) == teachers
        _said(capsys, "run", str(file), "--out", f"again-{name}", "--quiet")
        (weights,) = (folder / f"again-{name}").glob("*/student.safetensors")
        assert _same_weights(weights, file.parent / "student.safetensors")


@pytest.mark.parametrize("views", ["", "augment.views=2"])
def test_views_are_the_same_when_a_run_is_repeated_without_the_other_teachers(
    folder: Path, capsys: pytest.CaptureFixture[str], views: str
) -> None:
    more = [part for value in ("augment.crop=2", views) if value for part in ("--set", value)]
    _said(capsys, "compare", "several.toml", "--out", "out", "--quiet", *more)
    (file,) = (folder / "out").glob("small-seed1-*/config.toml")
    assert "image_size = 16" in file.read_text().partition("[augment]")[2].partition("[")[0]
    _said(capsys, "run", str(file), "--out", "again", "--quiet")
    (weights,) = (folder / "again").glob("*/student.safetensors")
    assert "finished before, kept" in _said(capsys, "run", "--resume", str(file.parent))
    assert _same_weights(weights, file.parent / "student.safetensors")


def test_kept_and_live_are_the_same_numbers(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learned = []
    for mode in ("off", "memory", "disk"):
        how = ("--teacher-cache", mode, "--json", f"{mode}.json", "--quiet")
        _said(capsys, "compare", "several.toml", "--out", mode, *how)
        rows = _rows(folder, f"{mode}.json")
        learned.append({n: [e["losses"] for e in row["epochs"]] for n, row in rows.items()})
    assert learned[0] == learned[1] == learned[2]


def test_a_student_that_teaches_itself_needs_no_teacher(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = _said(capsys, "run", "self.toml", "--out", "out", "--json", "run.json")
    assert list(_rows(folder, "run.json")) == ["logits"]
    assert "learns from self" in said
    text = (folder / "self.toml").read_text()
    text = text.replace("seed = 1\n", "").replace(
        "strategies = [", "candidates = [{ label = 'own', strategies = ["
    )
    (folder / "alone.toml").write_text(text.replace('self" }]', 'self" }] }]'))
    _said(capsys, "compare", "alone.toml", "--out", "more", "--json", "alone.json", "--quiet")
    assert list(_rows(folder, "alone.json")) == ["student", "own"]
    assert not list((folder / "more").glob("teacher*"))


def test_answers_are_listed_and_serve_by_teacher(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _said(capsys, "cache", "build", "several.toml", "--out", "out")
    listed = _said(capsys, "cache", "list")
    assert "deepnn, teacher big, on digits" in listed
    assert "lightnn, teacher small, on digits" in listed
    assert run_command(["cache", "list", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert sorted(entry["facts"]["name"] for entry in entries) == ["big", "small"]
    assert all("teacher: logits" in entry["facts"]["arrays"] for entry in entries)
    _said(capsys, "cache", "clear", entries[0]["key"][:12])
    assert _said(capsys, "cache", "list").count("on digits") == 1
    _said(capsys, "cache", "clear")
    # Files of weights, of which one goes missing.
    for name in ("big", "small"):
        (file,) = (folder / "out").glob(f"teacher.{name}-*/teacher.safetensors")
        (folder / f"{name}.safetensors").write_bytes(file.read_bytes())
    given = [f"teachers.{name}.weights={name}.safetensors" for name in ("big", "small")]
    sets = [part for value in given for part in ("--set", value)]
    _said(capsys, "cache", "build", "several.toml", "--out", "two", *sets)
    (folder / "big.safetensors").unlink()
    said = _said(
        capsys, *("compare", "several.toml", "--out", "two", *sets, "--teacher-cache", "disk")
    )
    assert "teacher big: " in said
    assert "big.safetensors is missing; its kept answers serve" in said
    assert "teacher both is not measured: big's weights are missing" in said
    assert "teacher small from " in said


@pytest.mark.parametrize(
    ("options", "key"),
    [
        (["--teacher", "t.safetensors"], "weights=t.safetensors"),
        (["--teacher-model", "lightnn"], "model=lightnn"),
        (["--image-size", "8"], "image_size=8"),
    ],
)
def test_an_option_for_the_one_teacher_is_refused_where_several_are_named(
    folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], key: str
) -> None:
    assert (folder / "several.toml").exists()
    said = _said(capsys, "compare", "several.toml", *options, code=2)
    assert "the experiment names its teachers (big, small, both, self)" in said
    assert f"say whose: --set teachers.big.{key}" in said


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("teacher.weights=x", "[teacher] is one teacher, [teachers.NAME] are several"),
        ("teachers.big.wieghts=x", "in teachers.big: unknown key 'wieghts'; did you mean 'weig"),
        ("teachers.more.model=lightnn", "no strategy learns from teacher 'more'"),
        ("teachers.both.ensemble=['big', 'smal']", "teacher both: unknown member 'smal'"),
        ("candidates.small.strategies.logits.teacher=bgi", "unknown teacher 'bgi'"),
        ("teachers.small.train.epochs=0", "teachers.small.train: epochs: input should be"),
        ("teachers.big.weights=nowhere", "does not exist"),
        ("candidates.ensemble.strategies.logits.name=fitnets", "teacher both is an ensemble"),
    ],
)
def test_what_is_wrong_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], value: str, message: str
) -> None:
    assert message in _said(
        capsys, "compare", "several.toml", "--out", "out", "--set", value, code=2
    )
    assert not list((folder / "out").glob("*/job.json"))


def test_weights_of_a_teacher_are_found_beside_the_file_and_a_budget_is_everybodys(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _said(capsys, "compare", "several.toml", "--out", "out", "--quiet")
    (file,) = (folder / "out").glob("teacher.big-*/teacher.safetensors")
    (folder / "files").mkdir()
    (folder / "files" / "big.safetensors").write_bytes(file.read_bytes())
    text = COMPARISON.replace('model = "deepnn"', 'model = "deepnn"\nweights = "big.safetensors"')
    (folder / "files" / "given.toml").write_text(text)
    monkeypatch.chdir(folder / "out")
    said = _said(
        capsys,
        *("compare", "../files/given.toml", "--out", "given", "--epochs", "1", "--json", "c.json"),
    )
    assert "teacher big from " in said
    assert len(_rows(folder / "out", "c.json")["teacher small"]["epochs"]) == 1
