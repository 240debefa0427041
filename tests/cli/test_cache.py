"""What teachers said is listed, computed ahead and cleared, and serves without their weights."""

import json
from pathlib import Path

import pytest

from kdcore.cli.main import run_command

RUN = """
seed = 1
device = "cpu"

[data]
name = "digits"
limit = 60

[teacher]
model = "lightnn"
image_size = 8
{weights}

[student]
model = "lightnn"
image_size = 8

[train]
epochs = 1
batch_size = 16

[[strategies]]
name = "logits"

[[strategies]]
name = "cosine"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path / "kept"))
    return tmp_path


def _said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert run_command(list(arguments)) == code
    out, err = capsys.readouterr()
    return " ".join((out + err).split())


def _write(folder: Path, weights: str = "") -> str:
    (folder / "run.toml").write_text(RUN.format(weights=weights))
    return "run.toml"


def _listed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    assert run_command(["cache", "list", "--json"]) == 0
    listed: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    return listed


def test_it_is_built_ahead_listed_used_and_cleared(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = _write(folder)
    assert "the teacher runs once; what it says is kept in" in _said(capsys, "cache", "build", file)
    (entry,) = _listed(capsys)
    facts = entry["facts"]
    assert isinstance(facts, dict)
    assert facts["model"] == "lightnn"
    assert facts["arrays"] == ["teacher: logits", "teacher: tap classifier:input -> flatten"]
    shown = _said(capsys, "cache", "list")
    assert "lightnn on digits, 1 views; used 0 days ago: teacher: logits, teacher: tap" in shown
    assert "1 in" in shown
    used = _said(capsys, "run", file, "--teacher-cache", "disk")
    assert "the teacher does not run: what it says was kept in" in used
    key = str(entry["key"])
    assert "removed" in _said(capsys, "cache", "clear", key[:10])
    assert _listed(capsys) == []


def test_a_run_needs_no_weights_of_a_teacher_whose_answers_are_kept(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = _write(folder)
    _said(capsys, "run", file, "--out", "first")
    (trained,) = folder.glob("first/teacher-*/teacher.safetensors")
    weights = folder / "teacher.safetensors"
    trained.rename(weights)
    given = _write(folder, f"weights = '{weights}'")
    _said(capsys, "cache", "build", given)
    with_weights = _said(capsys, "run", given, "--teacher-cache", "disk", "--json", "with.json")
    weights.rename(folder / "elsewhere.safetensors")
    without = _said(capsys, "run", given, "--out", "again", "--json", "without.json")
    assert "is missing; its kept answers serve" in without
    assert "does not run" in with_weights
    rows = [json.loads((folder / f"{n}.json").read_text())["rows"][-1] for n in ("with", "without")]
    assert rows[0]["epochs"][0]["losses"] == rows[1]["epochs"][0]["losses"]
    more = _said(capsys, "run", given, "--set", "strategies.cosine.teacher_tap=features", code=2)
    assert "weights are missing, and what is kept of it does not hold all" in more
    _said(capsys, "cache", "clear")
    gone = _said(capsys, "run", given, "--out", "third", code=2)
    assert "does not exist; give a file of weights" in gone


def test_a_key_that_is_not_there_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not (folder / "kept").exists()
    assert "nothing is kept by the key 'abc'" in _said(capsys, "cache", "clear", "abc", code=2)


def test_nothing_but_the_list_needs_the_folder(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _said(capsys, "cache", "list").startswith("0 in")
    assert not (folder / "kept").exists()


@pytest.mark.parametrize("mode", ["off", "memory"])
def test_nothing_is_built_where_nothing_would_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str
) -> None:
    file = tmp_path / "run.toml"
    file.write_text('strategies = [{ name = "logits" }]\n')
    assert run_command(["cache", "build", str(file), "--set", f"cache.mode={mode}"]) == 2
    assert f"cache.mode = '{mode}' writes nothing: leave it out" in capsys.readouterr().err
