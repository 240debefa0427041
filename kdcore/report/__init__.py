"""A comparison or run for people: tables for terminals and files, and the page to send.

`write_report` writes all of it; `gather` reads it again from the folders of runs.
"""

from kdcore.job import MARKDOWN
from kdcore.report.gather import gather
from kdcore.report.rivals import Rivals
from kdcore.report.rows import Entry, Row, Sheet
from kdcore.report.table import (
    caption,
    csv_table,
    latex_table,
    markdown_table,
    print_table,
    print_whole,
    terminal_table,
)
from kdcore.report.write import PAGE, as_json, curves, gains, write_report

__all__ = [
    "MARKDOWN",
    "PAGE",
    "Entry",
    "Rivals",
    "Row",
    "Sheet",
    "as_json",
    "caption",
    "csv_table",
    "curves",
    "gains",
    "gather",
    "latex_table",
    "markdown_table",
    "print_table",
    "print_whole",
    "terminal_table",
    "write_report",
]
