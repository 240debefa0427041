"""What came out of the documentation's tables: what is saved of it, and what it is known by."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdcore import measured
from kdcore.catalog import Catalog
from kdcore.errors import UserError
from kdcore.evidence import Images, experiment_of
from kdcore.experiment import ComparisonConfig
from kdcore.files import write_json
from kdcore.joblist import Joined, students
from kdcore.measured import PLACES, Measured, record_of, settings_digest
from kdcore.report import markdown_table
from kdcore.sections import (
    CacheConfig,
    CheckpointConfig,
    ExportConfig,
    LogConfig,
    ProcessesConfig,
)
from kdcore.selection import load_strategy
from kdcore.strategy import Recommended
from tests.tables import runs_of

FOLDER = Images(Path("images"), "folder")


def test_settings_are_told_apart_by_what_is_computed_and_not_by_the_place() -> None:
    strong = experiment_of("strong", FOLDER)
    elsewhere = Images(Path("elsewhere"), "folder")
    same = experiment_of("strong", elsewhere, cache="disk", teacher=Path("teacher.safetensors"))
    assert settings_digest(strong) == settings_digest(same)
    other = (
        experiment_of("strong-30", FOLDER),
        experiment_of("strong", Images(Path("images"))),
        experiment_of("few-labels", FOLDER),
    )
    assert len({settings_digest(each) for each in (strong, *other)}) == 4


def _hashed(config: ComparisonConfig, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what the hash of settings is made of."""
    found: list[dict[str, Any]] = []
    with monkeypatch.context() as patch:
        patch.setattr(measured, "fingerprint_of_facts", found.append)
        settings_digest(config)
    return found[0]


def test_the_hash_of_settings_is_made_of_all_of_them_defaults_included(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = experiment_of("second-pair", FOLDER)
    told = _hashed(config, monkeypatch)
    left_out = {name for name, what in PLACES.items() if what is True}
    assert told.keys() == ComparisonConfig.model_fields.keys() - left_out
    assert told["train"] == config.train.model_dump(mode="json")
    assert told["cache"] == {"dtype": "float32"}
    assert "root" not in told["data"]
    assert told["data"]["split_seed"] == 0
    (stage,) = told["candidates"]["logits"]
    # Of a candidate that says no more than its name: what its method makes of that.
    (entry,) = stage["strategies"]
    assert {"weight", "temperature"} <= entry.keys()
    assert stage["task_weight"] is not None


def test_another_weight_that_a_method_recommends_makes_another_hash(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = experiment_of("second-pair", FOLDER)
    before = settings_digest(config)
    method, _ = load_strategy("logits", Catalog())
    with monkeypatch.context() as patch:
        patch.setattr(method, "recommended", Recommended(weight=0.123))
        assert settings_digest(config) != before
    assert settings_digest(config) == before


def test_what_no_number_depends_on_is_not_in_the_hash() -> None:
    config = experiment_of("demo", Images())
    before = settings_digest(config)
    harmless: dict[str, object] = {
        "checkpoint": CheckpointConfig(steps=3),
        "processes": ProcessesConfig(timeout=1.0),
        "log": LogConfig(tensorboard=True),
        "export": ExportConfig(),
        "cache": CacheConfig(mode="off", memory=1, disk=2, folder=Path("there")),
    }
    for name, value in harmless.items():
        assert settings_digest(config.model_copy(update={name: value})) == before
    other: dict[str, object] = {
        "cache": CacheConfig(dtype="float16"),
        "device": "cuda",
        "seeds": (1, 2),
    }
    for name, value in other.items():
        assert settings_digest(config.model_copy(update={name: value})) != before


def test_the_files_of_several_teachers_are_not_in_the_hash_and_who_they_are_is() -> None:
    def of(**big: str) -> str:
        teachers = {"big": {"model": "deepnn", **big}, "small": {"model": "lightnn"}}
        entries = [{"name": "logits", "teacher": each} for each in teachers]
        own = [{**each, "label": each["teacher"]} for each in entries]
        tree = {"teachers": teachers, "candidates": [{"label": "both", "strategies": own}]}
        return settings_digest(ComparisonConfig.model_validate(tree))

    assert of() == of(weights="here.safetensors")
    assert of() != of(model="resnet8")


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
