"""A benchmark for people: the table on the terminal, and what it was measured on."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from rich.markup import escape
from rich.table import Table

from kdcore.bench.measure import Result
from kdcore.bench.work import Settings

HEADINGS = ("median", "lowest", "highest")


def describe(machine: Mapping[str, object], settings: Settings) -> str:
    """Say in two lines what is measured, and on what."""
    known = {name: value for name, value in machine.items() if value not in (None, [], "")}
    return "\n".join(
        ", ".join(f"{name} {_text(value)}" for name, value in each.items())
        for each in (known, asdict(settings))
    )


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def terminal_table(results: Sequence[Result]) -> Table:
    """Lay the results out for a terminal, a line each."""
    shown = Table(pad_edge=False)
    shown.add_column("case", no_wrap=True)
    shown.add_column("what")
    for heading in HEADINGS:
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("unit")
    for result in results:
        numbers = [_number(getattr(result.spread, heading)) for heading in HEADINGS]
        shown.add_row(result.case, escape(result.what), *numbers, result.unit)
    return shown


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
