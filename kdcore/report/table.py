"""A report's tables as text: for terminals, Markdown, LaTeX and files of values.

What stands in them is in `columns`.
"""

import csv
import io
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kdcore.job import RunResult
from kdcore.report.columns import (
    Laid,
    Value,
    lay_out,
    score_columns,
    short_columns,
    value_columns,
    with_p,
)
from kdcore.report.rows import Row, Sheet

WIDEST = 1000
"""Columns of a file in which a table is never cut."""


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
    return spread + _tested(sheet.rows)


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
    return for_terminal(lay_out(short_columns(sheet), sheet.rows), _whole_caption(sheet))


def for_terminal(laid: Laid[str], told: str) -> Table:
    """Lay headings and lines out for a terminal, with a caption, the first column to the left."""
    names, lines = laid
    shown = Table(caption=escape(told), caption_justify="left", pad_edge=False)
    for heading in names:
        shown.add_column(
            escape(heading), justify="right" if heading else "left", no_wrap=not heading
        )
    for line in lines:
        shown.add_row(*map(escape, line))
    return shown


def print_table(console: Console, results: Sequence[RunResult] | Sheet) -> None:
    """Print the table, and what a reader must know of it."""
    sheet = Sheet.of(results)
    print_whole(console, terminal_table(sheet))
    for warning in sheet.warnings:
        console.print(warning, markup=False, soft_wrap=True)


def print_whole(console: Console, shown: Table) -> None:
    """Print a table, in a file as wide as it is."""
    if not console.is_terminal:
        unbounded = console.options.update(width=WIDEST)
        console.width = max(console.width, console.measure(shown, options=unbounded).maximum)
    console.print(shown)


def markdown_table(results: Sequence[RunResult] | Sheet) -> str:
    """Write the table as Markdown."""
    sheet = Sheet.of(results)
    names, lines = lay_out(short_columns(sheet), sheet.rows)
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


SPREADSHEET = ("=", "+", "-", "@", "\t", "\r")
"""With these spreadsheets begin a formula."""


def csv_table(results: Sequence[RunResult] | Sheet) -> str:
    """Write the whole table as comma-separated values, nothing where there is none."""
    sheet = Sheet.of(results)
    names, lines = lay_out(value_columns(sheet), sheet.rows)
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
    names, lines = lay_out(score_columns(sheet), sheet.rows)
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
