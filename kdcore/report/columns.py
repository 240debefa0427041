"""The columns of a report's tables: what heads each, and what it says of a row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from kdcore.costs import Costs
from kdcore.files import size_text
from kdcore.report.rows import Row, Sheet
from kdcore.statistics import Summary
from kdcore.tasks import Metric

NOTHING = "–"

EQUAL = "equal, no interval"
"""What is said of differences that are the same with every seed."""

NO_SCORE = Metric("score")
"""What heads the empty column of a task without scores."""

Value = str | float | int | None
Cell = TypeVar("Cell")
Laid = tuple[tuple[str, ...], list[tuple[Cell, ...]]]


@dataclass(frozen=True)
class Column(Generic[Cell]):
    """A column of a table.

    Attributes:
        heading: what heads it.
        cell: what it says of a row.
    """

    heading: str
    cell: Callable[[Row], Cell]


def lay_out(columns: Sequence[Column[Cell]], rows: Sequence[Row]) -> Laid[Cell]:
    """Return what heads some columns, and their lines of cells, one a row."""
    lines = [tuple(column.cell(row) for column in columns) for row in rows]
    return tuple(column.heading for column in columns), lines


def mean_text(summary: Summary | None, form: str) -> str:
    """Write a mean, with the standard deviation of several values that are not all the same."""
    if summary is None:
        return NOTHING
    text = format(summary.mean, form)
    spread = summary.sd is not None and not summary.equal
    return f"{text} ± {format(summary.sd, form)}" if spread else text


def difference_text(summary: Summary | None, form: str) -> str:
    """Write a mean difference, with its interval, or why several have none."""
    if summary is None:
        return NOTHING
    text = format(summary.mean, f"+z{form}")
    if summary.interval is None:
        return f"{text} ({EQUAL})" if summary.equal else text
    low, high = summary.interval
    return f"{text} ({low:+z{form}} to {high:+z{form}})"


def p_value(p: float | None) -> str:
    """Write a p-value, where there is one."""
    if p is None:
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def with_p(rows: Sequence[Row]) -> bool:
    """Say whether a table of some rows has corrected p-values: of one candidate nothing is."""
    return any(row.family > 1 for row in rows)


P_HOLM = "p (Holm)"
BEST = "best weights: "
TITLE = Column[str]("", lambda row: row.title)
CORRECTED = Column[str](P_HOLM, lambda row: p_value(row.p_holm))
LOSS = Column[str]("training loss", lambda row: mean_text(row.loss, ".4f"))


@dataclass(frozen=True)
class _Weights:
    """Which of a row's weights are scored: the last, or the best on the validation split."""

    best: bool

    def score(self, row: Row, metric: Metric) -> Summary | None:
        return (row.best if self.best else row.scores).get(metric.name)

    def difference(self, row: Row, metric: Metric) -> Summary | None:
        return (row.best_differences if self.best else row.differences).get(metric.name)

    def score_column(self, metric: Metric, heading: str | None = None) -> Column[str]:
        heading = metric.heading if heading is None else heading
        return Column(heading, lambda row: mean_text(self.score(row, metric), metric.form))

    def difference_column(self, metric: Metric, heading: str = "to student alone") -> Column[str]:
        return Column(
            heading, lambda row: difference_text(self.difference(row, metric), metric.form)
        )


_LAST, _CHOSEN = _Weights(best=False), _Weights(best=True)


def _metrics(sheet: Sheet) -> tuple[Metric, list[Metric]]:
    first, *others = sheet.metrics or (NO_SCORE,)
    return first, others


def _chosen(rows: Sequence[Row]) -> bool:
    return any(row.first(row.best) for row in rows)


def _last_columns(
    rows: Sequence[Row], first: Metric, others: Sequence[Metric]
) -> list[Column[str]]:
    return [
        TITLE,
        _LAST.score_column(first),
        _LAST.difference_column(first),
        *([CORRECTED] if with_p(rows) else []),
        *map(_LAST.score_column, others),
    ]


def short_columns(sheet: Sheet) -> list[Column[str]]:
    """Return the columns of the table that is shown first."""
    rows, (first, others) = sheet.rows, _metrics(sheet)
    columns = [
        *_last_columns(rows, first, others),
        LOSS,
        Column("seconds", lambda row: mean_text(row.seconds, ".1f")),
    ]
    if _chosen(rows):
        unit = f" ({first.unit})" if first.unit else ""
        columns.append(_CHOSEN.score_column(first, f"of the best weights{unit}"))
    return columns


