"""From the entries of a list of strategies to configured members of a run.

An entry is a name, a mapping (see `kdcore.experiment.StrategyConfig`), or a strategy itself.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache
from typing import Any, TypeVar

from pydantic import ValidationError
from torch import nn

from kdcore.catalog import UNPACKAGED, Catalog, Origin, printable
from kdcore.errors import CatalogError, ConfigError, unknown
from kdcore.experiment import StrategyConfig
from kdcore.hooks import Member
from kdcore.imports import FILE, from_file
from kdcore.strategy import API_VERSION, RESERVED, Strategy
from kdcore.teachers import ALL_TEACHERS, TeacherEnsemble, needed
from kdcore.validation import describe_validation
from kdcore.weights import scaled

T = TypeVar("T")

Entry = str | Mapping[str, Any] | StrategyConfig | Strategy | type[Strategy]


def select(
    entries: Iterable[Entry], teachers: Collection[str], catalog: Catalog | None = None
) -> tuple[Member, ...]:
    """Turn entries into members: find, configure, label, weigh and bind each to a teacher.

    Args:
        entries: names, mappings with ``name`` and optionally ``weight``, ``label``, ``teacher``
            and settings, or strategies. The ``name`` of a mapping may be a `Strategy` subclass.
        teachers: the names of the run's teachers.
        catalog: where names are looked up; the installed strategies if not given.

    Raises:
        CatalogError: a strategy is not installed or cannot be loaded.
        ConfigError: an entry or a setting is wrong, or two entries have one label.
    """
    if isinstance(entries, str | Mapping):
        raise ConfigError(f"strategies is one entry, not a list of them: write [{entries!r}]")

    @cache
    def installed() -> Catalog:
        # Read once, and only for a name: classes are looked up nowhere.
        return catalog or Catalog()

    members: list[Member] = []
    for entry in entries:
        members.extend(_members(entry, teachers, installed))
    labels = [member.label for member in members]
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError(
                f"two strategies are called {label!r}; give one of them a label: "
                f'{{ name = "{label}", label = "{label}2" }}'
            )
        check_label(label)
    return tuple(members)


def teachers_used(
    entries: Iterable[Entry],
    teachers: Mapping[str, T],
    ensembles: Mapping[str, TeacherEnsemble],
    catalog: Catalog | None = None,
) -> dict[str, T]:
    """Return the teachers that some entries learn from, members of ensembles included.

    Args:
        entries: as `select` takes them.
        teachers: all of them, by name.
        ensembles: those among them that are ensembles.
        catalog: as `select` takes it.

    Raises:
        CatalogError, ConfigError: as `select`.
    """
    members = select(entries, tuple(teachers), catalog)
    used = needed((member.teacher for member in members), ensembles)
    return {name: each for name, each in teachers.items() if name in used}


def check_label(label: str) -> None:
    """Refuse what no strategy of a run can be called.

    Raises:
        ConfigError: names it.
    """
    if label in ("task", "total"):
        raise ConfigError(f"no strategy can be called {label!r}: that is a loss of kdcore's own")
    if "." in label or hasattr(nn.ModuleDict, label):
        raise ConfigError(
            f"no strategy can be called {label!r}, PyTorch has a use for it; give it a label"
        )


def load_strategy(name: str, catalog: Catalog) -> tuple[type[Strategy], Origin]:
    """Import the strategy of one name, or of one file, and check that it is one.

    Raises:
        CatalogError: as `Catalog.load`; or what was imported is no `Strategy` of this API.
    """
    in_file = FILE.fullmatch(name)
    if in_file and catalog.blocks_file(name):
        raise CatalogError(f"{name!r} is blocked (--no-strategy)")
    if in_file:
        loaded: object = from_file(name, CatalogError)
        origin = Origin(in_file["file"], "")
    else:
        loaded, origin = catalog.load(name)
    if not (isinstance(loaded, type) and issubclass(loaded, Strategy)):
        raise CatalogError(
            f"{name!r} ({origin}) is {type(loaded).__name__} {printable(repr(loaded))[:80]}, "
            "not a subclass of kdcore.Strategy"
        )
    if loaded.api_version != API_VERSION:
        raise CatalogError(
            f"{name!r} ({origin}) is written for API {loaded.api_version}, "
            f"this kdcore has {API_VERSION}"
        )
    return loaded, origin


def agreed_task_weight(members: Iterable[Member]) -> float:
    """Return the task weight that all members' papers recommend; 1 where they disagree."""
    recommended = {member.strategy.recommended.task_weight for member in members}
    return recommended.pop() if len(recommended) == 1 else 1.0


def _members(
    entry: Entry, teachers: Collection[str], installed: Callable[[], Catalog]
) -> list[Member]:
    strategy, origin, config = _configured(entry, installed)
    weight = strategy.recommended.weight if config.weight is None else config.weight
    label = config.label or config.name
    if not teachers:
        raise ConfigError(f"strategy {label!r} needs a teacher, and there is none")
    if config.teacher == ALL_TEACHERS:
        share = scaled(weight, 1 / len(teachers))
        return [
            Member(
                f"{label}@{teacher}", strategy.with_settings(), share, teacher, origin, config.name
            )
            for teacher in teachers
        ]
    if config.teacher is None and len(teachers) > 1:
        raise ConfigError(
            f"strategy {label!r} does not say which teacher it learns from; set teacher to one of "
            f"{', '.join(teachers)}, or to {ALL_TEACHERS!r}"
        )
    teacher = config.teacher or next(iter(teachers))
    if teacher not in teachers:
        raise ConfigError(f"strategy {label!r}: {unknown('teacher', teacher, teachers)}")
    return [Member(label, strategy, weight, teacher, origin, config.name)]


def _configured(
    entry: Entry, installed: Callable[[], Catalog]
) -> tuple[Strategy, Origin, StrategyConfig]:
    if isinstance(entry, Strategy):
        return entry, UNPACKAGED, StrategyConfig(name=type(entry).__name__.lower())
    config, cls = _read(entry)
    origin = UNPACKAGED
    if cls is None:
        cls, origin = load_strategy(config.name, installed())
    where = f"strategy {config.label or config.name!r}"
    for key in config.settings:
        if key not in cls.Settings.model_fields:
            known = [*cls.Settings.model_fields, *RESERVED]
            raise ConfigError(f"{where}: {unknown('key', key, known)}")
    try:
        return cls(**config.settings), origin, config
    except ConfigError as error:
        raise ConfigError(f"{where}: {str(error).partition(': ')[2]}") from None


def _read(entry: object) -> tuple[StrategyConfig, type[Strategy] | None]:
    """Return an entry as it would stand in a file, and its class where it brings one."""
    if isinstance(entry, StrategyConfig):
        return entry, None
    if isinstance(entry, str | type):
        entry = {"name": entry}
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{entry!r} is no strategy: expected a name, a mapping or a Strategy")
    found = entry.get("name")
    if isinstance(found, type) and issubclass(found, Strategy):
        return _parsed({**entry, "name": found.__name__.lower()}), found
    return _parsed(entry), None


def _parsed(entry: Mapping[str, Any]) -> StrategyConfig:
    try:
        return StrategyConfig.model_validate(dict(entry))
    except ValidationError as error:
        where = f"strategy {entry.get('name', '')!r}"
        raise ConfigError(describe_validation(error, where, StrategyConfig)) from None
