"""Teachers of an experiment come trained or are trained, each in its own folder, and have rows."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from kdcore.configfile import as_run
from kdcore.context import RunContext
from kdcore.files import save_weights
from kdcore.fingerprint import digest_of
from kdcore.models.tutorial import LightNN
from kdcore.teacher_runs import (
    _tell_of_guessing,
    keep_answers,
    run_teacher,
    run_teachers,
    teacher_rows,
)

TREE: dict[str, Any] = {
    "device": "cpu",
    "data": {"limit": 60},
    "teachers": {
        "one": {"model": "lightnn", "image_size": 8},
        "two": {"model": "lightnn", "image_size": 8},
        "both": {"ensemble": ["one", "two"]},
        "self": {"average": 0.9},
    },
    "student": {"image_size": 8},
    "train": {"epochs": 1, "batch_size": 16},
    "strategies": [{"name": "logits", "teacher": "all"}],
}


class Desk:
    """An experiment in a folder, and what it printed."""

    def __init__(self, out: Path, **changes: Any) -> None:
        self.console = Console(record=True, width=500, file=io.StringIO())
        self.context = RunContext(as_run({**TREE, **changes}, "test"), out, self.console)


def test_two_of_one_architecture_begin_from_weights_of_their_own(tmp_path: Path) -> None:
    context = Desk(tmp_path).context
    one, two, again = (context.new_teacher(42, name) for name in ("one", "two", "one"))
    assert digest_of(one.state_dict()) == digest_of(again.state_dict())
    assert digest_of(one.state_dict()) != digest_of(two.state_dict())


def test_the_one_teacher_begins_from_the_weights_of_the_seed(tmp_path: Path) -> None:
    alone = {"teachers": None, "teacher": TREE["teachers"]["one"], "strategies": []}
    teacher = Desk(tmp_path, **alone).context.new_teacher(42)
    torch.manual_seed(42)
    assert digest_of(teacher.state_dict()) == digest_of(LightNN(image_size=8).state_dict())


def test_each_has_a_folder_and_a_row_and_their_mean_has_a_row(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    teachers = run_teachers(desk.context, 42)
    assert list(teachers) == ["one", "two"]
    folders = {Path(each.result.folder).name.partition("-")[0] for each in teachers.values()}
    assert folders == {"teacher.one", "teacher.two"}
    rows = teacher_rows(desk.context, 42, teachers)
    assert [row.name for row in rows] == ["teacher one", "teacher two", "teacher both"]
    assert f"mean of one, two: accuracy {rows[2].accuracy:.2f} %" in desk.console.export_text()
    assert all(each.result.kept for each in run_teachers(desk.context, 42).values())


def test_the_mean_of_equal_teachers_does_as_each_of_them(tmp_path: Path) -> None:
    trained = run_teacher(Desk(tmp_path / "one").context, 42, "one")
    given = {**TREE["teachers"]["one"], "weights": str(trained.weights)}
    equal = {**TREE["teachers"], "one": given, "two": given}
    context = Desk(tmp_path / "two", teachers=equal).context
    rows = teacher_rows(context, 42, run_teachers(context, 42))
    assert [row.accuracy for row in rows] == [trained.result.accuracy] * 3


GUESSING = "the teacher is no better than guessing the most frequent class: accuracy"


def test_a_teacher_that_guesses_the_most_frequent_class_is_told_so(tmp_path: Path) -> None:
    alone = {"teachers": None, "teacher": TREE["teachers"]["one"], "strategies": []}
    targets = Desk(tmp_path / "data", **alone).context.data.test.targets
    most, least = int(targets.bincount().argmax()), int(targets.bincount().argmin())
    said = {}
    for taken in (most, least):
        model = LightNN(image_size=8)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
            list(model.parameters())[-1][taken] = 1.0
        file = tmp_path / f"{taken}.safetensors"
        save_weights(file, model.state_dict())
        given = {**TREE["teachers"]["one"], "weights": str(file)}
        desk = Desk(tmp_path / str(taken), **{**alone, "teacher": given})
        teacher = run_teacher(desk.context, 42)
        said[taken] = desk.console.export_text()
        assert said[taken].count(GUESSING) == 1
    share = 100 * int((targets == most).sum()) / len(targets)
    assert f"accuracy {share:.2f} %, and {share:.2f} % of the test samples are of" in said[most]
    better = replace(teacher.result, scores={"accuracy": share + 0.01})
    for result in (better, replace(teacher.result, kept=True), replace(better, scores={})):
        _tell_of_guessing(desk.context, "teacher", result)
    assert GUESSING not in desk.console.export_text()
    _tell_of_guessing(desk.context, "teacher", teacher.result)
    assert GUESSING in desk.console.export_text()


def test_what_all_say_is_kept_ahead_and_each_is_asked_once(tmp_path: Path) -> None:
    cache = {"mode": "disk", "folder": str(tmp_path / "kept")}
    later = [{"name": "cosine", "label": name, "teacher": name} for name in ("one", "two", "self")]
    stages = [
        {"strategies": [{"name": "logits", "teacher": "one"}]},
        {"strategies": [*later, {"name": "logits", "teacher": "both"}]},
    ]
    desk = Desk(tmp_path / "out", cache=cache, strategies=[], stages=stages)
    keep_answers(desk.context, 42)
    said = desk.console.export_text()
    for name in ("one", "two"):
        assert said.count(f"teacher {name} runs once") == 1
    assert len(list((tmp_path / "kept").glob("*.arrays"))) == 2


@pytest.mark.parametrize("augment", [{}, {"flip": True}])
def test_a_teacher_is_trained_anew_for_views_of_another_size(
    tmp_path: Path, augment: dict[str, Any]
) -> None:
    assert not run_teacher(Desk(tmp_path, augment=augment).context, 42, "one").result.kept
    assert run_teacher(Desk(tmp_path, augment=augment).context, 42, "one").result.kept
    if augment:
        larger = Desk(tmp_path, augment={**augment, "image_size": 12}).context
        assert not run_teacher(larger, 42, "one").result.kept