def score_columns(sheet: Sheet) -> list[Column[str]]:
    """Return the columns of all scores, of the last weights and of the best."""
    rows, (first, others) = sheet.rows, _metrics(sheet)
    columns = _last_columns(rows, first, others)
    if _chosen(rows):
        columns += [
            _CHOSEN.score_column(first, f"{BEST}{first.heading}"),
            _CHOSEN.difference_column(first, f"{BEST}to student alone"),
            *(_CHOSEN.score_column(each, f"{BEST}{each.heading}") for each in others),
        ]
    return [*columns, LOSS]


def cost_columns() -> list[Column[str]]:
    """Return the columns of what each row's model costs, and its training."""
    return [
        TITLE,
        _cost("parameters", lambda costs: f"{costs.parameters:,}"),
        _cost("multiply-accumulates", _macs),
        _cost("latency (ms)", lambda costs: f"{costs.latency_ms:.2f}"),
        _cost("95 % within (ms)", lambda costs: f"{costs.latency_p95_ms:.2f}"),
        _cost("size", lambda costs: size_text(costs.bytes)),
        Column("training (s)", lambda row: mean_text(row.seconds, ".1f")),
        Column("training, × student alone", _times),
    ]


def _cost(heading: str, said: Callable[[Costs], str]) -> Column[str]:
    return Column(heading, lambda row: NOTHING if row.costs is None else said(row.costs))


def _macs(costs: Costs) -> str:
    return NOTHING if costs.macs is None else f"{costs.macs:,}"


def _times(row: Row) -> str:
    if row.role == "alone":
        return "1"
    text, of = mean_text(row.times, ".2f"), fewer_pairs(row)
    return f"{text} ({of})" if of else text


def fewer_pairs(row: Row) -> str:
    """Write of how many pairs a row's factor of seconds is, where its gain is of more."""
    times, gain = row.times, row.difference
    if times is None or gain is None or times.count == gain.count:
        return ""
    return f"{times.count} of {gain.count} pairs"


def value_columns(sheet: Sheet) -> list[Column[Value]]:
    """Return the columns of the whole table for programs: means, deviations and bounds apart."""
    counts = {title: len(sheet.of_row(title)) for title in sheet.titles}
    columns: list[Column[Value]] = [
        Column("row", lambda row: row.title),
        Column("runs", lambda row: counts[row.title]),
    ]
    for metric in sheet.metrics:
        columns += _score_values(metric, _LAST, metric.heading)
        columns += _score_values(metric, _CHOSEN, f"best weights {metric.heading}")
    return [
        *columns,
        Column(P_HOLM, lambda row: row.p_holm),
        *_mean_and_sd("training loss", lambda row: row.loss),
        *_mean_and_sd("seconds", lambda row: row.seconds),
        Column("teacher seconds of all runs", lambda row: row.teacher_seconds),
        _of_summary("seconds relative to student alone", _factor, lambda each: each.mean),
        _of_summary("pairs of these seconds", _factor, lambda each: each.count),
        _cost_value("parameters", lambda costs: costs.parameters),
        _cost_value("multiply-accumulates", lambda costs: costs.macs),
        _cost_value("latency ms", lambda costs: costs.latency_ms),
        _cost_value("latency p95 ms", lambda costs: costs.latency_p95_ms),
        _cost_value("bytes", lambda costs: costs.bytes),
        Column("origin", lambda row: "; ".join(row.origins)),
    ]


Summarised = Callable[[Row], Summary | None]


def _factor(row: Row) -> Summary | None:
    return row.times


def _of_summary(heading: str, of: Summarised, value: Callable[[Summary], Value]) -> Column[Value]:
    def cell(row: Row) -> Value:
        summary = of(row)
        return None if summary is None else value(summary)

    return Column(heading, cell)


def _mean_and_sd(heading: str, of: Summarised) -> list[Column[Value]]:
    return [
        _of_summary(heading, of, lambda summary: summary.mean),
        _of_summary(f"{heading} sd", of, lambda summary: summary.sd),
    ]


def _score_values(metric: Metric, weights: _Weights, heading: str) -> list[Column[Value]]:
    def difference(row: Row) -> Summary | None:
        return weights.difference(row, metric)

    gain = f"{heading} difference"
    return [
        *_mean_and_sd(heading, lambda row: weights.score(row, metric)),
        *_mean_and_sd(gain, difference),
        _of_summary(f"{gain} low", difference, lambda each: each.interval and each.interval[0]),
        _of_summary(f"{gain} high", difference, lambda each: each.interval and each.interval[1]),
        _of_summary(f"{gain} p", difference, lambda each: each.p),
    ]


def _cost_value(heading: str, value: Callable[[Costs], Value]) -> Column[Value]:
    return Column(heading, lambda row: None if row.costs is None else value(row.costs))
