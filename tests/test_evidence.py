"""The documentation's tables: what makes them."""

from pathlib import Path

import pytest

from kdcore.configfile import recipes
from kdcore.errors import ConfigError
from kdcore.evidence import TABLES, Images, experiment_of

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
