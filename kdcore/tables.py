"""The tables of the documentation: the comparison that makes each, and what it is known by.

What came out of it is in `measured`, and what the pages claim of it in `claims`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kdcore.catalog import Catalog
from kdcore.configfile import (
    Tree,
    as_comparison,
    candidates_for,
    override,
    read_recipe,
    teacher_trainings,
)
from kdcore.errors import ConfigError, unknown
from kdcore.experiment import ComparisonConfig, StageConfig
from kdcore.fingerprint import fingerprint_of_facts
from kdcore.joblist import plan_of
from kdcore.resolved import entry_of
from kdcore.selection import agreed_task_weight, select


@dataclass(frozen=True)
class Table:
    """A table of the documentation.

    Attributes:
        title: what it shows.
        recipe: the recipe that makes it.
        settings: keys that differ from the recipe's.
        images: whether it needs images that do not come with a package.
        methods: whether every method that is installed is a candidate, instead of the recipe's.
    """

    title: str
    recipe: str
    settings: tuple[str, ...] = ()
    images: bool = True
    methods: bool = False


FIVE = "seeds=[42, 43, 44, 45, 46]"
TEN = "seeds=[42, 43, 44, 45, 46, 47, 48, 49, 50, 51]"
TABLES: Mapping[str, Table] = MappingProxyType(
    {
        "demo": Table("Few labels, handwritten digits", "demo", (FIVE,), images=False),
        "tutorial-digits": Table(
            "The tutorial, handwritten digits", "tutorial", (FIVE,), images=False
        ),
        "tutorial": Table("The tutorial", "tutorial", (FIVE, "teacher.seed=42")),
        "strong": Table("A strong recipe, 10 epochs", "strong", (TEN,)),
        "strong-30": Table("A strong recipe, 30 epochs", "strong", ("train.epochs=30",)),
        "few-labels": Table("500 labels", "few-labels"),
        "second-pair": Table(
            "All methods, a ResNet from a ResNet",
            "strong",
            (
                "teacher.model=resnet20",
                "teacher.train.lr=0.2",
                "student.model=resnet8",
                "data.limit=2560",
                "train.epochs=5",
                "train.optimizer=sgd",
                "train.lr=0.1",
                "train.weight_decay=5e-4",
                "train.schedule=cosine",
                "train.warmup_epochs=1",
                "augment.crop=0",
                "augment.flip=false",
                "augment.views=none",
            ),
            methods=True,
        ),
        "crd": Table("The literature's protocol, CIFAR-100", "crd"),
    }
)

SHORT = (
    "seeds=[42, 43]",
    "train.epochs=1",
    "train.batch_size=32",
    "train.schedule=constant",
    "train.warmup_epochs=0",
    "data.limit=64",
)
"""What makes a table in little time: the same steps, and numbers that say nothing."""

SHORT_LABELS = 20


@dataclass(frozen=True)
class Images:
    """Where the images of a table are, where they do not come with a package.

    Attributes:
        root: their folder.
        name: as `[data]` has it; the recipe's own if not given, or CIFAR-10's.
    """

    root: Path | None = None
    name: str | None = None


def table_of(name: str) -> Table:
    """Return a table by name.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in TABLES:
        raise ConfigError(f"{unknown('table', name, TABLES)}; kdcore reproduce lists them")
    return TABLES[name]


def experiment_of(
    name: str,
    images: Images,
    *,
    short: bool = False,
    cache: str | None = None,
    teacher: Path | None = None,
) -> ComparisonConfig:
    """Return the comparison that makes a table.

    Args:
        name: of the table.
        images: where its images are.
        short: whether to take few images, steps and seeds, to see that it works.
        cache: where answers are kept, as `[cache]` has it.
        teacher: file of a teacher that the recipe's training made before, which is not repeated.

    Raises:
        ConfigError: there is no such table, or it needs images and was given none.
    """
    table = table_of(name)
    tree = read_recipe(table.recipe)
    if table.methods:
        tree["candidates"] = candidates_for({}, ",".join(Catalog().usable()))
    override(tree, table.settings)
    _take_from(images, tree["data"], name, short=short)
    if cache is not None:
        override(tree, [f"cache.mode={cache}"])
    if teacher is not None:
        tree["teacher"]["weights"] = str(teacher)
    if short:
        _shorten(tree)
    return as_comparison(tree, f"table {name}")


def _take_from(images: Images, data: Tree, name: str, *, short: bool) -> None:
    """Write into a table's `[data]` where its images are.

    Raises:
        ConfigError: they are not where such a table has them.
    """
    if not TABLES[name].images:
        if images != Images():
            raise ConfigError(
                f"table {name!r} is of handwritten digits: leave --root and --data out"
            )
    elif short and images == Images(None, "digits"):
        data["name"] = "digits"
    elif images.root is None or images.name == "digits":
        raise ConfigError(
            f"table {name!r} needs images: give their folder with --root DIR, and with --data "
            "folder where they are image files in folders of classes; --short --data digits, "
            "without --root, shows that it can be made"
        )
    else:
        its_own = data["name"] if data["name"] != "digits" else "cifar10"
        data.update(name=images.name or its_own, root=str(images.root))


def _shorten(tree: Tree) -> None:
    override(tree, SHORT)
    tree["train"].pop("milestones", None)
    for _, own in teacher_trainings(tree):
        own["epochs"] = 1
    if "labels" in tree["data"]:
        tree["data"]["labels"] = SHORT_LABELS


PLACES: Mapping[str, Any] = MappingProxyType(
    {
        "data": {"root"},
        "teacher": {"weights"},
        "teachers": {"__all__": {"weights"}},
        "cache": {"mode", "memory", "disk", "folder"},
        "checkpoint": True,
        "processes": True,
        "log": True,
        "export": True,
    }
)
"""What no number of a table depends on: where images, weights and answers lie, when a training is
saved, how long processes wait, and what is written beside."""


def settings_digest(config: ComparisonConfig) -> str:
    """Return the hash of all settings of a comparison, defaults and those of its methods included.

    What is left out is in `PLACES`.
    """
    told = config.model_dump(mode="json", exclude={**PLACES, "candidates": True})
    told["candidates"] = {
        candidate.label: [_whole(config, stage) for stage in plan_of(config, candidate)]
        for candidate in config.candidates
    }
    return fingerprint_of_facts(told)


def _whole(config: ComparisonConfig, stage: StageConfig) -> dict[str, Any]:
    """Return a stage as JSON has it, with the weights and settings of its methods written out."""
    members = select(stage.strategies, tuple(config.teachers_by_name))
    decided: dict[str, Any] = {"strategies": tuple(map(entry_of, members))}
    if stage.task_weight is None:
        decided["task_weight"] = agreed_task_weight(members)
    return stage.model_copy(update=decided).model_dump(mode="json")
