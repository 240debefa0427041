"""Candidates held against one of them instead of the student alone.

Two runs are a pair where they are of one seed and held against the same run of the student alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from kdcore.errors import UserError, unknown
from kdcore.report.columns import P_HOLM, difference_text, p_value
from kdcore.report.rows import Entry, Sheet
from kdcore.report.table import for_terminal
from kdcore.statistics import Summary, holm, paired
from kdcore.tasks import Metric


@dataclass(frozen=True)
class Rival:
    """How a candidate stands to another.

    Attributes:
        title: of its row.
        difference: in the score that counts, to the other, paired by seed.
        p_holm: its p-value, corrected by Holm for how many candidates are held against that one;
            None where there is none.
    """

    title: str
    difference: Summary
    p_holm: float | None = None


def rivals(sheet: Sheet, title: str) -> tuple[Rival, ...]:
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
    found = {}
    for other in candidates:
        pairs = _pairs(sheet.of_row(other), sheet.of_row(title), metric)
        if other != title and pairs:
            found[other] = paired(pairs)
    if not found:
        raise UserError(
            f"--against {title}: no other candidate has a run of the same seed that is held "
            "against the same student alone"
        )
    tested = {other: each.p for other, each in found.items() if each.p is not None}
    corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
    return tuple(Rival(other, each, corrected.get(other)) for other, each in found.items())


def _pairs(
    own: Sequence[Entry], others: Sequence[Entry], metric: Metric
) -> list[tuple[float, float]]:
    return [
        (one.result.scores[metric.name], other.result.scores[metric.name])
        for one in own
        for other in others
        if one.alone is not None
        and one.alone is other.alone
        and one.result.seed == other.result.seed
    ]


def rivals_table(found: Sequence[Rival], title: str, sheet: Sheet) -> Table:
    """Lay out for a terminal how candidates stand to one."""
    metric = sheet.metric
    assert metric is not None  # or there were no differences
    lines: list[tuple[str, ...]] = [
        (each.title, difference_text(each.difference, metric.form), p_value(each.p_holm))
        for each in found
    ]
    told = "paired by seed, with 95 % interval"
    if len(found) > 1:
        told += f"; p of paired t tests, corrected by Holm over {len(found)} candidates"
    heading = P_HOLM if len(found) > 1 else "p"
    return for_terminal((("", f"{metric.heading}, to {title}", heading), lines), told)
