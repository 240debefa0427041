"""Drawing: small figures as text of SVG, in the page's own colours and type.

All are `WIDTH` units wide and shown at about a pixel a unit, on a phone as on a desk: so their
text stays as large as the page's captions. Colours are classes that the page's style sheet gives
their values, in light and dark.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

WIDTH = 340
SIGNS = 6.2
"""Width of a sign of 11 units, about."""


def number(value: float) -> str:
    """Write a coordinate in a few signs."""
    return f"{value:.1f}".removesuffix(".0")


def cut(text: str, most: int) -> str:
    """Shorten a name to so many signs."""
    return text if len(text) <= most else text[: most - 1] + "…"


@dataclass
class Drawing:
    """A figure that is being drawn.

    Attributes:
        height: in units.
        title: what it shows, for those who do not see it.
        about: what can be read from it, for the same.
        width: in units.
    """

    height: float
    title: str
    about: str
    width: float = WIDTH
    parts: list[str] = field(default_factory=list)

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """Draw a straight line."""
        places = zip(("x1", "y1", "x2", "y2"), (x1, y1, x2, y2), strict=True)
        told = " ".join(f'{name}="{number(value)}"' for name, value in places)
        self.parts.append(f'<line {told} class="{kind}"/>')

    def path(
        self, points: Iterable[tuple[float, float]], kind: str, *, closed: bool = False
    ) -> None:
        """Draw a line through points, or the area within them."""
        told = " ".join(f"{number(x)},{number(y)}" for x, y in points)
        tag = "polygon" if closed else "polyline"
        self.parts.append(f'<{tag} points="{told}" class="{kind}"/>')

    def rect(
        self, x: float, y: float, width: float, height: float, kind: str, opacity: float = 1.0
    ) -> None:
        """Draw a filled rectangle."""
        told = f'x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}"'
        pale = "" if opacity >= 1 else f' fill-opacity="{opacity:.2f}"'
        self.parts.append(f'<rect {told} class="{kind}"{pale}/>')

    def circle(self, x: float, y: float, radius: float, kind: str) -> None:
        """Draw a dot."""
        told = f'cx="{number(x)}" cy="{number(y)}" r="{number(radius)}"'
        self.parts.append(f'<circle {told} class="{kind}"/>')

    def text(
        self, x: float, y: float, text: str, kind: str = "", anchor: str = "start", turn: float = 0
    ) -> None:
        """Write, on a base line."""
        told = f' class="{kind}"' if kind else ""
        told += "" if anchor == "start" else f' text-anchor="{anchor}"'
        told += f' transform="rotate({number(turn)} {number(x)} {number(y)})"' if turn else ""
        self.parts.append(f'<text x="{number(x)}" y="{number(y)}"{told}>{escape(text)}</text>')

    def svg(self, name: str) -> str:
        """Return the whole, with its title and description.

        Args:
            name: of it in the page, once.
        """
        size = f"0 0 {number(self.width)} {number(self.height)}"
        return (
            f'<svg viewBox="{size}" role="img" aria-labelledby="{name}-t {name}-d">'
            f'<title id="{name}-t">{escape(self.title)}</title>'
            f'<desc id="{name}-d">{escape(self.about)}</desc>' + "".join(self.parts) + "</svg>"
        )


@dataclass(frozen=True)
class Scale:
    """Where values are drawn.

    Attributes:
        low: value at `start`.
        high: value at `end`.
        start: coordinate.
        end: coordinate.
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the coordinate of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round numbers from a range, at most so many and two at least."""
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / most))
    for factor in (1, 2, 5, 10, 20):
        step = factor * power
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 <= most:
            return [round(index * step, 12) for index in range(first, last + 1)]
    raise AssertionError("a step of twice the span leaves few")


def tick_text(value: float, values: Sequence[float]) -> str:
    """Write a tick with as many decimals as tell it from its neighbours."""
    step = min((after - before for before, after in pairwise(values)), default=abs(value) or 1)
    decimals = 0
    while decimals < 6 and abs(round(step, decimals) - step) > 1e-9 * step:
        decimals += 1
    return f"{value:,.{decimals}f}"
