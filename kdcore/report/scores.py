"""The first part of the page: what came out, what it costs, what was exported, learning curves."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from kdcore.files import size_text
from kdcore.job import best_on_validation
from kdcore.report.columns import (
    NOTHING,
    cost_columns,
    fewer_pairs,
    lay_out,
    mean_text,
    p_value,
    score_columns,
)
from kdcore.report.figures import COLOURS, Series, curves, differences, prices
from kdcore.report.folder import shipment_of
from kdcore.report.html import Section, details, figure, grid, paragraph, table, warning
from kdcore.report.rows import Entry, Row, Sheet
from kdcore.report.table import caption, time_notes
from kdcore.statistics import Summary
from kdcore.tasks import Metric

MANY = 5
"""From so many intervals on, one that misses by chance is to be expected."""

LEVEL = 0.05
"""Below it a corrected p-value tells a candidate from the student alone."""

RELATED = {"teacher": "ink dashed", "alone": "soft"}
"""Kinds of the lines of those that are no candidates."""

CHOICE = (
    "The last weights are those after the last epoch. The best weights are those with the best "
    "score on the validation split, of equal ones the first; nothing was chosen on the test "
    "samples."
)
LAST = (
    "The last weights, those after the last epoch: there was no validation split to choose others "
    "on, and nothing was chosen on the test samples."
)


def verdicts(sheet: Sheet) -> list[str]:
    """Say of each candidate in a sentence how it stands to the student alone."""
    metric = sheet.metric
    if metric is None:
        return []
    found = []
    for row in sheet.rows:
        difference, p = row.first(row.differences), row.p_holm
        if row.role != "candidate" or difference is None:
            continue
        unit = " points" if metric.unit == "%" else ""
        text = f"{row.title}: {difference.mean:+z{metric.form}}{unit} {metric.name}"
        if difference.interval is None:
            found.append(
                f"{text} in one pair of runs, which says little about the next."
                if not difference.equal
                else f"{text}, the same with every seed, which leaves no spread to judge it by."
            )
            continue
        low, high = difference.interval
        text += f" (95 % interval {low:+z{metric.form}} to {high:+z{metric.form}}"
        corrected = f", p {p_value(row.p_holm)} corrected for several candidates"
        text += f"{corrected if row.family > 1 else ''})"
        found.append(f"{text}: {_verdict(difference, p, metric)}.")
    return found


def _told(difference: Summary, p_holm: float | None) -> bool:
    """Say whether a difference is none by chance alone, by its interval and corrected p-value."""
    assert difference.interval is not None
    low, high = difference.interval
    return not low <= 0 <= high and (p_holm is None or p_holm < LEVEL)


def _verdict(difference: Summary, p: float | None, metric: Metric) -> str:
    if not _told(difference, p):
        return "cannot be told from the student alone with these seeds"
    better = (difference.mean > 0) == metric.higher_is_better
    return f"{'better' if better else 'worse'} than the student alone"


def chosen(sheet: Sheet) -> str | None:
    """Say which row the validation split chooses, and how it does on the test samples."""
    metric = sheet.metric
    rows = {
        row.title: row for row in sheet.rows if row.validation is not None and row.role != "teacher"
    }
    best = best_on_validation((entry.title, entry.result) for entry in sheet.entries)
    if metric is None or best is None or len(rows) < 2:
        return None
    row = rows[best.row]
    score = row.first(row.best)
    if score is None:
        return None
    return (
        f"The validation split chooses {row.title} ({best.mean:{metric.form}} there): "
        f"{mean_text(score, metric.form)}{' %' if metric.unit else ''} {metric.name} on the test "
        "samples with its best weights."
    )


def sections(sheet: Sheet) -> list[Section]:
    """Return this part's sections."""
    found = [
        Section("results", "Results", _results(sheet)),
        Section("costs", "What it costs", _costs(sheet)),
    ]
    if exported := _exported(sheet.entries):
        found.append(Section("exported", "Exported files", exported))
    if learned := _learned(sheet):
        found.append(Section("curves", "Learning curves", learned))
    return found


