"""A comparison for people: the table on the terminal, as Markdown, and its curves."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kdcore.comparison import Row, table
from kdcore.files import write_bytes, write_json
from kdcore.job import STUDENT, RunResult
from kdcore.statistics import Summary
from kdcore.tasks import Metric
from kdcore.teachers import TEACHER, title_of

TITLES = {TEACHER: "teacher", STUDENT: "student alone"}


NO_SCORE = Metric("score")
"""What heads the empty column of a task without scores."""


def cells(row: Row, metrics: Sequence[Metric]) -> list[str]:
    """Return a row's cells as text: score, difference, further scores, loss, seconds, best."""
    first, *others = metrics or (NO_SCORE,)
    return [
        TITLES.get(row.name, row.name),
        _mean(row.score, first.form),
        _difference(row.difference, first.form),
        *(_mean(row.others[metric.name], metric.form) for metric in others),
        _mean(row.loss, ".4f"),
        f"{row.seconds.mean:.1f}",
        _mean(row.best, first.form),
    ]


def headings(metrics: Sequence[Metric]) -> tuple[str, ...]:
    """Return what heads the columns of `cells`."""
    first, *others = metrics or (NO_SCORE,)
    return (
        "",
        first.heading,
        "to student alone",
        *(metric.heading for metric in others),
        "training loss",
        "seconds",
        "of the best weights" + (f" ({first.unit})" if first.unit else ""),
    )


def _mean(summary: Summary | None, form: str) -> str:
    if summary is None:
        return "–"
    text = format(summary.mean, form)
    return text if summary.sd is None else f"{text} ± {format(summary.sd, form)}"


def _difference(summary: Summary | None, form: str) -> str:
    if summary is None:
        return "–"
    text = format(summary.mean, f"+{form}")
    if summary.interval is None:
        return text
    low, high = summary.interval
    return f"{text} ({low:+{form}} to {high:+{form}})"


def _lines(results: Sequence[RunResult]) -> tuple[tuple[str, ...], list[list[str]]]:
    """Return headings and cells, without the column of validation where there is none."""
    rows, metrics = table(results), results[0].metrics
    names = headings(metrics)
    width = len(names) if any(row.best for row in rows) else len(names) - 1
    return names[:width], [cells(row, metrics)[:width] for row in rows]


def caption(results: Sequence[RunResult]) -> str:
    """Say what the numbers of a table are."""
    seeds = list(dict.fromkeys(result.seed for result in results))
    if len(seeds) == 1:
        if not any(result.name == STUDENT for result in results):
            return f"seed {seeds[0]}; one run proves little: kdcore compare has several seeds"
        several = ",".join(str(seeds[0] + more) for more in range(3))
        return f"seed {seeds[0]}; one seed proves little: --seeds {several}"
    listed = ", ".join(map(str, seeds))
    return f"mean ± standard deviation over seeds {listed}; paired difference with 95 % interval"


def terminal_table(results: Sequence[RunResult]) -> Table:
    """Lay the table out for a terminal."""
    names, lines = _lines(results)
    shown = Table(caption=caption(results), caption_justify="left", pad_edge=False)
    for heading in names:
        shown.add_column(heading, justify="right" if heading else "left", no_wrap=not heading)
    for line in lines:
        shown.add_row(*map(escape, line))
    return shown


WIDEST = 1000
"""Columns of a file in which a table is never cut."""


def print_table(console: Console, results: Sequence[RunResult]) -> None:
    """Print the table, in a file as wide as it is."""
    shown = terminal_table(results)
    if not console.is_terminal:
        unbounded = console.options.update(width=WIDEST)
        console.width = max(console.width, console.measure(shown, options=unbounded).maximum)
    console.print(shown)


def markdown_table(results: Sequence[RunResult]) -> str:
    """Write the table as Markdown."""
    names, lines = _lines(results)
    head = ["| " + " | ".join(names) + " |", "|---" + "|---:" * (len(names) - 1) + "|"]
    body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([*head, *body, "", caption(results) + "."])


def as_json(results: Sequence[RunResult]) -> dict[str, object]:
    """Return a comparison for programs: ``rows``, one a run, as `RunResult` has it."""
    return {"rows": [asdict(result) for result in results]}


def write_report(
    folder: Path, title: str, about: Sequence[str], results: Sequence[RunResult]
) -> None:
    """Write ``report.md``, ``report.json`` and ``curves.png`` into a folder.

    Args:
        folder: where to.
        title: of the report.
        about: lines that say what was compared.
        results: the runs.
    """
    write_json(folder / "report.json", as_json(results))
    write_bytes(folder / "curves.png", curves(results))
    facts = "\n".join(f"- {line}" for line in about)
    metric = results[0].metric
    shown = metric.name if metric else "training loss"
    picture = f"![{shown[:1].upper()}{shown[1:]} by epoch](curves.png)"
    text = f"# {title}\n\n{facts}\n\n{markdown_table(results)}\n\n{picture}\n"
    write_bytes(folder / "report.md", text.encode())


def curves(results: Sequence[RunResult]) -> bytes:
    """Draw by epoch the score that counts, mean over seeds, as a PNG; without one the loss."""
    import io

    from matplotlib.figure import Figure

    metric = results[0].metric
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(result.name for result in results):
        runs = [result.epochs for result in results if result.name == name and result.epochs]
        if not runs:
            continue
        means = [
            sum(map(_drawn(metric), records)) / len(records) for records in zip(*runs, strict=True)
        ]
        # No candidate has a space in its label; of several teachers each row has one.
        style = "--" if name in TITLES or name.startswith(title_of("")) else "-"
        axes.plot(range(1, len(means) + 1), means, style, marker=".", label=TITLES.get(name, name))
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"test {metric.heading}" if metric else "training loss")
    axes.grid(alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _drawn(metric: Metric | None) -> Callable[[Mapping[str, Any]], float]:
    return lambda record: float(record["scores"][metric.name] if metric else record["loss"])
