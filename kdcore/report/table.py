"""The table of a report: short for terminals and Markdown, whole for files of values and LaTeX."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kdcore.files import size_text
from kdcore.job import RunResult
from kdcore.report.rows import Row, Sheet
from kdcore.statistics import Summary
from kdcore.tasks import Metric

NOTHING = "–"

EQUAL = "equal, no interval"
"""What is said of differences that are the same with every seed."""

NO_SCORE = Metric("score")
"""What heads the empty column of a task without scores."""

WIDEST = 1000
"""Columns of a file in which a table is never cut."""

Cells = tuple[str, ...]
Value = str | float | int | None
Summaries = Mapping[str, Summary | None]


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
    text = format(summary.mean, f"+{form}")
    if summary.interval is None:
        return f"{text} ({EQUAL})" if summary.equal else text
    low, high = summary.interval
    return f"{text} ({low:+{form}} to {high:+{form}})"


def p_text(row: Row) -> str:
    """Write a row's corrected p-value."""
    if row.p_holm is None:
        return NOTHING
    return "< 0.001" if row.p_holm < 0.001 else f"{row.p_holm:.3f}"


P_HOLM = "p (Holm)"


def with_p(rows: Sequence[Row]) -> bool:
    """Say whether a table of some rows has corrected p-values: of one candidate nothing is."""
    return any(row.family > 1 for row in rows)


def cells(row: Row) -> list[str]:
    """Return a row's cells as text, in the order of `headings`."""
    first, *others = row.metrics or (NO_SCORE,)
    return [
        row.title,
        mean_text(row.first(row.scores), first.form),
        difference_text(row.first(row.differences), first.form),
        p_text(row),
        *(mean_text(row.scores[metric.name], metric.form) for metric in others),
        mean_text(row.loss, ".4f"),
        f"{row.seconds.mean:.1f}",
        mean_text(row.first(row.best), first.form),
    ]


def headings(metrics: Sequence[Metric]) -> tuple[str, ...]:
    """Return what heads the columns of `cells`."""
    first, *others = metrics or (NO_SCORE,)
    return (
        "",
        first.heading,
        "to student alone",
        P_HOLM,
        *(metric.heading for metric in others),
        "training loss",
        "seconds",
        "of the best weights" + (f" ({first.unit})" if first.unit else ""),
    )


def _lines(sheet: Sheet) -> tuple[Cells, list[list[str]]]:
    """Return headings and cells, without the columns that have nothing in any row."""
    rows, names = sheet.rows(), headings(sheet.metrics)
    left_out = set() if with_p(rows) else {names.index(P_HOLM)}
    if not any(row.first(row.best) for row in rows):
        left_out.add(len(names) - 1)
    kept = [place for place in range(len(names)) if place not in left_out]
    lines = [cells(row) for row in rows]
    return tuple(names[at] for at in kept), [[line[at] for at in kept] for line in lines]


def caption(results: Sequence[RunResult] | Sheet) -> str:
    """Say what the numbers of a table are."""
    sheet = Sheet.of(results)
    seeds = sheet.seeds
    listed = ", ".join(map(str, seeds))
    if not sheet.repeated and len(seeds) > 1:
        return f"one run a row, of seeds {listed}; one run proves little: give each row equal seeds"
    if len(seeds) == 1:
        if not any(entry.role == "alone" for entry in sheet.entries):
            return f"seed {seeds[0]}; one run proves little: kdcore compare has several seeds"
        several = ",".join(str(seeds[0] + more) for more in range(3))
        return f"seed {seeds[0]}; one seed proves little: --seeds {several}"
    spread = f"mean ± standard deviation over seeds {listed}"
    single = [title for title in sheet.titles if len(sheet.of_row(title)) == 1]
    if single:
        spread += f" (one run: {', '.join(single)})"
    return spread + _tested(sheet.rows())


