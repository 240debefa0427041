"""Commands that are stopped, and the same commands again."""

import errno
import json
import os
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdcore.cli.main import run_command
from kdcore.files import save_weights
from kdcore.models.tutorial import LightNN
from kdcore.saving import Saver
from tests.extras import needed

RUN = """
strategies = [{ name = "logits" }]
[data]
limit = 60
[teacher]
model = "lightnn"
image_size = 8
[student]
image_size = 8
[train]
epochs = 2
batch_size = 16
"""
COMPARE = (
    *("--recipe", "tutorial", "--epochs", "2", "--limit", "60", "--batch-size", "16"),
    *("--teacher-model", "lightnn", "--image-size", "8", "--device", "cpu", "--quiet"),
)

Stop = Callable[[int, signal.Signals], None]


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> Stop:
    """Return a function that has a signal come at some optimizer step, counted over trainings."""
    due = Saver.due

    def at(count: int, number: signal.Signals) -> None:
        seen = 0

        def counting(self: Saver, step: int) -> bool:
            nonlocal seen
            seen += 1
            if seen == count:
                os.kill(os.getpid(), number)
            return due(self, step)

        monkeypatch.setattr(Saver, "due", counting)

    return at


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "experiment.toml"
    path.write_text(RUN)
    return path


def _numbers(path: Path) -> list[Any]:
    return [
        (run["name"], run["seed"], run["scores"], [each["losses"] for each in run["epochs"]])
        for run in json.loads(path.read_text())["rows"]
    ]


def _command(*arguments: str | Path) -> int:
    return run_command([str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("count", "number", "code"),
    [(3, signal.SIGINT, 130), (8, signal.SIGTERM, 143), (11, signal.SIGUSR1, 143)],
)
def test_a_comparison_goes_on_where_it_was_stopped(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    stop: Stop,
    count: int,
    number: signal.Signals,
    code: int,
) -> None:
    whole, again = tmp_path / "whole.json", tmp_path / "again.json"
    assert _command("compare", *COMPARE, "--out", tmp_path / "whole", "--json", whole) == 0
    stop(count, number)
    arguments = ("compare", *COMPARE, "--out", tmp_path / "out", "--json", again)
    capsys.readouterr()
    assert _command(*arguments) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"stopped by {number.name}; saved after optimizer step ")
    assert line.endswith(f": kdcore {shlex.join(map(str, arguments))}")  # to copy
    assert not again.exists()
    assert _command(*arguments) == 0
    assert _numbers(again) == _numbers(whole)
    assert not list((tmp_path / "out").rglob("checkpoints"))  # a finished run needs none


def test_a_run_is_continued_by_its_folder_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stop: Stop, file: Path
) -> None:
    whole, again = tmp_path / "whole.json", tmp_path / "again.json"
    assert _command("run", file, "--out", tmp_path / "whole", "--json", whole) == 0
    stop(10, signal.SIGTERM)
    assert _command("run", file, "--out", tmp_path / "out") == 143
    (folder,) = (tmp_path / "out").glob("logits-seed42-*")
    capsys.readouterr()
    assert _command("run", "--resume", folder, "--resume-exact", "--json", again) == 0
    assert "continues after optimizer step 2, as saved in" in capsys.readouterr().out
    assert _numbers(again)[-1] == _numbers(whole)[-1]
    log = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log if '"step"' in line[:20]] == list(range(8))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("train.lr=0.5", "train.lr"),
        ("data.limit=40", "data"),
        ("seed=7", "seed was 42, is 7"),
        ("student.image_size=16", "data"),
    ],
)
def test_a_run_is_not_continued_with_something_else(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    stop: Stop,
    file: Path,
    change: str,
    said: str,
) -> None:
    stop(10, signal.SIGTERM)
    assert _command("run", file, "--out", tmp_path / "out") == 143
    (folder,) = (tmp_path / "out").glob("logits-seed42-*")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert _command("run", "--resume", folder, "--set", change, "--quiet") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {folder} is of a training that began with something else: ")
    assert said in line
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_other_threads_are_said_and_refused_where_that_is_asked(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    stop: Stop,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stop(10, signal.SIGTERM)
    assert _command("run", file, "--out", tmp_path / "out") == 143
    (folder,) = (tmp_path / "out").glob("logits-seed42-*")
    monkeypatch.setattr("kdcore.fingerprint.torch.get_num_threads", lambda: 77)
    capsys.readouterr()
    assert _command("run", "--resume", folder, "--resume-exact") == 2
    assert "is 77; without --resume-exact it is continued" in capsys.readouterr().err
    assert _command("run", "--resume", folder) == 0
    assert "the last bits may differ: threads was" in capsys.readouterr().out
    facts = json.loads((folder / "result.json").read_text())["facts"]
    assert facts["continued"]["threads"] == 77
    assert _command("run", "--resume", folder) == 0
    assert "finished before, kept" in capsys.readouterr().out
    monkeypatch.undo()  # what was continued elsewhere is no run of one piece
    assert _command("run", file, "--out", tmp_path / "out") == 0
    assert "was changed or continued elsewhere" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run",), "give a FILE, or --resume FOLDER"),
        (("run", "x.toml", "--resume-exact"), "--resume-exact needs --resume FOLDER"),
        (("run", "--resume", "nowhere"), "nowhere is no folder of a run"),
    ],
)
def test_what_cannot_be_continued_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    assert _command(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_loss_that_is_no_number_leaves_what_was_saved_and_the_samples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: Path
) -> None:
    changes = ("--set", "train.lr=1e30", "--set", "teacher.train={lr=0.001}")
    assert _command("run", file, "--out", tmp_path / "out", *changes) == 3
    assert "step was not taken" in capsys.readouterr().err
    (failure,) = (tmp_path / "out").rglob("failure.json")
    found = json.loads(failure.read_text())
    assert len(found["sample_indices"]) > 0
    assert "loss" in found["error"]
    assert not (failure.parent / "student.safetensors").exists()


