"""`kdcore run` by processes that `torchrun` starts: the numbers, a lost one, a signal."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.together.launch import ROOT

pytestmark = pytest.mark.slow

EXPERIMENT = """
seed = 42
task_weight = 0.75

[data]
name = "digits"
limit = 240
labels = 60

[teacher]
model = "lightnn"
train = { epochs = 1 }

[student]
model = "lightnn"

[train]
epochs = 6
batch_size = 50
accumulate = 2
lr = 3e-3

[checkpoint]
steps = 1

[[strategies]]
name = "logits"
weight = 0.25

[[strategies]]
name = "fitnets"
weight = 0.25
"""


def _start(file: Path, out: Path, restarts: int = 0) -> "subprocess.Popen[str]":
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launcher += ["--nproc-per-node", "2", "--max-restarts", str(restarts)]
    return subprocess.Popen(
        [*launcher, "-m", "kdcore", "run", str(file), "--out", str(out)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    try:
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    return process.returncode, out + err


def _student(out: Path) -> Path:
    (folder,) = out.glob("logits+fitnets-seed42-*")
    return folder


def _digest(out: Path) -> str:
    return hashlib.sha256((_student(out) / "student.safetensors").read_bytes()).hexdigest()


def _saved_once(out: Path) -> None:
    """Wait until the student's training has been saved."""
    for _ in range(2400):
        if any(out.glob("logits+fitnets-*/checkpoints/stage1/LATEST")):
            return
        time.sleep(0.05)
    raise AssertionError("nothing was saved in two minutes")


def _workers(launcher: int) -> list[int]:
    """Return the process ids that a launcher started, by rank."""
    ranks = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == launcher:
                environment = (folder / "environ").read_bytes().split(b"\0")
                ranks[next(each for each in environment if each.startswith(b"RANK="))] = folder.name
        except (OSError, StopIteration):
            continue
    return [int(ranks[rank]) for rank in sorted(ranks)]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("experiment") / "two.toml"
    path.write_text(EXPERIMENT, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def whole(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    code, said = _ended(_start(file, out))
    assert code == 0, said
    return out


def test_two_processes_write_what_one_does_each_file_once(whole: Path) -> None:
    folder = _student(whole)
    result = json.loads((folder / "result.json").read_text())
    assert result["facts"]["processes"] == 2
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [each["step"] for each in steps if each["kind"] == "step"] == list(range(6 * 5))
    assert len([each for each in steps if each["kind"] == "epoch"]) == 6
    # A quarter of each batch is labelled, and the others come by once an epoch.
    assert {each["samples"] for each in steps if each["kind"] == "epoch"} == {180 + 5 * 12}


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
def test_a_lost_process_is_started_again_and_the_numbers_are_those_of_one_piece(
    whole: Path, file: Path, tmp_path: Path
) -> None:
    running = _start(file, tmp_path, restarts=2)
    _saved_once(tmp_path)
    os.kill(_workers(running.pid)[1], signal.SIGKILL)
    code, said = _ended(running)
    assert code == 0, said
    assert "continues after optimizer step" in said
    assert _digest(tmp_path) == _digest(whole)


def test_a_signal_stops_all_once_they_are_saved_and_the_same_command_goes_on(
    whole: Path, file: Path, tmp_path: Path
) -> None:
    running = _start(file, tmp_path)
    _saved_once(tmp_path)
    running.send_signal(signal.SIGTERM)
    code, said = _ended(running)
    assert code != 0
    assert "stopped by SIGTERM; saved after optimizer step" in said
    code, said = _ended(_start(file, tmp_path))
    assert code == 0, said
    assert _digest(tmp_path) == _digest(whole)
