"""What came out of the documentation's tables, and what is saved of it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kdcore.errors import UserError
from kdcore.files import write_json
from kdcore.joblist import Joined, students
from kdcore.measured import Measured, record_of
from kdcore.report import markdown_table
from kdcore.tables import Images, experiment_of, settings_digest
from tests.documented import runs_of

FOLDER = Images(Path("images"), "folder")


def test_what_is_saved_of_a_table_is_read_again(tmp_path: Path) -> None:
    config = experiment_of("strong", FOLDER)
    given = "/somewhere/resnet20.safetensors"
    teacher = [replace(each, origin=given) for each in runs_of("teacher", [88.0, 88.0], "teacher")]
    runs = [
        *teacher,
        *runs_of("student", [73.0, 74.0], "s"),
        *runs_of("distilled", [76.0, 76.5], "d"),
    ]
    runs = [
        replace(each, made=f"2020-01-0{2 + 2 * each.seed}", machine=("here", "there")[each.seed])
        for each in runs
    ]
    given_trained = replace(runs[0], name="teacher given", seconds=0.0, made="", machine="")
    joined = Joined((*runs, given_trained), (), ("images",))
    write_json(tmp_path / "strong.json", record_of("strong", config, joined))
    found = Measured.read(tmp_path / "strong.json")
    assert found.name == "strong"
    assert found.settings == settings_digest(config)
    assert found.scores("distilled") == {0: 76.0, 1: 76.5}
    assert (found.about, found.data, found.missing) == (("images",), "folder", 0)
    # As of the trainings, and not of the saving.
    assert (found.made, found.machine) == ("2020-01-02 to 2020-01-04", "here, and on there")
    origins = {each.name: each.origin for each in found.results}
    assert (origins["teacher"], origins["student"]) == ("resnet20.safetensors", "random")
    # The teacher of all seeds was trained once.
    assert found.seconds == 5 * 60.0 - 2 * 60.0


def test_the_seconds_of_a_table_are_those_of_asking_too() -> None:
    runs = [
        replace(each, teacher_seconds=600.0 * each.seed) for each in runs_of("distilled", [1, 2])
    ]
    runs = [replace(each, folder=str(each.seed)) for each in runs]
    record = record_of("strong", experiment_of("strong", FOLDER), Joined(tuple(runs), (), ()))
    assert record["seconds"] == 2 * 60.0 + 600.0
    assert (record["made"], record["machine"]) == (
        "on a day not noted",
        "a machine that was not noted",
    )


def test_a_table_of_weights_that_were_chosen_can_be_printed(tmp_path: Path) -> None:
    config = experiment_of("strong", FOLDER)
    chosen = [
        replace(each, best_epoch=3, best_scores={"accuracy": 80.0})
        for each in runs_of("student", [73.0, 74.0])
    ]
    missing = students(config)[5:]
    record = record_of("strong", config, Joined(tuple(chosen), tuple(missing), ()))
    write_json(tmp_path / "strong.json", record)
    found = Measured.read(tmp_path / "strong.json")
    assert found.missing == len(missing)
    assert "| of the best weights (%) |" in markdown_table(found.results)


def test_something_else_is_no_table(tmp_path: Path) -> None:
    for text in ("{}", "[]", "no json", json.dumps({"runs": [{}]})):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(UserError, match="is no table that kdcore reproduce --save wrote"):
            Measured.read(tmp_path / "other.json")
