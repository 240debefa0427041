"""The tables of the documentation: the comparison that makes each, and what came out of it.

`kdcore reproduce` makes them and saves them as JSON, from which the pages are written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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
from kdcore.errors import ConfigError, UserError, unknown
from kdcore.experiment import ComparisonConfig, StageConfig
from kdcore.files import read_json
from kdcore.fingerprint import fingerprint_of_facts
from kdcore.job import STUDENT, RunResult, machines_of
from kdcore.joblist import Joined, plan_of
from kdcore.resolved import entry_of
from kdcore.selection import agreed_task_weight, select
from kdcore.statistics import Summary, paired


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
TABLES: Mapping[str, Table] = MappingProxyType(
    {
        "demo": Table("Few labels, handwritten digits", "demo", (FIVE,), images=False),
        "tutorial-digits": Table(
            "The tutorial, handwritten digits", "tutorial", (FIVE,), images=False
        ),
        "tutorial": Table("The tutorial", "tutorial", (FIVE, "teacher.seed=42")),
        "strong": Table("A strong recipe, 10 epochs", "strong"),
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
    if table.images and short and images == Images(None, "digits"):
        tree["data"]["name"] = "digits"
    elif table.images:
        if images.root is None or images.name == "digits":
            raise ConfigError(
                f"table {name!r} needs images: give their folder with --root DIR, and with --data "
                "folder where they are image files in folders of classes; --short --data digits, "
                "without --root, shows that it can be made"
            )
        digits = tree["data"]["name"] == "digits"
        tree["data"]["name"] = images.name or ("cifar10" if digits else tree["data"]["name"])
        tree["data"]["root"] = str(images.root)
    elif images != Images():
        raise ConfigError(f"table {name!r} is of handwritten digits: leave --root and --data out")
    if cache is not None:
        override(tree, [f"cache.mode={cache}"])
    if teacher is not None:
        tree["teacher"]["weights"] = str(teacher)
    if short:
        _shorten(tree)
    return as_comparison(tree, f"table {name}")


def _shorten(tree: Tree) -> None:
    override(tree, SHORT)
    tree["train"].pop("milestones", None)
    for _, own in teacher_trainings(tree):
        own["epochs"] = 1
    if "labels" in tree["data"]:
        tree["data"]["labels"] = SHORT_LABELS


def record_of(name: str, config: ComparisonConfig, joined: Joined) -> dict[str, Any]:
    """Return what came out of a table, as JSON has it: its runs, and where it was saved.

    Args:
        name: of the table.
        config: the comparison.
        joined: what there is of it.
    """
    bare = {"epochs": (), "best_epoch": None, "folder": "", "outcome": None}
    return {
        "table": name,
        "settings": settings_digest(config),
        "data": config.data.name,
        "about": list(joined.about),
        "missing": len(joined.missing),
        "made": _days(joined.results),
        "machine": ", and on ".join(machines_of(joined.results)),
        "seconds": sum(_trained_once(joined.results)),
        "runs": [
            {**asdict(each), **bare, "origin": _placeless(each.origin)} for each in joined.results
        ],
    }


def _placeless(origin: str) -> str:
    """Return where a model's weights began, without the folder that a file of them is in."""
    return Path(origin).name if Path(origin).is_absolute() else origin


def _trained_once(results: Sequence[RunResult]) -> list[float]:
    """Return the seconds of each training and the asking before it, a teacher of all seeds once."""
    once = {(each.name, each.folder): each for each in results}
    return [each.seconds + each.teacher_seconds for each in once.values()]


def _days(results: Sequence[RunResult]) -> str:
    """Return the day on which results were trained, or the first and the last."""
    days = sorted({each.made for each in results if each.seconds and each.made})
    return " to ".join(dict.fromkeys([days[0], days[-1]])) if days else "on a day not noted"


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


@dataclass(frozen=True)
class Measured:
    """A table as it came out.

    Attributes:
        name: of the table.
        settings: hash of the comparison's settings.
        data: name of its data, as `[data]` has it.
        about: what was compared.
        missing: how many of its students were not trained.
        made: the day of its trainings, or the first and the last.
        machine: what they ran on, each machine once.
        seconds: of all its trainings, asking teachers included.
        results: its runs, without what each epoch came to.
    """

    name: str
    settings: str
    data: str
    about: tuple[str, ...]
    missing: int
    made: str
    machine: str
    seconds: float
    results: tuple[RunResult, ...]

    @classmethod
    def read(cls, file: Path) -> "Measured":
        """Read a table that was saved.

        Raises:
            UserError: it is not there, or no table.
        """
        known = read_json(file)
        try:
            known["results"] = tuple(RunResult.of(each) for each in known.pop("runs"))
            known["about"] = tuple(known["about"])
            return cls(name=known.pop("table"), **known)
        except (AttributeError, KeyError, TypeError):
            raise UserError(f"{file} is no table that kdcore reproduce --save wrote") from None

    def samples(self, row: str) -> set[str]:
        """Return the hashes of the samples that a row's runs were trained and tested on.

        One where these are the same; empty text where one does not say.
        """
        return {each.samples for each in self.results if each.name == row}

    def scores(self, row: str) -> dict[int, float]:
        """Return the score that counts of a row, by seed."""
        return {
            each.seed: each.scores[each.metric.name]
            for each in self.results
            if each.name == row and each.metric
        }


def gain(over: tuple[Measured, str], of: tuple[Measured, str]) -> Summary:
    """Compare rows of two tables, paired by the seeds that both have.

    Raises:
        UserError: they are of different samples or it is not known of which, or have no seed in
            common.
    """
    base, own = over[0].scores(over[1]), of[0].scores(of[1])
    pairs = [(own[seed], base[seed]) for seed in own if seed in base]
    if not pairs:
        raise UserError(
            f"rows {over[1]} of {over[0].name} and {of[1]} of {of[0].name} have no seed in common"
        )
    samples = [table.samples(row) for table, row in (over, of)]
    for (table, row), found in zip((over, of), samples, strict=True):
        if len(found) != 1 or "" in found:
            raise UserError(
                f"{table.name} does not say which samples row {row} is of: make it again with "
                "kdcore reproduce"
            )
    if samples[0] != samples[1]:
        raise UserError(
            f"{over[0].name} and {of[0].name} are of different samples, and no gain over one "
            f"another: {over[0].about[0]}; {of[0].about[0]}"
        )
    return paired(pairs)


@dataclass(frozen=True)
class Claim:
    """A difference between rows of two tables that the documentation speaks of.

    Attributes:
        said: what it is.
        over: table and row that is compared with.
        of: table and row that is compared.
    """

    said: str
    over: tuple[str, str]
    of: tuple[str, str]


DISTILLED = "distilled"
"""What the recipes call the student that they are about."""

CLAIMS = (
    Claim(
        "strong, 10 epochs, over the tutorial's student alone",
        ("tutorial", STUDENT),
        ("strong", DISTILLED),
    ),
    Claim("strong, 10 epochs, over its control", ("strong", STUDENT), ("strong", DISTILLED)),
    Claim(
        "strong, 30 epochs, over the tutorial's student alone",
        ("tutorial", STUDENT),
        ("strong-30", DISTILLED),
    ),
    Claim("strong, 30 epochs, over its control", ("strong-30", STUDENT), ("strong-30", DISTILLED)),
    Claim(
        "few-labels, 500 labels, over its control",
        ("few-labels", STUDENT),
        ("few-labels", DISTILLED),
    ),
    Claim(
        "few-labels, 500 labels, over the student alone of strong, with all labels",
        ("strong", STUDENT),
        ("few-labels", DISTILLED),
    ),
)
