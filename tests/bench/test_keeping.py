"""What is kept of a teacher that answers at once, and what a process holds."""

import json
from pathlib import Path

import pytest
import torch

from kdcore.bench import keeping
from kdcore.bench.keeping import Keeping, Ready, held, report

SAMPLE = 4 * (10 + 1024 + 2048)
"""Bytes of a sample: logits, hidden representation and feature map, in 32 bits."""


@pytest.mark.parametrize("mode", ["memory", "disk"])
def test_all_samples_are_written_and_read(mode: str, tmp_path: Path) -> None:
    kept = Keeping(5, mode, tmp_path)
    kept.build()
    assert kept.gather() == 5 * SAMPLE
    files = list(tmp_path.rglob("*.bin"))
    assert sum(file.stat().st_size for file in files) == (5 * SAMPLE if mode == "disk" else 0)
    kept.forget()
    assert not list(tmp_path.rglob("*.bin"))


def test_the_teacher_says_what_it_has() -> None:
    teacher = Ready()
    assert torch.equal(teacher(torch.arange(3)), teacher.head.answer[:3])


@pytest.mark.skipif(not keeping.STATUS.exists(), reason="Linux says what a process holds")
def test_memory_of_ones_own_is_told_from_memory_of_files() -> None:
    before = held()
    array = torch.ones(50 * 2**20, dtype=torch.uint8)
    grown = {kind: now - before[kind] for kind, now in held().items()}
    assert len(array) * 0.9 < grown["anonymous"] < len(array) * 1.2
    assert grown["file"] < len(array) * 0.2


@pytest.mark.skipif(not keeping.STATUS.exists(), reason="Linux says what a process holds")
def test_what_is_kept_on_disk_is_held_as_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report("600", "disk", str(tmp_path))
    seen = json.loads(capsys.readouterr().out)
    assert seen["bytes"] == 600 * SAMPLE
    assert 0.9 < seen["file"] / seen["bytes"] < 1.5
