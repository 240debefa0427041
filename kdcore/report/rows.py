"""The rows of a report: whose runs they are, and what these come to over their seeds.

How rows are written is in `table`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

from kdcore.costs import Costs
from kdcore.job import STUDENT, Role, RunResult, machines_of
from kdcore.statistics import Summary, holm, paired, summarise
from kdcore.tasks import Metric
from kdcore.teachers import TEACHER

TITLES = {TEACHER: "teacher", STUDENT: "student alone"}


@dataclass(frozen=True)
class Entry:
    """One run in a report.

    Attributes:
        result: what it came to.
        title: of its row.
        alone: the run of the student alone that it is held against; None where there is none.
        place: the folder that it is reported from, where there are several.
        pairing: what runs of one seed have in common that are held against one another.
    """

    result: RunResult
    title: str
    alone: RunResult | None = None
    place: str = ""
    pairing: str = ""

    @property
    def role(self) -> Role:
        """Whose run it is."""
        return self.result.role


@dataclass(frozen=True)
class Sheet:
    """The runs of a report, in order.

    Attributes:
        entries: one a run.
        warnings: what a reader must know before comparing them.
    """

    entries: tuple[Entry, ...]
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, results: "Sequence[RunResult] | Sheet") -> "Sheet":
        """Pair the runs of one comparison with its student alone, seed by seed."""
        if isinstance(results, Sheet):
            return results
        alone = {each.seed: each for each in results if each.name == STUDENT}
        return cls(
            tuple(
                Entry(each, TITLES.get(each.name, each.name), alone.get(each.seed))
                for each in results
            )
        )

    @property
    def results(self) -> list[RunResult]:
        """The runs themselves."""
        return [entry.result for entry in self.entries]

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Their scores, the one first that heads the report."""
        return self.entries[0].result.metrics

    @property
    def metric(self) -> Metric | None:
        """The score that heads the report; None where there is none."""
        return self.entries[0].result.metric

    @property
    def seeds(self) -> list[int]:
        """The seeds of its runs."""
        return list(dict.fromkeys(entry.result.seed for entry in self.entries))

    @property
    def repeated(self) -> bool:
        """Whether a row has several runs, so that there is a spread."""
        return len(self.titles) < len(self.entries)

    @property
    def titles(self) -> list[str]:
        """What its rows are called, in order."""
        return list(dict.fromkeys(entry.title for entry in self.entries))

    def of_row(self, title: str) -> list[Entry]:
        """Return the runs of a row."""
        return [entry for entry in self.entries if entry.title == title]

    @cached_property
    def rows(self) -> "tuple[Row, ...]":
        """What each row comes to, p-values corrected within each family of tests.

        A family is what is held against one row of the student alone: of folders that were trained
        in other ways each is a comparison of its own.
        """
        rows = [Row.of(self.of_row(title)) for title in self.titles]
        families: dict[frozenset[str], dict[str, float]] = {}
        for row in rows:
            difference = row.first(row.differences)
            if row.role == "candidate" and difference is not None and difference.p is not None:
                family = families.setdefault(self._held_against(row.title), {})
                family[row.title] = difference.p
        corrected = {
            title: (p, len(family))
            for family in families.values()
            for title, p in zip(family, holm(list(family.values())), strict=True)
        }
        found = [(row, *corrected.get(row.title, (None, 0))) for row in rows]
        return tuple(replace(row, p_holm=p, family=size) for row, p, size in found)

    def _held_against(self, title: str) -> frozenset[str]:
        """Return the rows of the student alone that a row is paired with."""
        paired_with = [entry.alone for entry in self.of_row(title)]
        return frozenset(
            entry.title
            for entry in self.entries
            if any(entry.result is each for each in paired_with)
        )

    @property
    def teacher_seconds(self) -> float:
        """What asking teachers once for all that is kept took, in all runs together."""
        return sum(result.teacher_seconds for result in self.results)

    @property
    def machines(self) -> list[str]:
        """What its runs were trained on, each once."""
        return machines_of(self.results)


