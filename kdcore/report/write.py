"""The files of a report: the page, the same in short as Markdown, the rows as JSON, the curves."""

import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from kdcore.files import write_bytes, write_json
from kdcore.job import MARKDOWN, ROWS, RunResult
from kdcore.report.columns import cost_columns, lay_out, score_columns
from kdcore.report.page import page
from kdcore.report.rows import Sheet
from kdcore.report.scores import CHOICE, cost_notes, mean_curve, priced, summary_lines
from kdcore.report.settings import origin_lines
from kdcore.report.study import Study
from kdcore.report.table import markdown_lines, markdown_table, markdown_text
from kdcore.report.trust import (
    AGREEMENT,
    CALIBRATION,
    agreement_lines,
    calibration_lines,
    drowned,
)

PAGE = "report.html"
CURVES = "curves.png"
GAINS = "gains.png"


def as_json(results: Sequence[RunResult] | Sheet) -> dict[str, object]:
    """Return a report for programs: ``rows``, one a run, as `RunResult` has it."""
    return {"rows": [asdict(result) for result in Sheet.of(results).results]}


def write_report(
    folder: Path, title: str, about: Sequence[str], results: Sequence[RunResult] | Sheet
) -> None:
    """Write ``report.html``, ``report.md``, ``report.json`` and its pictures into a folder.

    Args:
        folder: where to.
        title: of the report.
        about: lines that say what was compared.
        results: the runs.
    """
    sheet = Sheet.of(results)
    study = Study.of(sheet)
    write_json(folder / ROWS, {"title": title, "about": list(about), **as_json(sheet)})
    write_bytes(folder / CURVES, curves(sheet))
    if (drawn := gains(sheet)) is not None:
        write_bytes(folder / GAINS, drawn)
    write_bytes(folder / MARKDOWN, markdown(title, about, sheet, study).encode())
    write_bytes(folder / PAGE, page(title, about, sheet, study).encode())


def markdown(title: str, about: Sequence[str], sheet: Sheet, study: Study) -> str:
    """Return the report in short."""
    metric = sheet.metric
    shown = metric.name if metric else "training loss"
    facts = "\n".join(f"- {markdown_text(line)}" for line in about)
    parts = [f"# {markdown_text(title)}", facts]
    parts += [f"**Warning:** {markdown_text(text)}" for text in (*sheet.warnings, *drowned(study))]
    parts.append(markdown_table(sheet))
    if said := "\n".join(f"- {markdown_text(line)}" for line in summary_lines(sheet)):
        parts.append(said)
    parts.append(f"![{shown[:1].upper()}{shown[1:]} by epoch]({CURVES})")
    if priced(sheet):
        parts.append(f"![What each gain costs]({GAINS})")
    if any(row.first(row.best) for row in sheet.rows):
        parts += [
            "## Last and best weights",
            markdown_lines(*lay_out(score_columns(sheet), sheet.rows)),
            CHOICE,
        ]
    parts += ["## Costs", markdown_lines(*lay_out(cost_columns(), sheet.rows))]
    if lines := calibration_lines(study):
        parts += ["## Calibration", markdown_lines(CALIBRATION, lines)]
    if lines := agreement_lines(study):
        parts += ["## Agreement with the teacher", markdown_lines(AGREEMENT, lines)]
    parts += ["## Where weights began", markdown_lines(("", "origin"), origin_lines(sheet))]
    parts.append(f"The whole report, with figures: [{PAGE}]({PAGE}).")
    return "\n\n".join(filter(None, parts)) + "\n"


def curves(results: Sequence[RunResult] | Sheet) -> bytes:
    """Draw by epoch the score that counts, mean over seeds, as a PNG; without one the loss."""
    from matplotlib.figure import Figure

    sheet = Sheet.of(results)
    metric = sheet.metric
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for title in sheet.titles:
        entries = sheet.of_row(title)
        points = mean_curve(entries, metric)
        if points:
            style = "-" if entries[0].role == "candidate" else "--"
            # A label that begins with _ would be left out, and one with $ is mathematics.
            label = title.replace("$", r"\$")
            label = f" {label}" if label.startswith("_") else label
            axes.plot(*zip(*points, strict=True), style, marker=".", label=label)
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"test {metric.heading}" if metric else "training loss")
    axes.grid(alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def gains(results: Sequence[RunResult] | Sheet) -> bytes | None:
    """Draw what each candidate gains over the student alone by what it costs, as a PNG.

    To the right, on a logarithmic scale: seconds of training, those of the student alone on the
    same machine being 1.
    Upwards: the paired difference in the score that counts, with its interval. What asking
    teachers once took is said below, and which candidates are left out, of another machine than
    their student alone. None where there are no two others.
    """
    sheet = Sheet.of(results)
    metric, points = sheet.metric, priced(sheet)
    if metric is None or not points:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.8), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color="0.4", linewidth=1)
    for place, (title, cost, difference) in enumerate(points, 1):
        low, high = difference.interval or (difference.mean, difference.mean)
        spread = [[difference.mean - low], [high - difference.mean]]
        label = f"{place} {title}".replace("$", r"\$")
        axes.errorbar(
            cost, difference.mean, spread, fmt="o", color="C0", elinewidth=0.8, label=label
        )
        axes.annotate(
            str(place),
            (cost, difference.mean),
            xytext=(5, 3),
            textcoords="offset points",
            fontsize=8,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, handlelength=0)
    axes.set_xlabel("\n".join(cost_notes(sheet)).replace("$", r"\$"))
    unit = " (points)" if metric.unit == "%" else f" ({metric.unit})" if metric.unit else ""
    axes.set_ylabel(f"{metric.name} over the student alone{unit}")
    axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
