"""Runs for a report from the folders that they are in: of comparisons, of single runs, of several.

Runs of one place are paired with its student alone. Across places rows are one where their settings
are equal, and pairs are made where data, start and training are.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from kdcore import configfile, joblist
from kdcore.comparison import COMPARISON
from kdcore.errors import ConfigError, UserError
from kdcore.files import read_json
from kdcore.fingerprint import ENVIRONMENT, fingerprint_of_facts
from kdcore.job import CONFIG, RESULT, ROWS, STUDENT, RunResult
from kdcore.joblist import RECORDS, Student
from kdcore.report.folder import facts_of, moved, read_result, result_in
from kdcore.report.rows import TITLES, Entry, Sheet
from kdcore.teachers import TEACHER

OF_ONE_RUN = frozenset({"name", "seed", "start", "teachers", "data"}) | ENVIRONMENT
"""Facts in which the runs of one row may differ; the data are told apart."""

PAIRED = ("data", "start", "train", "augment", "task")
"""Facts that a run and the student alone that it is held against have in common."""

SHOWN = 8
"""Signs of a hash that are shown."""


@dataclass(frozen=True)
class Gathered:
    """What there is to report.

    Attributes:
        title: of the report.
        about: lines that say what was compared.
        sheet: the runs.
        missing: students of comparisons that are not finished.
    """

    title: str
    about: tuple[str, ...]
    sheet: Sheet
    missing: tuple[Student, ...]


@dataclass(frozen=True)
class _Place:
    """What one folder has."""

    name: str
    title: str
    about: tuple[str, ...]
    results: tuple[RunResult, ...]
    missing: tuple[Student, ...] = ()


@dataclass(frozen=True)
class _Run:
    """One run, and what is known of how it came about."""

    result: RunResult
    place: str

    @cached_property
    def facts(self) -> Mapping[str, Any]:
        return facts_of(self.result) if self.result.role != "teacher" else {}

    @property
    def key(self) -> str | None:
        """What it is known by where it is known whole."""
        return fingerprint_of_facts(self.facts) if self.facts else None

    @property
    def data(self) -> str | None:
        found = self.facts.get("data")
        return found if isinstance(found, str) else None

    @property
    def row(self) -> tuple[str, str]:
        """What the runs of one row have in common."""
        if not self.facts:
            return self.result.name, self.place
        alike = {name: value for name, value in self.facts.items() if name not in OF_ONE_RUN}
        both = {**alike, "data": self.data, "models": self._models}
        return self.result.name, fingerprint_of_facts(both)

    @property
    def _models(self) -> Mapping[str, object]:
        """Who learns and who teaches, but for the files that weights lie in."""
        try:
            tree = configfile.read_file(Path(self.result.folder) / CONFIG)
        except ConfigError:  # of before it was written, or not there any more
            return {}
        teachers = tree.get("teachers") or {TEACHER: tree.get("teacher")}
        sections = {
            STUDENT: tree.get("student"),
            **(teachers if self.facts.get("teachers") else {}),
        }
        return {
            name: {key: each for key, each in (section or {}).items() if key != "weights"}
            for name, section in sections.items()
        }

    @property
    def pairing(self) -> str:
        """What runs have in common that are held against one another."""
        return json.dumps([self.facts.get(name) for name in PAIRED], sort_keys=True)


def gather(folders: Sequence[Path]) -> Gathered:
    """Read the runs of some folders, those of a comparison or of single runs.

    Raises:
        UserError: there is nothing in one of them, or scores are of different tasks.
    """
    places = [_read(folder, _names(folders)[place]) for place, folder in enumerate(folders)]
    if len(places) == 1 and (folders[0] / COMPARISON).is_file():
        (place,) = places
        sheet = _unequal_seeds(Sheet.of(place.results))
        return Gathered(place.title, place.about, sheet, place.missing)
    sheet = _unequal_seeds(_joined(places))
    missing = tuple(each for place in places for each in place.missing)
    if len(places) == 1:
        return Gathered(places[0].title, places[0].about, sheet, missing)
    about = tuple(f"{place.name}: {line}" for place in places for line in place.about)
    names = ", ".join(place.name for place in places)
    return Gathered(f"kdcore report: {names}", about, sheet, missing)


def _names(folders: Sequence[Path]) -> list[str]:
    """Return what the folders are called: their last names, whole paths where these are equal."""
    short = [folder.resolve().name for folder in folders]
    return [
        name if short.count(name) == 1 else str(folder)
        for name, folder in zip(short, folders, strict=True)
    ]


def _read(folder: Path, name: str) -> _Place:
    if (folder / COMPARISON).is_file():
        return _comparison(folder, name)
    if (own := read_result(folder)) is not None:
        return _run(folder, name, own)
    runs = [
        _run(file.parent, name, own)
        for file in sorted(folder.glob(f"*/{RESULT}"))
        if (own := read_result(file.parent)) is not None and own.role != "teacher"
    ]
    if not runs:
        raise UserError(
            f"{folder} is no folder of a comparison: it has no {COMPARISON}; nor of a run that is "
            f"finished, which would have {RESULT}"
        )
    results = dict.fromkeys(_Once(each) for run in runs for each in run.results)
    about = dict.fromkeys(line for run in runs for line in run.about)
    title = f"kdcore run: {folder.resolve().name}"
    return _Place(name, title, tuple(about), tuple(each.result for each in results))


@dataclass(frozen=True, eq=False)
class _Once:
    """A result that is the same as another of equal folder, seed and scores."""

    result: RunResult

    def _said(self) -> str:
        own = self.result
        return json.dumps([own.name, own.seed, own.folder, own.scores, own.origin], sort_keys=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Once) and self._said() == other._said()

    def __hash__(self) -> int:
        return hash(self._said())


def _comparison(folder: Path, name: str) -> _Place:
    file = folder / COMPARISON
    config = configfile.as_comparison(configfile.read_file(file), str(file))
    found = joblist.join(folder, file.read_bytes(), config)
    results = tuple(moved(each, folder) for each in found.results)
    title = _said_title(folder) or f"kdcore compare: {folder.resolve().name}"
    return _Place(name, title, found.about, results, found.missing)


def _said_title(folder: Path) -> str | None:
    known = read_json(folder / ROWS)
    title = known.get("title") if isinstance(known, dict) else None
    return title if isinstance(title, str) else None


def _run(folder: Path, name: str, own: RunResult) -> _Place:
    """Return a run and its teachers, which its report names, or the comparison that it is of."""
    here = folder.resolve()
    own = replace(own, folder=str(folder))
    own = replace(own, outcome=moved(own, here.parent).outcome)
    title = _said_title(folder) or f"kdcore run: {own.name}"
    for file in (folder / ROWS, *sorted((here.parent / RECORDS).glob("*.json"))):
        known = read_json(file)
        if not isinstance(known, dict):
            continue
        written = [result_in(each) for each in known.get("rows") or known.get("results") or ()]
        results = [each for each in written if each is not None]
        if not results or not _same(results[-1], own, here.name):
            continue
        about = tuple(map(str, known.get("about") or ()))
        teachers = [moved(each, here.parent) for each in results[:-1]]
        return _Place(name, title, about, (*teachers, own))
    return _Place(name, title, (), (own,))


def _same(written: RunResult, own: RunResult, folder: str) -> bool:
    known = (written.name, written.seed, Path(written.folder).name)
    return known == (own.name, own.seed, folder)


def _joined(places: Sequence[_Place]) -> Sheet:
    runs = _without_doubles([_Run(each, place.name) for place in places for each in place.results])
    runs = _of_equal_scores(runs)
    data: dict[str, str] = {}  # a place of each
    for run in runs:
        if run.data is not None:
            data.setdefault(run.data, run.place)
    warnings = []
    if len(data) > 1:
        told = ", ".join(f"{place} ({key[:SHOWN]})" for key, place in data.items())
        warnings.append(
            f"not all rows are of the same data: {told}. Their scores are of different samples or "
            "images and do not compare; each row is held against a student alone of its own data."
        )
    titles = _titles(runs, apart=len(data) > 1)
    entries = [
        Entry(
            run.result, title, _alone(run, runs), run.place, run.pairing if run.facts else run.place
        )
        for run, title in zip(runs, titles, strict=True)
    ]
    # The teachers of all first, then the students alone, in the order of the folders.
    order = {"teacher": 0, "alone": 1, "candidate": 2}
    entries.sort(key=lambda entry: order[entry.role])
    return Sheet(tuple(entries), tuple(warnings))


def _without_doubles(runs: Iterable[_Run]) -> list[_Run]:
    found: dict[object, _Run] = {}
    for place, run in enumerate(runs):
        found.setdefault(run.key or place, run)
    return list(found.values())


def _of_equal_scores(runs: Sequence[_Run]) -> list[_Run]:
    """Return runs whose scores stand in one order.

    Raises:
        UserError: they are of different tasks.
    """
    first = runs[0]
    for run in runs:
        if set(run.result.metrics) != set(first.result.metrics):
            told = [
                f"{each.place} ({', '.join(m.name for m in each.result.metrics) or 'no scores'})"
                for each in (first, run)
            ]
            raise UserError(
                f"{told[0]} and {told[1]} have different scores and make no table: report them one "
                "by one"
            )
    metrics = first.result.metrics
    return [_Run(replace(run.result, metrics=metrics), run.place) for run in runs]


def _titles(runs: Sequence[_Run], *, apart: bool) -> list[str]:
    """Return what the row of each run is called.

    Args:
        runs: the runs.
        apart: whether to say of every row which folder it is of.
    """
    rows = [run.row for run in runs]
    taken: dict[tuple[object, ...], int] = {}
    for place, run in enumerate(runs):  # two of one seed, of different machines, are no one row
        first = taken.setdefault((*rows[place], run.result.seed), place)
        if first != place:
            rows[place] = (run.result.name, f"{run.place} {run.key}")
    plain = [TITLES.get(run.result.name, run.result.name) for run in runs]
    first_of = {row: place for place, row in reversed(list(enumerate(rows)))}
    ambiguous = {
        title
        for title in plain
        if len({r for r, t in zip(rows, plain, strict=True) if t == title}) > 1
    }
    titled = {
        row: f"{plain[at]} ({runs[at].place})" if apart or plain[at] in ambiguous else plain[at]
        for row, at in first_of.items()
    }
    shared = Counter(titled.values())
    for row, at in first_of.items():
        if shared[titled[row]] > 1:
            titled[row] += f" {(runs[at].key or str(at))[:SHOWN]}"
    return [titled[row] for row in rows]


def _alone(run: _Run, runs: Sequence[_Run]) -> RunResult | None:
    """Return the student alone that a run is held against."""
    found = [
        each
        for each in runs
        if each.result.name == STUDENT
        and each.result.seed == run.result.seed
        and each.facts
        and each.pairing == run.pairing
    ]
    if run.facts:
        near = [each for each in found if each.place == run.place]
    else:  # a teacher, or a run that nothing is known of
        near = [
            each
            for each in runs
            if (each.result.name, each.result.seed, each.place)
            == (STUDENT, run.result.seed, run.place)
        ]
    return next((each.result for each in (*near, *found)), None)


def _unequal_seeds(sheet: Sheet) -> Sheet:
    """Warn where rows have different seeds."""
    seeds = {
        title: sorted({entry.result.seed for entry in sheet.of_row(title)})
        for title in sheet.titles
    }
    if len({tuple(each) for each in seeds.values()}) < 2:
        return sheet
    told = "; ".join(f"{title} {', '.join(map(str, each))}" for title, each in seeds.items())
    more = f"not every row has every seed: {told}"
    return replace(sheet, warnings=(*sheet.warnings, more))
