"""The page: one file of HTML that needs nothing else, and runs no program."""

from collections.abc import Sequence
from html import escape
from importlib.resources import files

from kdcore.report import samples, scores, settings, trust
from kdcore.report.html import Section
from kdcore.report.rows import Sheet
from kdcore.report.study import Study

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""What a browser may load for the page: nothing but what is in it."""


def page(title: str, about: Sequence[str], sheet: Sheet, study: Study) -> str:
    """Return the report as HTML.

    Args:
        title: of it.
        about: lines that say what was compared.
        sheet: its runs.
        study: what these say.
    """
    shown = [
        *scores.sections(sheet),
        *samples.sections(study),
        *trust.sections(study),
        *settings.sections(sheet),
    ]
    style = files("kdcore.report").joinpath("style.css").read_text(encoding="utf-8")
    facts = "".join(f"<li>{escape(line)}</li>" for line in about)
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            '<link rel="icon" href="data:,">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{style}</style>",
            "</head>",
            "<body>",
            f"<header><h1>{escape(title)}</h1><ul>{facts}</ul></header>",
            _contents(shown),
            "<main>",
            *map(_section, shown),
            "</main>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _contents(shown: Sequence[Section]) -> str:
    lines = "".join(f'<li><a href="#{each.name}">{escape(each.title)}</a></li>' for each in shown)
    return f'<nav aria-label="Contents"><ol>{lines}</ol></nav>'


def _section(each: Section) -> str:
    heading = f'<h2 id="{each.name}-h">{escape(each.title)}</h2>'
    return (
        f'<section id="{each.name}" aria-labelledby="{each.name}-h">{heading}{each.body}</section>'
    )
