"""The documentation's tables: what makes them, and what they are known by."""

from pathlib import Path
from typing import Any

import pytest

from kdcore import tables
from kdcore.catalog import Catalog
from kdcore.configfile import recipes
from kdcore.errors import ConfigError
from kdcore.experiment import ComparisonConfig
from kdcore.sections import (
    CacheConfig,
    CheckpointConfig,
    ExportConfig,
    LogConfig,
    ProcessesConfig,
)
from kdcore.selection import load_strategy
from kdcore.strategy import Recommended
from kdcore.tables import PLACES, TABLES, Images, experiment_of, settings_digest

FOLDER = Images(Path("images"), "folder")


def _images_of(name: str) -> Images:
    return FOLDER if TABLES[name].images else Images()


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_a_comparison_over_five_seeds_or_more(name: str) -> None:
    config = experiment_of(name, _images_of(name))
    assert len(set(config.seeds)) >= 5
    assert config.candidates


@pytest.mark.parametrize("name", TABLES)
def test_in_short_a_table_has_the_same_candidates_and_few_steps(name: str) -> None:
    short = experiment_of(name, _images_of(name), short=True)
    whole = experiment_of(name, _images_of(name))
    assert [each.label for each in short.candidates] == [each.label for each in whole.candidates]
    assert short.train.epochs == short.teacher_train("teacher").epochs == 1
    assert (short.data.limit, len(short.seeds)) == (64, 2)


def test_every_recipe_has_a_table_and_every_table_a_recipe() -> None:
    assert sorted({table.recipe for table in TABLES.values()}) == recipes()


def test_tables_that_need_images_say_so_and_the_others_refuse_them() -> None:
    with pytest.raises(ConfigError, match=r"'strong' needs images: .* --root DIR"):
        experiment_of("strong", Images())
    with pytest.raises(ConfigError, match="leave --root and --data out"):
        experiment_of("demo", Images(Path("here")))
    with pytest.raises(ConfigError, match="unknown table 'weak'"):
        experiment_of("weak", Images())


def test_in_short_handwritten_digits_do_for_every_table() -> None:
    digits = Images(None, "digits")
    for name in (name for name, table in TABLES.items() if table.images):
        assert experiment_of(name, digits, short=True).data.name == "digits"
    for refused in (digits, Images(Path("here"), "digits")):
        with pytest.raises(ConfigError, match="--short --data digits, without --root"):
            experiment_of("second-pair", refused)
    with pytest.raises(ConfigError, match="needs images"):
        experiment_of("second-pair", Images(Path("here"), "digits"), short=True)


def test_the_images_are_cifars_where_nothing_else_is_said() -> None:
    assert experiment_of("strong", Images(Path("here"))).data.name == "cifar10"
    assert experiment_of("crd", Images(Path("here"))).data.name == "cifar100"
    assert experiment_of("crd", FOLDER).data.name == "folder"


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
        patch.setattr(tables, "fingerprint_of_facts", found.append)
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
