"""Words of HTML: every text that comes from elsewhere goes through here, and is escaped."""

import base64
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from html import escape

from torch import Tensor

from kdcore.report.svg import Drawing

QUALITY = 85
"""Of pictures as JPEG."""


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading of its own.

    Attributes:
        name: of its anchor.
        title: of it.
        body: HTML.
    """

    name: str
    title: str
    body: str


def paragraph(text: str, kind: str = "") -> str:
    """Return a paragraph of plain text."""
    told = f' class="{kind}"' if kind else ""
    return f"<p{told}>{escape(text)}</p>"


def warning(text: str) -> str:
    """Return a paragraph that a reader must not overlook."""
    return f'<p class="warning"><strong>Warning.</strong> {escape(text)}</p>'


def table(
    names: Sequence[str],
    lines: Sequence[Sequence[str]],
    title: str,
    words: Collection[int] = (),
) -> str:
    """Return a table in a box of its own that scrolls, the first column heading its rows.

    Args:
        names: what heads the columns.
        lines: cells.
        title: what the table is, for those who do not see it.
        words: columns, from 0, whose cells are words and no numbers.
    """
    return rich_table(
        [escape(name) for name in names],
        [[escape(cell) for cell in line] for line in lines],
        title,
        words,
    )


def rich_table(
    names: Sequence[str],
    lines: Sequence[Sequence[str]],
    title: str,
    words: Collection[int] = (),
) -> str:
    """Return the same of cells that are HTML."""
    kinds = [' class="words"' if place in words else "" for place in range(len(names))]
    head = "".join(
        f'<th scope="col"{kind}>{name}</th>' if name else "<td></td>"
        for name, kind in zip(names, kinds, strict=True)
    )
    body = "".join(_line(line, kinds) for line in lines)
    return (
        f'<div class="box" role="region" tabindex="0" aria-label="{escape(title)}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _line(line: Sequence[str], kinds: Sequence[str]) -> str:
    cells = zip(line[1:], kinds[1:], strict=True)
    rest = "".join(f"<td{kind}>{cell}</td>" for cell, kind in cells)
    return f'<tr><th scope="row">{line[0]}</th>{rest}</tr>'


def bar(share: float | None, text: str) -> str:
    """Return a text over a bar.

    Args:
        share: of the bar's whole length, from 0 to 1; None without a bar.
        text: over it.
    """
    if share is None:
        return escape(text)
    return f'<span class="bar" style="--share:{100 * share:.0f}%">{escape(text)}</span>'


def figure(drawing: Drawing, name: str, caption: str = "", *, fixed: bool = False) -> str:
    """Return a drawing with its caption.

    Args:
        drawing: what is shown.
        name: of it in the page, once.
        caption: below it.
        fixed: whether it keeps its size, and scrolls in a box of its own where that is too wide.
    """
    told = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    shown = drawing.svg(name)
    if fixed:
        label = f'role="region" tabindex="0" aria-label="{escape(drawing.title)}"'
        shown = (
            f'<div class="box" {label}><div style="width:{drawing.width:.0f}px">{shown}</div></div>'
        )
    return f"<figure>{shown}{told}</figure>"


def grid(items: Sequence[str], kind: str = "") -> str:
    """Return things side by side, as many as there is room for."""
    told = f"grid {kind}".strip()
    return f'<div class="{told}">{"".join(items)}</div>'


def details(summary: str, body: str, *, shown: bool = False) -> str:
    """Return what is folded away until it is asked for."""
    state = " open" if shown else ""
    return f"<details{state}><summary>{escape(summary)}</summary>{body}</details>"


def picture(image: Tensor | None, about: str) -> str:
    """Return a picture within the page; nothing where there is none.

    Args:
        image: ``uint8 [3, height, width]``.
        about: what it is, for those who do not see it.
    """
    if image is None:
        return ""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=QUALITY)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    height, width = image.shape[1:]
    return (
        f'<img src="data:image/jpeg;base64,{data}" alt="{escape(about)}" width="{width}" '
        f'height="{height}">'
    )