def _results(sheet: Sheet) -> str:
    parts = [warning(text) for text in sheet.warnings]
    metric, rows = sheet.metric, sheet.rows
    candidates = [row for row in rows if row.role == "candidate"]
    known = [(row, each) for row in candidates if (each := row.first(row.differences))]
    if known and metric is not None:
        unit = "percentage points" if metric.unit == "%" else metric.heading
        shown = [(row.title, each, _kind(row, each, metric)) for row, each in known]
        told = f"Difference in {metric.name} to the student alone, paired by seed"
        several = any(each.interval for _, each in known)
        told += f": {_shown(each for _, each in known)}."
        drawing = differences(shown, unit, metric.form)
        said = "".join(paragraph(text) for text in verdicts(sheet)) if len(known) <= MANY else ""
        if len(known) > MANY and several:
            said = paragraph(
                f"Of {len(known)} intervals of 95 %, one in twenty misses the true difference by "
                f"chance alone. Corrected for that (Holm), {_told_apart(rows)} can be told from "
                "the student alone."
            )
        parts.append(f'<div class="glance">{figure(drawing, "differences", told)}<div>{said}')
        parts.append((paragraph(text) if (text := chosen(sheet)) else "") + "</div></div>")
    names, lines = lay_out(score_columns(sheet), sheet.rows)
    parts.append(table(names, lines, "Scores on the test samples"))
    about = caption(sheet)
    parts.append(paragraph(f"{about[:1].upper()}{about[1:]}.", "note"))
    if metric is not None:
        chose = any(row.first(row.best) for row in rows)
        parts.append(paragraph(CHOICE if chose else LAST, "note"))
    return "".join(parts)


def _told_apart(rows: Sequence[Row]) -> str:
    """Name the candidates whose difference remains when it is corrected for all of them."""
    found = [row.title for row in rows if row.p_holm is not None and row.p_holm < LEVEL]
    return ", ".join(found) or "none of them"


def _shown(differences: Iterable[Summary]) -> str:
    """Say what is drawn of differences."""
    found = list(differences)
    parts = ["mean and 95 % interval" if any(each.interval for each in found) else "mean"]
    if any(each.equal for each in found):
        parts.append("differences that are equal with every seed have no interval")
    if any(each.sd is None for each in found):
        parts.append("one pair has no interval")
    return "; ".join(parts)


def _kind(row: Row, difference: Summary, metric: Metric) -> str:
    """Return the colour of a difference: plain where it may be none."""
    if difference.interval is None or not _told(difference, row.p_holm):
        return "soft"
    return "c2" if (difference.mean > 0) == metric.higher_is_better else "c1"


def _costs(sheet: Sheet) -> str:
    names, lines = lay_out(cost_columns(), sheet.rows)
    note = (
        "Multiply-accumulates of matrix products and convolutions, and the time of a forward pass "
        "(median, and what 95 of 100 passes keep to), of one sample in 32-bit numbers on the "
        "machine that trained. A student is timed once, in turns with the first teacher that was "
        "trained or measured beside it; what another start of the program timed met other load. "
        "The size is that of the weights as they are saved. Training is from the first step to "
        "the last evaluation, without the teacher's own and without asking it once for answers "
        "that are kept: beside other work on the machine it takes longer. It is divided by that "
        "of the student alone only where one machine trained both."
    )
    told = [note, *(f"{text[:1].upper()}{text[1:]}." for text in time_notes(sheet))]
    shown = table(names, lines, "Costs") + "".join(paragraph(text, "note") for text in told)
    metric, points = sheet.metric, priced(sheet)
    if metric is None or not points:
        return shown
    listed = ", ".join(f"{place} {title}" for place, (title, *_) in enumerate(points, 1))
    caption = f"{listed}; at 1 × and 0 the student alone; lines are 95 % intervals."
    return shown + figure(prices(points, metric.heading), "gains", caption)


def cost_notes(sheet: Sheet) -> list[str]:
    """Say what is drawn to the right of a gain, and what is not."""
    notes = ["seconds of training, × student alone"]
    if asked := sheet.teacher_seconds:
        notes.append(f"(asking teachers once for all runs took {asked:.1f} seconds more)")
    rows = [row for row in sheet.rows if row.role == "candidate" and row.first(row.differences)]
    if apart := [row.title for row in rows if row.times is None]:
        notes.append(f"left out, trained on another machine: {', '.join(apart)}")
    if fewer := [f"{row.title} ({pairs})" for row in rows if (pairs := fewer_pairs(row))]:
        notes.append(f"seconds of fewer pairs than the gain: {', '.join(fewer)}")
    return notes


def priced(sheet: Sheet) -> list[tuple[str, float, Summary]]:
    """Return candidates with what they cost and gain; nothing where there are no two of them."""
    points = [
        (row.title, row.times.mean, difference)
        for row in sheet.rows
        if row.role == "candidate"
        and row.times is not None
        and (difference := row.first(row.differences)) is not None
    ]
    return points if len(points) > 1 else []


