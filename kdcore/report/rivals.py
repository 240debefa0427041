"""Candidates held against one of them instead of the student alone."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from kdcore.errors import UserError, unknown
from kdcore.report.columns import P_HOLM, difference_text, p_value
from kdcore.report.rows import Entry, Sheet, last_score, of_pairs
from kdcore.report.table import for_terminal
from kdcore.statistics import Summary, holm
from kdcore.tasks import Metric


@dataclass(frozen=True)
class Rival:
    """How a candidate stands to another.

    Attributes:
        title: of its row.
        difference: to the other, paired by seed.
        p_holm: the p-value of the paired t test, corrected by Holm for how many candidates are
            tested against the other; None where there is none.
    """

    title: str
    difference: Summary
    p_holm: float | None = None


@dataclass(frozen=True)
class Rivals:
    """How candidates stand to one of them.

    Attributes:
        title: of the one's row.
        metric: the score that they are compared by.
        rows: the others.
    """

    title: str
    metric: Metric
    rows: tuple[Rival, ...]

    @classmethod
    def of(cls, sheet: Sheet, title: str) -> "Rivals":
        """Hold all other candidates against one.

        Args:
            sheet: the runs.
            title: of the one's row.

        Raises:
            UserError: there is no such candidate, no score, or no other that it makes pairs with.
        """
        candidates = [row.title for row in sheet.rows if row.role == "candidate"]
        if title not in candidates:
            raise UserError(f"--against: {unknown('candidate', title, candidates)}")
        metric = sheet.metric
        if metric is None:
            raise UserError("--against: the task has no score to compare by")
        base = sheet.of_row(title)
        found = {
            other: difference
            for other in candidates
            if other != title
            and (difference := _difference(sheet.of_row(other), base, metric)) is not None
        }
        if not found:
            raise UserError(
                f"--against {title}: no other candidate has a run of the same seed that began and "
                "was trained on the same data likewise"
            )
        tested = {other: each.p for other, each in found.items() if each.p is not None}
        corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
        rows = (Rival(other, each, corrected.get(other)) for other, each in found.items())
        return cls(title, metric, tuple(rows))

    def for_terminal(self) -> Table:
        """Lay the table out for a terminal."""
        tested = sum(row.p_holm is not None for row in self.rows)
        told = "difference paired by seed"
        if any(row.difference.interval for row in self.rows):
            told += " with 95 % interval"
        if tested > 1:
            told += f"; p of paired t tests, corrected by Holm over {tested} candidates"
        elif tested:
            told += "; p of the paired t test"
        lines: list[tuple[str, ...]] = [
            (
                row.title,
                difference_text(row.difference, self.metric.form),
                str(row.difference.count),
                p_value(row.p_holm),
            )
            for row in self.rows
        ]
        names = ("", f"{self.metric.heading}, to {self.title}", "pairs")
        return for_terminal(((*names, P_HOLM if tested > 1 else "p"), lines), told)


def _difference(own: Sequence[Entry], base: Sequence[Entry], metric: Metric) -> Summary | None:
    return of_pairs(
        (last_score(one.result, metric.name), last_score(other.result, metric.name))
        for one in own
        for other in base
        if (one.pairing, one.result.seed) == (other.pairing, other.result.seed)
    )
