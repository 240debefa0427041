"""The last part of the page: where weights began, the settings, and what everything ran on."""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from kdcore.comparison import COMPARISON
from kdcore.fingerprint import ENVIRONMENT
from kdcore.report.folder import config_of, facts_of
from kdcore.report.html import Section, details, paragraph, table
from kdcore.report.rows import Entry, Sheet

SHOWN = 12
"""Signs of a hash that are shown."""


def sections(sheet: Sheet) -> list[Section]:
    """Return this part's sections."""
    return [
        Section("origins", "Where weights began", _origins(sheet)),
        Section("settings", "Settings and versions", _settings(sheet)),
    ]


def origin_lines(sheet: Sheet) -> list[list[str]]:
    """Return the cells of the table of origins."""
    return [[row.title, "; ".join(row.origins)] for row in sheet.rows]


def _origins(sheet: Sheet) -> str:
    note = "Students of one seed and comparison begin with equal weights."
    return table(["", "origin"], origin_lines(sheet), "Origins", {1}) + paragraph(note, "note")


def _settings(sheet: Sheet) -> str:
    parts = []
    if versions := version_lines(sheet):
        shown = table(["", "in all runs, or each that there is"], versions, "Versions", {1})
        parts.append(details("Versions and machine", shown))
    for place, text in _comparisons(sheet.entries).items():
        title = f"{COMPARISON} of {place}" if place else COMPARISON
        parts.append(details(title, _code(text)))
    for title in sheet.titles:
        entries = sheet.of_row(title)
        found = [known for each in entries if (known := config_of(each.result)) is not None]
        if not found:
            continue
        seed = entries[0].result.seed
        more = "; its other seeds differ in the seed alone, and in the teacher's file"
        told = f"{title}, as it was resolved, seed {seed}" + (more if len(entries) > 1 else "")
        parts.append(details(told, _code(found[0])))
    return "".join(parts)


def _code(text: str) -> str:
    return (
        f'<pre role="region" tabindex="0" aria-label="settings"><code>{escape(text)}</code></pre>'
    )


def _comparisons(entries: Sequence[Entry]) -> dict[str, str]:
    """Return the comparisons that runs are of, by the place that they are reported from."""
    found = {}
    for entry in entries:
        file = Path(entry.result.folder).parent / COMPARISON
        if entry.role != "teacher" and entry.place not in found and file.is_file():
            found[entry.place] = file.read_text(encoding="utf-8", errors="replace")
    return found


def version_lines(sheet: Sheet) -> list[list[str]]:
    """Return names and values of what runs were computed on, several where runs differ."""
    values: dict[str, list[str]] = {}
    for entry in sheet.entries:
        facts = facts_of(entry.result)
        data = facts.get("data")
        for name in sorted(ENVIRONMENT & facts.keys()):
            _note(values, name, facts[name])
        if isinstance(data, str) and entry.role != "teacher":
            _note(values, "hash of the data", data[:SHOWN])
    return [[name, "; ".join(found)] for name, found in values.items()]


def _note(values: dict[str, list[str]], name: str, value: Any) -> None:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    known = values.setdefault(name, [])
    if text not in known:
        known.append(text)