@dataclass(frozen=True)
class Row:
    """What the runs of a row come to, over their seeds; None where there is nothing.

    Attributes:
        title: what it is called.
        role: whose runs they are.
        metrics: names of its scores, the one that counts first.
        scores: by name, on the test samples, of the last weights.
        differences: of these to the student alone, paired by seed.
        best: scores of the weights that were best on the validation split.
        best_differences: of these to the student alone's best, paired by seed.
        validation: score that counts of the best weights, on the validation split.
        loss: mean total loss of the last epoch.
        seconds: a run.
        times: seconds relative to those of the student alone, paired by seed, of the pairs that
            were trained on one machine.
        teacher_seconds: beside `seconds`, of asking teachers once for all, in all its runs.
        costs: of its model.
        origins: where its models' weights began.
        p_holm: of a candidate, the p-value of the difference in the score that counts, corrected
            by Holm for the number of candidates of its family; None where there is none.
        family: how many these are.
    """

    title: str
    role: Role
    metrics: tuple[Metric, ...]
    scores: Mapping[str, Summary | None]
    differences: Mapping[str, Summary | None]
    best: Mapping[str, Summary | None]
    best_differences: Mapping[str, Summary | None]
    validation: Summary | None
    loss: Summary | None
    seconds: Summary
    times: Summary | None
    teacher_seconds: float
    costs: Costs | None
    origins: tuple[str, ...]
    p_holm: float | None = None
    family: int = 0

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> Self:
        """Summarise the runs of a row."""
        runs, metrics = [entry.result for entry in entries], entries[0].result.metrics
        pairs = [
            (entry.result, entry.alone)
            for entry in entries
            if entry.alone is not None and entry.role != "alone"
        ]

        def over(score: Callable[[RunResult, str], float | None]) -> dict[str, Summary | None]:
            return {each.name: _over(score(run, each.name) for run in runs) for each in metrics}

        def against(score: Callable[[RunResult, str], float | None]) -> dict[str, Summary | None]:
            return {
                each.name: of_pairs(
                    (score(run, each.name), score(alone, each.name)) for run, alone in pairs
                )
                for each in metrics
            }

        known = [run.costs for run in runs if run.costs is not None]
        return cls(
            entries[0].title,
            entries[0].role,
            metrics,
            over(last_score),
            against(last_score),
            over(_best),
            against(_best),
            _over(run.validation_score for run in runs),
            _over(run.loss for run in runs),
            summarise([run.seconds for run in runs]),
            _over(
                run.seconds / alone.seconds
                for run, alone in pairs
                if alone.seconds and run.machine == alone.machine
            ),
            sum(run.teacher_seconds for run in runs),
            known[0] if known else None,
            tuple(dict.fromkeys(run.origin for run in runs)),
        )

    @property
    def score(self) -> Summary | None:
        """The score that counts, of the last weights."""
        return self.first(self.scores)

    @property
    def difference(self) -> Summary | None:
        """The difference in it to the student alone, paired by seed."""
        return self.first(self.differences)

    def first(self, of: Mapping[str, Summary | None]) -> Summary | None:
        """Return, of some scores, the one that counts; None where the task has none."""
        return of[self.metrics[0].name] if self.metrics else None


def last_score(run: RunResult, name: str) -> float | None:
    """Return a run's score of the last weights."""
    return run.scores.get(name)


def _best(run: RunResult, name: str) -> float | None:
    return run.best_scores.get(name) if run.best_scores else None


def of_pairs(pairs: Iterable[tuple[float | None, float | None]]) -> Summary | None:
    """Summarise the differences of pairs, of which those count that have two values."""
    known = [(own, base) for own, base in pairs if own is not None and base is not None]
    return paired(known) if known else None


def _over(values: Iterable[float | None]) -> Summary | None:
    known = [value for value in values if value is not None]
    return summarise(known) if known else None