STAGES = (
    RUN.replace('strategies = [{ name = "logits" }]', "")
    + """
[[stages]]
strategies = [{ name = "fitnets" }]
task_weight = 0.0
trainable = ["features"]
[[stages]]
strategies = [{ name = "logits" }, { name = "fitnets" }]
"""
)


@pytest.mark.parametrize("count", [10, 16, 17, 21])
def test_a_training_of_stages_goes_on_in_the_stage_where_it_was_stopped(
    tmp_path: Path, stop: Stop, file: Path, count: int
) -> None:
    file.write_text(STAGES)
    whole, again = tmp_path / "whole.json", tmp_path / "again.json"
    assert _command("run", file, "--out", tmp_path / "whole", "--json", whole) == 0
    stop(count, signal.SIGTERM)
    assert _command("run", file, "--out", tmp_path / "out") == 143
    assert _command("run", file, "--out", tmp_path / "out", "--json", again) == 0
    assert _numbers(again)[-1] == _numbers(whole)[-1]


def test_a_teachers_folder_is_not_the_one_to_continue(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stop: Stop, file: Path
) -> None:
    stop(3, signal.SIGTERM)
    assert _command("run", file, "--out", tmp_path / "out") == 143
    (folder,) = (tmp_path / "out").glob("teacher-*")
    capsys.readouterr()
    assert _command("run", file, "--resume", folder) == 2
    assert "is of a teacher: it goes on with the run of its student" in capsys.readouterr().err


def test_a_full_disk_is_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "student.safetensors")

    monkeypatch.setattr("kdcore.run.save_weights", full)
    assert _command("run", file, "--out", tmp_path / "out") == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: no space left for student.safetensors: make room, and the same")


def test_what_is_shown_of_a_run_that_was_stopped_neither_repeats_nor_misses_a_step(
    tmp_path: Path, file: Path, stop: Stop, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed("tensorboard")
    out = tmp_path / "out"
    arguments = ("run", file, "--tensorboard", "--set", "strategies=[]", "--out")
    assert _command(*arguments, tmp_path / "whole") == 0
    with monkeypatch.context():
        stop(3, signal.SIGINT)
        assert _command(*arguments, out) == 130
        monkeypatch.undo()
    assert _command(*arguments, out) == 0
    whole, continued = _shown(tmp_path / "whole"), _shown(out)
    assert continued == whole
    steps = [step for step, _ in continued["loss/task"]]
    assert steps == list(range(len(steps)))
    assert len(steps) >= 4


def _shown(out: Path) -> dict[str, list[tuple[int, float]]]:
    """Return what TensorBoard reads of the one run below a folder: step and value, by tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = out.glob("*/tensorboard/stage1")
    events: Any = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(each.step, each.value) for each in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_a_run_that_is_made_again_from_other_weights_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "first.safetensors"
    student = LightNN(image_size=8)
    save_weights(weights, student.state_dict())
    file = tmp_path / "one.toml"
    text = RUN.replace('[{ name = "logits" }]', "[]")
    file.write_text(text.replace("[student]", f'[student]\nweights = "{weights}"'))
    assert _command("run", file, "--out", tmp_path / "out") == 0
    (config,) = (tmp_path / "out").glob("*/config.toml")
    capsys.readouterr()
    assert _command("run", config, "--out", tmp_path / "again") == 0
    assert "not the run in" not in capsys.readouterr().out  # the control
    save_weights(weights, {name: -each for name, each in student.state_dict().items()})
    assert _command("run", config, "--out", tmp_path / "other") == 0
    assert f"not the run in {config.parent} again: start" in capsys.readouterr().out