def _tested(rows: Sequence[Row]) -> str:
    """Say what stands beside the differences of several seeds."""
    found = [each for row in rows if (each := row.first(row.differences)) is not None]
    said = "; paired difference" if found else ""
    if any(each.interval for each in found):
        said += " with 95 % interval"
    if not with_p(rows):
        return said
    counted = Counter(row.family for row in rows if row.family)
    families = [size for size, count in counted.items() for _ in range(count // size)]
    if len(families) == 1:
        return f"{said}; p of paired t tests, corrected by Holm over {families[0]} candidates"
    sizes = " and ".join(map(str, families))
    return (
        f"{said}; p of paired t tests, corrected by Holm over the candidates of each student alone "
        f"by themselves, {sizes}"
    )


def time_notes(sheet: Sheet) -> list[str]:
    """Say what the seconds of training leave out, and where they do not compare."""
    notes = []
    if asked := sheet.teacher_seconds:
        notes.append(
            f"asking teachers once for what all runs read took {asked:.1f} seconds more, which "
            "are in no row's"
        )
    if len(sheet.machines) > 1:
        notes.append(
            "seconds are of several machines, and only those of one compare: "
            f"{', and '.join(sheet.machines)}"
        )
    return notes


def _whole_caption(sheet: Sheet) -> str:
    return "; ".join([caption(sheet), *time_notes(sheet)])


def terminal_table(results: Sequence[RunResult] | Sheet) -> Table:
    """Lay the table out for a terminal."""
    sheet = Sheet.of(results)
    names, lines = _lines(sheet)
    shown = Table(caption=escape(_whole_caption(sheet)), caption_justify="left", pad_edge=False)
    for heading in names:
        shown.add_column(heading, justify="right" if heading else "left", no_wrap=not heading)
    for line in lines:
        shown.add_row(*map(escape, line))
    return shown


def print_table(console: Console, results: Sequence[RunResult] | Sheet) -> None:
    """Print the table, in a file as wide as it is, and what a reader must know of it."""
    sheet = Sheet.of(results)
    shown = terminal_table(sheet)
    if not console.is_terminal:
        unbounded = console.options.update(width=WIDEST)
        console.width = max(console.width, console.measure(shown, options=unbounded).maximum)
    console.print(shown)
    for warning in sheet.warnings:
        console.print(warning, markup=False, soft_wrap=True)


def markdown_table(results: Sequence[RunResult] | Sheet) -> str:
    """Write the table as Markdown."""
    sheet = Sheet.of(results)
    names, lines = _lines(sheet)
    return "\n".join([markdown_lines(names, lines), "", f"{markdown_text(_whole_caption(sheet))}."])


def markdown_lines(names: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Write headings and cells as a table of Markdown, the first column to the left."""
    head = [_markdown_line(names), "|---" + "|---:" * (len(names) - 1) + "|"]
    return "\n".join([*head, *map(_markdown_line, lines)])


def _markdown_line(line: Sequence[str]) -> str:
    return "| " + " | ".join(map(markdown_text, line)) + " |"


MARKDOWN = {"&": "&amp;", "<": "&lt;", "|": "\\|", "`": "\\`", "\n": " ", "\r": " "}


def markdown_text(text: str) -> str:
    """Keep a name of a user's from meaning something in Markdown, or in the HTML in it."""
    return "".join(MARKDOWN.get(sign, sign) for sign in text)


def score_columns(sheet: Sheet) -> tuple[Cells, list[Cells]]:
    """Return headings and cells of all scores, of the last weights and of the best."""
    rows = sheet.rows()
    first, *others = sheet.metrics or (NO_SCORE,)
    corrected = [P_HOLM] if with_p(rows) else []
    difference = ["to student alone", *corrected]
    names = ["", first.heading, *difference, *(each.heading for each in others)]
    chosen = any(row.first(row.best) for row in rows)
    if chosen:
        best = [first.heading, "to student alone", *(each.heading for each in others)]
        names += [f"best weights: {name}" for name in best]
    names.append("training loss")
    lines = []
    for row in rows:
        line = [row.title, *_score_cells(row, row.scores, row.differences)]
        line[3:3] = [p_text(row)] if corrected else []
        if chosen:
            line += _score_cells(row, row.best, row.best_differences)
        lines.append((*line, mean_text(row.loss, ".4f")))
    return tuple(names), lines


def _score_cells(row: Row, scores: Summaries, differences: Summaries) -> list[str]:
    first, *others = row.metrics or (NO_SCORE,)
    return [
        mean_text(row.first(scores), first.form),
        difference_text(row.first(differences), first.form),
        *(mean_text(scores[each.name], each.form) for each in others),
    ]


def cost_columns(sheet: Sheet) -> tuple[Cells, list[Cells]]:
    """Return headings and cells of what each row's model costs, and its training."""
    names = (
        "",
        "parameters",
        "multiply-accumulates",
        "latency (ms)",
        "95 % within (ms)",
        "size",
        "training (s)",
        "training, × student alone",
    )
    lines = []
    for row in sheet.rows():
        costs = row.costs
        measured: Cells = (NOTHING,) * 5
        if costs is not None:
            measured = (
                f"{costs.parameters:,}",
                NOTHING if costs.macs is None else f"{costs.macs:,}",
                f"{costs.latency_ms:.2f}",
                f"{costs.latency_p95_ms:.2f}",
                size_text(costs.bytes),
            )
        times = "1" if row.role == "alone" else mean_text(row.times, ".2f")
        lines.append((row.title, *measured, mean_text(row.seconds, ".1f"), times))
    return names, lines


def value_columns(sheet: Sheet) -> tuple[Cells, list[tuple[Value, ...]]]:
    """Return the whole table as values for programs, means, deviations and bounds apart."""
    names = ["row", "runs"]
    for metric in sheet.metrics:
        for which in (metric.heading, f"best weights {metric.heading}"):
            names += [which, f"{which} sd"]
            names += [f"{which} difference{bound}" for bound in ("", " sd", " low", " high", " p")]
    names.append(P_HOLM)
    names += ["training loss", "training loss sd", "seconds", "seconds sd"]
    names += ["teacher seconds of all runs"]
    names += ["seconds relative to student alone", "parameters", "multiply-accumulates"]
    names += ["latency ms", "latency p95 ms", "bytes", "origin"]
    return tuple(names), [_values(sheet, row) for row in sheet.rows()]


def _values(sheet: Sheet, row: Row) -> tuple[Value, ...]:
    line: list[Value] = [row.title, len(sheet.of_row(row.title))]
    for metric in row.metrics:
        for scores, differences in (
            (row.scores, row.differences),
            (row.best, row.best_differences),
        ):
            line += _mean_and_sd(scores[metric.name])
            line += _mean_to_p(differences[metric.name])
    line.append(row.p_holm)
    line += _mean_and_sd(row.loss)
    line += [*_mean_and_sd(row.seconds), row.teacher_seconds]
    line.append(row.times.mean if row.times else None)
    costs = row.costs
    if costs is None:
        line += [None] * 5
    else:
        line += [costs.parameters, costs.macs, costs.latency_ms, costs.latency_p95_ms, costs.bytes]
    return (*line, "; ".join(row.origins))


def _mean_and_sd(summary: Summary | None) -> list[float | None]:
    return [summary.mean, summary.sd] if summary else [None, None]


def _mean_to_p(summary: Summary | None) -> list[float | None]:
    """Return mean, deviation, bounds and p-value of differences."""
    if summary is None:
        return [None] * 5
    return [summary.mean, summary.sd, *(summary.interval or (None, None)), summary.p]


SPREADSHEET = ("=", "+", "-", "@", "\t", "\r")
"""With these spreadsheets begin a formula."""


def csv_table(results: Sequence[RunResult] | Sheet) -> str:
    """Write the whole table as comma-separated values, nothing where there is none."""
    names, lines = value_columns(Sheet.of(results))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(names)
    for line in lines:
        writer.writerow([_harmless(value) for value in line])
    return buffer.getvalue()


def _harmless(value: Value) -> Value:
    formula = isinstance(value, str) and value.startswith(SPREADSHEET)
    return f"'{value}" if formula else value


LATEX = {
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
    "–": "--",
    "²": r"\textsuperscript{2}",
    "×": r"$\times$",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def latex_table(results: Sequence[RunResult] | Sheet) -> str:
    """Write the scores as a table of LaTeX with the rules of booktabs and a caption."""
    sheet = Sheet.of(results)
    names, lines = score_columns(sheet)
    body = [_latex_line(names), r"\midrule", *map(_latex_line, lines)]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            rf"\caption{{{latex_text(caption(sheet))}.}}",
            rf"\begin{{tabular}}{{l{'r' * (len(names) - 1)}}}",
            r"\toprule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _latex_line(line: Sequence[str]) -> str:
    return " & ".join(map(latex_text, line)) + r" \\"


def latex_text(text: str) -> str:
    """Keep a text's signs from meaning something in LaTeX."""
    return "".join(LATEX.get(sign, sign) for sign in text)
