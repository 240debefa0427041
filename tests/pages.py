"""What tests read off the pages of the documentation: blocks, commands, links and anchors."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from kdcore.cli.main import app

ROOT = Path(__file__).parent.parent
DOCS = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("docs/notebooks/*.ipynb")])
PAGES = sorted([*ROOT.glob("*.md"), *DOCS, *ROOT.glob("plugins/*/README.md")])
SHELL = ("", "sh", "bash", "console")

_FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^()\s]+)\)|^\[[^\]]+\]:\s*(\S+)", re.MULTILINE)
_COMMAND = re.compile(r"^(?:\w+=\S+ )*(?:uv run |(?:uv run )?torchrun .*-m )?kdcore\s+(.*)$")


def text_of(page: Path) -> str:
    """Return a page as Markdown; of a notebook its cells of prose."""
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def blocks(text: str, *languages: str) -> list[str]:
    """Return the code blocks of Markdown in some languages, ``""`` being none."""
    return [code for language, code in _FENCE.findall(text) if language in languages]


def prose(text: str) -> str:
    """Return Markdown without its code blocks."""
    return _FENCE.sub("", text)


def commands(text: str) -> list[list[str]]:
    """Return the arguments of each ``kdcore`` that code blocks of Markdown run."""
    found = []
    for block in blocks(text, *SHELL):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                if match := _COMMAND.match(part.strip().removeprefix("$ ")):
                    found.append(shlex.split(match[1], comments=True))
    return found


def mentioned(text: str) -> list[list[str]]:
    """Return the arguments of each ``kdcore`` in prose that begin with a command's name."""
    inline = re.findall(r"`(?:uv run )?kdcore\s+([a-z][^`|]*)`", prose(text))
    return [shlex.split(found) for found in inline]


def parse(arguments: list[str]) -> None:
    """Read a command line as `kdcore` would, and run nothing.

    Raises:
        typer.exceptions.TyperException: it would be refused.
    """
    command: Any = typer.main.get_command(app)
    name, rest = "kdcore", list(arguments)
    while hasattr(command, "commands"):
        context = command.context_class(command, info_name=name)
        name, command, rest = command.resolve_command(context, rest)
    command.make_context(name, rest)


def unknown(arguments: list[str]) -> list[str]:
    """Return the commands and options that a mention names and kdcore has not."""
    command: Any = typer.main.get_command(app)
    rest = list(arguments)
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        if rest[0] not in command.commands:
            return [rest[0]]
        command = command.commands[rest.pop(0)]
    options = {"--help", *(name for each in command.params for name in each.opts)}
    return [each for each in rest if re.match("--?[a-z]", each) and each not in options]


def links(text: str) -> Iterator[str]:
    """Yield what Markdown links to, but for other sites."""
    without_code = re.sub(r"`[^`]*`", "`code`", prose(text))
    for inside, reference in _LINK.findall(without_code):
        target = inside or reference
        if not re.match(r"(https?|mailto):", target):
            yield target


def anchors(text: str) -> set[str]:
    """Return what a repository's view calls the headings of Markdown."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} (.+)$", prose(text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        name = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        count = 0
        while (unique := f"{name}-{count}" if count else name) in found:
            count += 1
        found.add(unique)
    return found


def broken(page: Path) -> list[str]:
    """Return the links of a page that lead to no file, or to no heading of it."""
    text, wrong = text_of(page), []
    for target in links(text):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or (
            anchor
            and (file.suffix not in (".md", ".ipynb") or anchor not in anchors(text_of(file)))
        ):
            wrong.append(target)
    return wrong
