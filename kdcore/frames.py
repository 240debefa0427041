"""Results as tables of pandas, and as what a notebook shows of them."""

from collections.abc import Iterable, Mapping
from html import escape
from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table


def frame(records: Iterable[Mapping[str, object]]) -> "pd.DataFrame":
    """Return records as a table, a row each."""
    import pandas as pd

    return pd.DataFrame.from_records(list(records))


WIDEST = 1000
"""Columns of text in which a table is never cut."""


def as_html(table: "Table") -> str:
    """Return a table for a notebook, as wide as it is."""
    from rich.console import Console

    console = Console(record=True, width=WIDEST, file=StringIO())
    console.width = console.measure(table).maximum
    console.print(table)
    return f"<pre>{escape(console.export_text())}</pre>"