def _exported(entries: Sequence[Entry]) -> str:
    parts = []
    for entry in entries:
        shipment = shipment_of(entry.result)
        if shipment is None:
            continue
        metrics = [each for each in shipment.metrics if each.name in shipment.scores]
        names = ["file", "format", "size", *(each.heading for each in metrics)]
        names += ["same class as the student (%)", "largest difference of a logit"]
        names += ["latency p50 (ms)", "p95 (ms)", "run by"]
        lines = [
            [
                file.name,
                file.format,
                size_text(file.bytes),
                *(_score(file.scores, each) for each in metrics),
                NOTHING if file.agreement is None else f"{file.agreement:.2f}",
                f"{file.max_difference:.1e}",
                f"{file.latency_p50_ms:.2f}",
                f"{file.latency_p95_ms:.2f}",
                file.runtime,
            ]
            for file in shipment.files
        ]
        own = [
            "student in PyTorch",
            NOTHING,
            NOTHING,
            *(_score(shipment.scores, e) for e in metrics),
        ]
        times = [_ms(shipment.latency_p50_ms), _ms(shipment.latency_p95_ms)]
        lines.insert(0, [*own, NOTHING, NOTHING, *times, NOTHING])
        title = f"{entry.title}, seed {entry.result.seed}, {shipment.weights} weights"
        calibrated = shipment.calibrated_on
        parts += [
            f"<h3>{escape(title)}</h3>",
            table(names, lines, f"Exported files of {title}", {1, len(names) - 1}),
            paragraph(
                "Scores and latency are those of the exported files themselves, each loaded again "
                f"and run on the {shipment.samples:,} test samples, one at a time for latency, on "
                f"{shipment.machine}. Latencies were measured in turns, so that load meets all "
                "alike; those of another table or file are of another time, and perhaps of an "
                "accelerator. A file normalises the image itself, which the student in PyTorch "
                "is given ready."
                + (
                    f" int8 was calibrated on {calibrated:,} training samples."
                    if calibrated
                    else ""
                ),
                "note",
            ),
        ]
    return "".join(parts)


def _ms(latency: float | None) -> str:
    return NOTHING if latency is None else f"{latency:.2f}"


def _score(scores: Mapping[str, float], metric: Metric) -> str:
    return format(scores[metric.name], metric.form) if metric.name in scores else NOTHING


def mean_curve(entries: Sequence[Entry], metric: Metric | None) -> tuple[tuple[float, float], ...]:
    """Return a row's score by epoch, mean over its runs; without a score the loss."""
    runs = [entry.result.epochs for entry in entries if entry.result.epochs]
    # Runs of several folders may have different lengths.
    epochs = zip(*runs, strict=False)
    return tuple(
        (float(epoch), sum(_drawn(record, metric) for record in records) / len(records))
        for epoch, records in enumerate(epochs, 1)
    )


def _drawn(record: Mapping[str, Any], metric: Metric | None) -> float:
    return float(record["scores"][metric.name] if metric else record["loss"])


def _learned(sheet: Sheet) -> str:
    found = []
    for metric in (sheet.metric, None) if sheet.metric else (None,):
        name = f"test {metric.heading}" if metric else "training loss"
        lines = _series(sheet, metric)
        if not lines:
            continue
        title = f"{name[:1].upper()}{name[1:]}"
        seeds = ", ".join(map(str, sheet.seeds))
        one = f"seed {seeds}" if len(sheet.seeds) == 1 else f"one run a row, of seeds {seeds}"
        several = "mean over seeds" if sheet.repeated else one
        found += _figures(lines, title, name, several, "score" if metric else "loss")
    if not found:
        return ""
    few = len(found) <= 2
    return grid(found) if few else details(f"{len(found)} figures", grid(found), shown=True)


def _series(sheet: Sheet, metric: Metric | None) -> list[tuple[Row, Series]]:
    found, used = [], 0
    for row in sheet.rows:
        # Losses of a student are compared with those of no teacher: they are of other terms.
        points = mean_curve(sheet.of_row(row.title), metric)
        if not points or (metric is None and row.role == "teacher"):
            continue
        kind = RELATED.get(row.role) or f"c{used % COLOURS}"
        used += row.role == "candidate"
        found.append((row, Series(row.title, points, kind)))
    return found


def _figures(
    lines: Sequence[tuple[Row, Series]], title: str, name: str, several: str, kind: str
) -> list[str]:
    """Return one figure, or one a candidate where there are too many for one."""
    candidates = [each for row, each in lines if row.role == "candidate"]
    others = [each for row, each in lines if row.role != "candidate"]
    if len(candidates) <= COLOURS and len(others) <= 3:
        shown = [each for _, each in lines]
        return [
            figure(curves(shown, title, "epoch", name), f"curve-{kind}", f"{title}, {several}.")
        ]
    if kind == "loss":
        return []
    return [
        figure(
            curves(
                [*others[:3], Series(each.label, each.points, "c0")],
                f"{title}: {each.label}",
                "epoch",
                name,
            ),
            f"curve-{kind}-{index}",
        )
        for index, each in enumerate(candidates)
    ]


def summary_lines(sheet: Sheet) -> list[str]:
    """Return what came out in sentences, for Markdown."""
    text = chosen(sheet)
    return [*verdicts(sheet), *([text] if text else [])]
