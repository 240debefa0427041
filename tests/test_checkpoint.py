"""A checkpoint is whole or not there, and nothing but what was saved is read."""

import errno
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kdcore import checkpoint
from kdcore.checkpoint import Checkpoints
from kdcore.errors import ModelError, ResumeError, RunError

WEIGHT = torch.arange(6.0).reshape(2, 3)
PARTS = {
    "model": {"weight": WEIGHT, "step": 4},
    "training": {"losses": [0.1, float("nan")], "random": (1, torch.arange(5, dtype=torch.uint8))},
}


def _equal(parts: Any) -> bool:
    model, training = parts["model"], parts["training"]
    return (
        sorted(parts) == ["model", "training"]
        and (sorted(model), sorted(training)) == (["step", "weight"], ["losses", "random"])
        and torch.equal(model["weight"], WEIGHT)
        and repr(model["step"]) == "4"
        and repr(training["losses"]) == "[0.1, nan]"
        and torch.equal(training["random"][1], torch.arange(5, dtype=torch.uint8))
        and repr(training["random"][0]) == "1"
    )


def _load(folder: Path) -> tuple[Any, list[str]]:
    notes: list[str] = []
    found = Checkpoints(folder, note=notes.append).load()
    return found and found.parts, notes


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return Checkpoints(tmp_path / "checkpoints").save(4, PARTS)


def test_what_was_saved_is_read(saved: Path) -> None:
    assert saved.name == "000000-step-4"
    parts, notes = _load(saved.parent)
    assert _equal(parts)
    assert not notes
    assert (saved.parent / "LATEST").read_text() == "000000-step-4\n"


def test_where_nothing_was_saved_nothing_is_read_or_written(tmp_path: Path) -> None:
    assert _load(tmp_path / "none") == (None, [])
    assert not (tmp_path / "none").exists()


def test_the_newest_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (3, 6, 6):
        checkpoints.save(step, PARTS)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["000001-step-6", "000002-step-6", "LATEST"]
    checkpoints.clear()
    assert not tmp_path.exists()


def _truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def _flip(folder: Path) -> None:
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def _symlink(folder: Path) -> None:
    file = folder / "model.json"
    shutil.move(file, folder.parent / "elsewhere")
    file.symlink_to(folder.parent / "elsewhere")


