"""When a training is saved, and what is refused to be continued."""

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kdcore.checkpoint import Checkpoints
from kdcore.errors import Interrupted, ResumeError
from kdcore.interruption import Interruption
from kdcore.saving import Saver, check_origin
from kdcore.sections import CheckpointConfig
from tests.stress import kills

FACTS = {"seed": 3, "teacher": "a", "threads": 2}


def _saver(folder: Path, facts: dict[str, Any] = FACTS, **given: Any) -> Saver:
    config = {key: given.pop(key) for key in ("steps", "minutes", "epochs") if key in given}
    return Saver(folder, CheckpointConfig.model_validate(config), facts, **given)


def test_a_training_is_saved_every_so_many_steps(tmp_path: Path) -> None:
    saver = _saver(tmp_path, steps=3, minutes=0)
    assert [saver.due(step) for step in (1, 2, 3, 4)] == [False, False, True, True]
    saver.save(4, {})
    assert [saver.due(step) for step in (5, 6, 7)] == [False, False, True]
    assert saver.step == 4


def test_a_training_is_saved_when_minutes_have_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("kdcore.saving.time.monotonic", lambda: now)
    saver = _saver(tmp_path, minutes=2)
    now = 119.0
    assert not saver.due(1)
    now = 120.0
    assert saver.due(1)
    saver.save(1, {})
    assert not saver.due(2)


def test_a_training_is_saved_after_epochs(tmp_path: Path) -> None:
    assert [_saver(tmp_path, epochs=2).due_after(epoch) for epoch in (1, 2, 3, 4)] == [
        False,
        True,
        False,
        True,
    ]
    assert not any(_saver(tmp_path, epochs=0).due_after(epoch) for epoch in range(1, 5))


def test_a_signal_makes_it_due_and_ends_it_when_it_is_saved(tmp_path: Path) -> None:
    interruption = Interruption()
    saver = _saver(tmp_path, interruption=interruption, minutes=0, epochs=0)
    assert not saver.due(1)
    interruption.asked = signal.SIGINT
    assert saver.due(1)
    with pytest.raises(Interrupted, match=r"SIGINT; saved after optimizer step 1 in .*: the same"):
        saver.save(1, {"model": {"a": 1}})
    again = _saver(tmp_path).load()
    assert again is not None
    assert again["model"] == {"a": 1}


def test_what_was_saved_is_read_with_the_time_it_took(tmp_path: Path) -> None:
    notes: list[str] = []
    first = _saver(tmp_path)
    assert first.load() is None
    first._started -= 100
    first.save(5, {"model": {"a": 1}})
    second = _saver(tmp_path, note=notes.append)
    found = second.load()
    assert found is not None
    assert found["model"] == {"a": 1}
    assert second.step == 5
    assert 100 <= second.seconds.training < 110
    assert notes == [f"continues after optimizer step 5, as saved in {tmp_path / '000000-step-5'}"]


def test_what_asking_teachers_took_is_added_up_and_never_part_of_the_training(
    tmp_path: Path,
) -> None:
    first = _saver(tmp_path, teacher_seconds=700.0)
    assert first.load() is None
    first.save(5, {})
    second = _saver(tmp_path, teacher_seconds=30.0)  # asked again: nothing was on disk
    second.load()
    assert second.seconds.teacher == 730.0
    assert second.seconds.training < 30
    second.save(6, {})
    third = _saver(tmp_path)
    third.load()
    assert third.seconds.teacher == 730.0


def test_what_was_saved_before_asking_was_told_apart_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Checkpoints.save

    def as_before(self: Checkpoints, step: int, parts: Mapping[str, Any]) -> Path:
        origin = {key: each for key, each in parts["origin"].items() if key != "teacher_seconds"}
        return save(self, step, {**parts, "origin": origin})

    monkeypatch.setattr(Checkpoints, "save", as_before)
    _saver(tmp_path, teacher_seconds=700.0).save(5, {})
    second = _saver(tmp_path, teacher_seconds=30.0)
    second.load()
    assert second.seconds.teacher == 30.0


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({**FACTS, "teacher": "b"}, "teacher was a, is b"),
        ({**FACTS, "seed": 4}, "seed was 3, is 4"),
        ({**FACTS, "classes": ["a", "b"]}, "classes"),
    ],
)
def test_another_training_is_not_continued(tmp_path: Path, now: dict[str, Any], said: str) -> None:
    _saver(tmp_path).save(1, {})
    with pytest.raises(ResumeError, match=f"began with something else: {said}.*another folder"):
        _saver(tmp_path, now).load()


def test_another_machine_is_said_and_where_that_is_asked_refused(tmp_path: Path) -> None:
    _saver(tmp_path).save(1, {})
    elsewhere, notes = {**FACTS, "threads": 4}, list[str]()
    assert _saver(tmp_path, elsewhere, note=notes.append).load() is not None
    assert "the last bits may differ: threads was 2, is 4" in notes[0]
    with pytest.raises(ResumeError, match="cannot be continued exactly: threads was 2, is 4"):
        check_origin(FACTS, elsewhere, "it", notes.append, exact=True)
    before = len(notes)
    check_origin(FACTS, FACTS, "it", notes.append, exact=True)  # the control
    assert len(notes) == before


def test_what_differs_is_told_before_the_machine_is() -> None:
    notes: list[str] = []
    with pytest.raises(ResumeError, match="teacher was a, is b;"):
        check_origin(FACTS, {"seed": 3, "teacher": "b", "threads": 9}, "it", notes.append)
    assert not notes


@pytest.mark.slow
def test_no_kill_loses_a_checkpoint_or_changes_a_history() -> None:
    command = [sys.executable, kills.__file__, "--kills", "100"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path.cwd())
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["kills"] == 100
    assert counts["finished"] > 0
    assert counts["resumed"] > 0


def test_a_checkpoint_that_is_written_in_place_would_be_found_out(
    tmp_path: Path,
) -> None:  # the control
    folder = Checkpoints(tmp_path / "checkpoints").save(1, {"model": {}})
    kills.check(tmp_path)
    (folder / "model.json").write_text("")  # as a kill would leave it
    with pytest.raises(AssertionError, match="damaged"):
        kills.check(tmp_path)
    (folder / "manifest.json").unlink()
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    with pytest.raises(AssertionError, match="none can be loaded"):
        kills.check(tmp_path)
