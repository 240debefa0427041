import json
from pathlib import Path

import pytest

from kdcore.cli.main import run_command
from kdcore.configfile import as_comparison, read_file
from tests.extras import needed

needed("optuna")

EXPERIMENT = """
seeds = [1, 2]
data = { name = "digits", limit = 60, validation = 0.3 }
teacher = { model = "lightnn", image_size = 8 }
student = { model = "lightnn", image_size = 8 }
train = { epochs = 1, batch_size = 32 }

[[candidates]]
strategies = [{ name = "logits" }]

[[candidates]]
strategies = [{ name = "fitnets", kernel_size = 3 }]
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a small comparison into the folder that commands run in, and return its name."""
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(EXPERIMENT, encoding="utf-8")
    return Path("small.toml")


def _said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    capsys.readouterr()
    assert run_command(["tune", *arguments]) == code
    out, err = capsys.readouterr()
    return str(err if code else out)


def test_settings_are_found_and_the_file_that_has_them_can_be_compared(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (str(file), "--trials", "2", "--out", "out", "--write", "tuned.toml")
    said = _said(capsys, *arguments)
    assert "logits, trial 2 of 2: accuracy" in said
    assert "the student alone: validation accuracy" in said
    assert "fitnets: validation accuracy" in said
    assert "what was found: kdcore compare tuned.toml" in said
    record = json.loads(Path("out/tune.json").read_text())
    assert [len(each["trials"]) for each in record["candidates"]] == [2, 2, 2]
    found = Path("tuned.toml").read_text()
    assert as_comparison(read_file(Path("tuned.toml")), "tuned").seeds == (1, 2)
    # The same command goes on, and here has nothing left to do.
    again = _said(capsys, *arguments)
    assert "trial" not in again.replace("all trials:", "")
    assert Path("tuned.toml").read_text() == found
    compared = ["compare", "tuned.toml", "--out", "compared", "--quiet"]
    assert run_command(compared) == 0
    assert "logits" in capsys.readouterr().out


def test_quiet_tells_what_was_found_alone_and_writes_it_into_the_folder(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = _said(capsys, str(file), "--trials", "2", "--out", "out", "--quiet").splitlines()
    candidates = json.loads(Path("out/tune.json").read_text())["candidates"]
    assert [each["label"] for each in candidates] == ["student", "logits", "fitnets"]
    expected = []
    for each, title in zip(candidates, ("the student alone", "logits", "fitnets"), strict=True):
        best = each["trials"][each["best"]]["values"]
        expected.append(title)
        for path in (one["path"] for one in each["searched"]):
            value, first = best[path], each["trials"][0]["values"][path]
            shown, before = (
                f"{one:.4g}" if isinstance(one, float) else one for one in (value, first)
            )
            was = "as at first" if value == first else f"{before} at first"
            expected.append(f"  {path} {shown}, {was}")
    assert any(line.startswith("  candidates.logits.task_weight ") for line in expected)
    said_of = [line if line.startswith("  ") else line.partition(":")[0] for line in lines]
    assert said_of == [*expected, "all trials", "what was found"]
    assert Path("out/tuned.toml").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--set", "data.validation=0.0"], "data.validation"),
        (["--set", "data.validation=none"], "data.validation"),
        (["--seeds", "2,3"], "2 is a seed that the file reports"),
        (["--seeds", "two"], "expected whole numbers"),
        (["--search", "train.lr"], "expected PATH=LOW:HIGH"),
        (["--search", "train.lr=1"], "expected PATH=LOW:HIGH"),
        (["--search", "train.lr=1:2:linear"], "expected PATH=LOW:HIGH"),
        (["--search", "train.lr=2:1"], "no range"),
        (["--search", "train.l=1:2"], "did you mean 'train.lr'"),
        (["--trials", "0"], "--trials"),
    ],
)
def test_what_cannot_be_searched_is_one_line(
    file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    said = _said(capsys, str(file), *arguments, code=2)
    assert says in said
    assert said.count("\n") == 1


def test_a_file_without_a_validation_split_says_what_to_add(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(EXPERIMENT.replace(", validation = 0.3", ""), encoding="utf-8")
    assert "hold some of the training samples out (data.validation = 0.2)" in _said(
        capsys, str(file), code=2
    )


def test_processes_that_train_together_do_not_search(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert "without torchrun" in _said(capsys, str(file), code=2)
