"""The students of a comparison, each trained by a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.together.launch import ROOT

EXPERIMENT = """
seeds = [1, 2]
task_weight = 0.75

[data]
name = "digits"
limit = 200
labels = 60

[cache]
folder = "{folder}"

[teacher]
model = "lightnn"
train = {{ epochs = 1 }}

[student]
model = "lightnn"

[train]
epochs = 3
batch_size = 50

[checkpoint]
steps = 1

[[candidates]]
label = "logits"
strategies = [{{ name = "logits" }}]

[[candidates]]
label = "fitnets"
strategies = [{{ name = "fitnets" }}]
"""


def _start(*arguments: object, command: str = "compare") -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "kdcore", command, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _said(process: "subprocess.Popen[str]", code: int = 0) -> str:
    out = process.communicate(timeout=400)[0]
    assert process.returncode == code, out
    return out


def _rows(file: Path) -> list[tuple[Any, ...]]:
    """Return the rows of a report without what a clock or a path says."""
    found = []
    for row in json.loads(file.read_text(encoding="utf-8"))["rows"]:
        for record in row["epochs"]:
            del record["seconds"]
        # Where files are and how long a pass takes is each run's own; what is counted is not.
        apart = ("seconds", "teacher_seconds", "made", "folder", "kept", "outcome", "costs")
        rest = {key: row[key] for key in row if key not in apart}
        counted = row["costs"] or {}
        rest |= {key: counted.get(key) for key in ("parameters", "macs", "bytes")}
        found.append(tuple(sorted((key, repr(value)) for key, value in rest.items())))
    return sorted(found)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "experiment.toml"
    path.write_text(EXPERIMENT.format(folder=tmp_path / "cache"), encoding="utf-8")
    return path


def test_the_students_are_numbered_seed_by_seed(file: Path, tmp_path: Path) -> None:
    out = _said(_start(file, "--list", "--json", tmp_path / "list.json"))
    assert out.split("\n")[:4] == [
        "0  seed 1  student",
        "1  seed 1  logits",
        "2  seed 1  fitnets",
        "3  seed 2  student",
    ]
    listed = json.loads((tmp_path / "list.json").read_text())["students"]
    assert [each["number"] for each in listed] == list(range(6))
    assert not (tmp_path / "cache").exists()


def test_a_number_that_no_student_has_is_refused(file: Path) -> None:
    assert "--only 6: there are students 0 to 5 (--list)" in _said(_start(file, "--only", 6), 2)


def test_a_folder_without_students_has_no_report(tmp_path: Path) -> None:
    said = _said(_start(tmp_path, command="report"), 2)
    assert "is no folder of a comparison: it has no comparison.toml" in said


@pytest.mark.slow
def test_four_at_once_one_killed_and_started_again_give_the_table_of_one(
    file: Path, tmp_path: Path
) -> None:
    whole, apart = tmp_path / "whole", tmp_path / "apart"
    _said(_start(file, "--out", whole, "--json", tmp_path / "whole.json"))
    script = [ROOT / "docs" / "job-array.sh", file, apart]

    def element(number: int) -> "subprocess.Popen[str]":
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return subprocess.Popen(
            ["sh", *map(str, script)],
            cwd=ROOT,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "SLURM_ARRAY_TASK_ID": str(number),
                "PATH": path,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    first = {number: element(number) for number in (1, 2, 4, 5)}
    killed = first.pop(2)
    for _ in range(2400):
        if any(apart.glob("teacher-seed1-*/job.json")) or any(apart.glob("*-seed1-*/checkpoints")):
            break
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    for process in first.values():
        _said(process)
    said = _said(_start(apart, command="report"))
    assert "missing: student, seed 1 (--only 0)" in said
    assert "missing: fitnets, seed 1 (--only 2)" in said
    for number in (0, 2, 3):
        _said(element(number))
    said = _said(_start(apart, "--json", tmp_path / "apart.json", command="report"))
    assert "missing" not in said
    assert _rows(tmp_path / "apart.json") == _rows(tmp_path / "whole.json")
    assert len(list((tmp_path / "cache").glob("*.arrays"))) == 2  # one a seed