def _edit(change: Callable[[Any], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / "manifest.json"
        manifest = json.loads(file.read_text())
        change(manifest)
        file.write_text(json.dumps(manifest))

    return edit


def _outside(manifest: Any) -> None:
    files = manifest["files"]
    files["../../secret.json"] = files.pop("model.json")
    manifest["sha256"] = checkpoint._digest(files)


def _twice(folder: Path) -> None:
    file = folder / "manifest.json"
    file.write_text(file.read_text().replace('"format": 1', '"format": 1, "format": 1'))


DAMAGE: list[tuple[Callable[[Path], object], str]] = [
    (_truncate, "model.safetensors is not what was saved"),
    (_flip, "model.safetensors is not what was saved"),
    (_symlink, "model.json is no file of its own"),
    (lambda folder: (folder / "model.json").unlink(), "model.json missing or not its own"),
    (lambda folder: (folder / "new.py").write_text("1"), "new.py missing or not its own"),
    (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is no file of its own"),
    (lambda folder: (folder / "manifest.json").write_text(""), "manifest.json is unreadable"),
    (lambda folder: (folder / "manifest.json").write_text("[" * 10**6), "is unreadable"),
    (lambda folder: (folder / "manifest.json").write_bytes(b"\xff"), "is unreadable"),
    (lambda folder: (folder / "manifest.json").write_text("[]"), "no format that kdcore knows"),
    (_twice, "a key stands twice"),
    (_edit(lambda manifest: manifest["files"].pop("model.json")), "manifest.json was changed"),
    (_edit(lambda manifest: manifest.update(format=True)), "no format that kdcore knows"),
    (_edit(_outside), "names '../../secret.json', which is no file of a checkpoint"),
]


@pytest.mark.parametrize(("damage", "said"), DAMAGE)
def test_what_is_damaged_is_named_and_the_one_before_serves(
    tmp_path: Path, damage: Callable[[Path], object], said: str
) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(2, PARTS)
    newest = checkpoints.save(4, {"model": {}, "training": {}})
    damage(newest)
    parts, notes = _load(tmp_path / "checkpoints")
    assert _equal(parts)
    assert len(notes) == 1
    assert notes[0].startswith(f"checkpoint {newest} is damaged (")
    assert said in notes[0]


def test_a_newer_format_is_left_to_the_kdcore_that_wrote_it(saved: Path) -> None:
    _edit(lambda manifest: manifest.update(format=2))(saved)
    with pytest.raises(ResumeError, match="has format 2, this kdcore knows up to 1"):
        _load(saved.parent)


def test_a_folder_elsewhere_is_no_checkpoint(tmp_path: Path, saved: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "000009-step-9").symlink_to(saved)
    assert _load(tmp_path / "other") == (None, [])


def test_leftovers_of_a_process_that_died_are_swept(saved: Path) -> None:
    leftover = saved.parent / ".unfinished-x"
    leftover.mkdir()
    assert _equal(_load(saved.parent)[0])
    assert not leftover.exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("moment", ["write_bytes", "_flush"])
def test_a_full_disk_leaves_the_old_one_and_says_what_was_needed(
    saved: Path, monkeypatch: pytest.MonkeyPatch, moment: str, code: int
) -> None:
    def full(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(checkpoint, moment, full)
    said = (
        r"tensors need 0\.0 KiB, .* were free when it failed"
        if code == errno.ENOSPC
        else "Input/output error"
    )
    with pytest.raises(RunError, match=said):
        Checkpoints(saved.parent).save(8, PARTS)
    monkeypatch.undo()
    assert [path.name for path in saved.parent.iterdir() if path.is_dir()] == [saved.name]
    assert _equal(_load(saved.parent)[0])


def test_a_value_that_cannot_be_saved_is_a_bug_and_leaves_nothing(saved: Path) -> None:
    with pytest.raises(ModelError, match="cannot be saved"):
        Checkpoints(saved.parent).save(8, {"model": object()})
    assert len(list(saved.parent.iterdir())) == 2


def _mutated(data: bytes, chance: random.Random) -> bytes:
    mutated = bytearray(data)
    at = chance.randrange(len(mutated))
    kind = chance.randrange(4)
    if kind == 0:
        mutated[at] ^= 1 << chance.randrange(8)
    elif kind == 1:
        del mutated[at : at + chance.randrange(1, 9)]
    elif kind == 2:
        mutated[at:at] = chance.randbytes(chance.randrange(1, 9))
    else:
        mutated[at:] = chance.randbytes(len(mutated) - at)
    return bytes(mutated)


def _mutations(saved: Path, count: int) -> tuple[int, int]:
    """Mutate one file at a time; return how often it was refused, and read as it was saved."""
    chance = random.Random(0)
    files = sorted(saved.iterdir())
    refused = same = 0
    for _ in range(count):
        file = chance.choice(files)
        original = file.read_bytes()
        file.write_bytes(_mutated(original, chance))
        try:
            parts, _ = _load(saved.parent)
        except ResumeError:  # a format of the future
            parts = None
        if parts is None:
            refused += 1
        else:
            assert _equal(parts), file
            same += 1
        file.write_bytes(original)
    return refused, same


def test_no_mutation_is_read_as_something_else(saved: Path) -> None:
    refused, same = _mutations(saved, 2000)
    assert refused + same == 2000
    assert refused > 1900  # white space of the manifest changes nothing


def test_without_the_hashes_some_would_be(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # the control
    monkeypatch.setattr(checkpoint, "_checked", lambda path, _: path.read_bytes())
    with pytest.raises(AssertionError):
        _mutations(saved, 2000)


def test_serial_numbers_do_not_end(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, PARTS).rename(tmp_path / "999999-step-1")
    for step in (2, 3, 4):
        newest = checkpoints.save(step, {**PARTS, "at": {"step": step}})
    assert newest.name == "1000002-step-4"
    assert _load(tmp_path)[0]["at"] == {"step": 4}
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2
