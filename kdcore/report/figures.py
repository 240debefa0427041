"""The figures of a report: what is drawn of which numbers; how it gets drawn is in `svg`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from kdcore.report.analysis import Agreement, Bin, mean_of
from kdcore.report.columns import difference_text
from kdcore.report.svg import SIGNS, WIDTH, Drawing, Scale, cut, number, tick_text, ticks
from kdcore.statistics import Summary

LINE = 17
"""Height of a line of text."""

COLOURS = 6
"""So many kinds of lines are told apart in one figure."""


@dataclass(frozen=True)
class Series:
    """A line of a figure.

    Attributes:
        label: whose it is.
        points: x and y.
        kind: class of its colour.
    """

    label: str
    points: tuple[tuple[float, float], ...]
    kind: str


def _legend_lines(labels: Sequence[str]) -> list[list[str]]:
    """Break labels into lines that fit the width."""
    lines: list[list[str]] = [[]]
    room = float(WIDTH)
    for label in labels:
        width = _legend_width(label)
        if lines[-1] and width > room:
            lines.append([])
            room = WIDTH
        lines[-1].append(label)
        room -= width
    return lines


def _legend_width(label: str) -> float:
    return 36 + SIGNS * len(cut(label, 40))


def _legend(
    drawing: Drawing, entries: Sequence[tuple[str, str]], top: float, *, area: bool
) -> None:
    kinds = dict(entries)
    y = top
    for line in _legend_lines([label for label, _ in entries]):
        x = 0.0
        for label in line:
            if area:
                drawing.rect(x, y - 9, 18, 10, f"fill {kinds[label]}")
            else:
                drawing.line(x, y - 4, x + 18, y - 4, f"curve {kinds[label]}")
            drawing.text(x + 23, y, cut(label, 40))
            x += _legend_width(label)
        y += LINE


def curves(series: Sequence[Series], title: str, x_name: str, y_name: str) -> Drawing:
    """Draw lines over epochs."""
    xs = [x for each in series for x, _ in each.points]
    ys = [y for each in series for _, y in each.points]
    low, high = min(ys), max(ys)
    pad = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    top = LINE * len(_legend_lines([s.label for s in series])) + 22
    height = top + 190
    ends = ", ".join(f"{each.label} {each.points[-1][1]:.4g}" for each in series)
    drawing = Drawing(height, title, f"{y_name} by {x_name}. At the end: {ends}.")
    _legend(drawing, [(each.label, each.kind) for each in series], 12, area=False)
    y_ticks = ticks(low - pad, high + pad)
    left = 12 + SIGNS * max(len(tick_text(y, y_ticks)) for y in y_ticks)
    x = Scale(min(xs), max(max(xs), min(xs) + 1), left, WIDTH - 6)
    y = Scale(low - pad, high + pad, height - 36, top)
    drawing.text(0, top - 8, y_name, "axis")
    for value in y_ticks:
        drawing.line(left, y(value), WIDTH - 6, y(value), "grid")
        drawing.text(left - 5, y(value) + 4, tick_text(value, y_ticks), "axis", "end")
    marks = sorted({max(round(each), 1) for each in ticks(x.low, x.high, 7)})
    for value in marks:
        if x.low <= value <= x.high:
            drawing.text(x(value), height - 20, f"{value:,}", "axis", "middle")
    drawing.text((left + WIDTH - 6) / 2, height - 4, x_name, "axis", "middle")
    for each in series:
        places = [(x(a), y(b)) for a, b in each.points]
        drawing.path(places, f"curve {each.kind}")
        if len(places) <= 20:
            for place in places:
                drawing.circle(*place, 2, f"fill {each.kind}")
    return drawing


def differences(rows: Sequence[tuple[str, Summary, str]], unit: str, form: str) -> Drawing:
    """Draw mean differences with their intervals, a row each, about the line of no difference.

    Args:
        rows: label, difference, and class of its colour.
        unit: of the differences.
        form: how they are written.
    """
    longest = max(len(cut(label, 22)) for label, *_ in rows)
    left, right = 8 + SIGNS * longest, WIDTH - 52
    bounds = [bound for _, each, _ in rows for bound in (each.mean, *(each.interval or ()), 0.0)]
    low, high = min(bounds), max(bounds)
    pad = (high - low) * 0.06 or 1.0
    x = Scale(low - pad, high + pad, left, right)
    height = 24 * len(rows) + 42
    told = "; ".join(f"{label} {difference_text(each, form)}" for label, each, _ in rows)
    drawing = Drawing(height, "Difference to the student alone", f"In {unit}: {told}.")
    shown = ticks(x.low, x.high, 5)
    for value in shown:
        drawing.line(x(value), 4, x(value), height - 36, "zero" if value == 0 else "grid")
        drawing.text(x(value), height - 22, tick_text(value, shown), "axis", "middle")
    drawing.text((left + right) / 2, height - 5, unit, "axis", "middle")
    for index, (label, each, kind) in enumerate(rows):
        y = 18 + 24 * index
        drawing.text(0, y + 4, cut(label, 22))
        if each.interval is not None:
            drawing.line(x(each.interval[0]), y, x(each.interval[1]), y, f"whisker {kind}")
        drawing.circle(x(each.mean), y, 4.5, f"fill {kind}")
        drawing.text(WIDTH, y + 4, format(each.mean, f"+z{form}"), "value", "end")
    return drawing


def prices(points: Sequence[tuple[str, float, Summary]], unit: str) -> Drawing:
    """Draw gains by what they cost, numbered in their order, beside the student alone.

    Args:
        points: label, seconds of training in those of the student alone, and paired difference.
        unit: of the differences.
    """
    bounds = [bound for *_, each in points for bound in (each.mean, *(each.interval or ()), 0.0)]
    costs = [1.0, *(cost for _, cost, _ in points)]
    pad = (max(bounds) - min(bounds)) * 0.06 or 1.0
    room = (max(costs) - min(costs)) * 0.06 or 0.1
    told = "; ".join(f"{label} {cost:.2f} ×, {each.mean:+z.2f}" for label, cost, each in points)
    height = 240
    drawing = Drawing(height, "What each gain costs", f"{unit} by seconds of training: {told}.")
    y_ticks = ticks(min(bounds) - pad, max(bounds) + pad)
    left = 12 + SIGNS * max(len(tick_text(y, y_ticks)) for y in y_ticks)
    x = Scale(min(costs) - room, max(costs) + room, left, WIDTH - 26)
    y = Scale(min(bounds) - pad, max(bounds) + pad, height - 36, 22)
    drawing.text(0, 12, f"{unit}, to the student alone", "axis")
    for value in y_ticks:
        drawing.line(left, y(value), WIDTH - 6, y(value), "zero" if value == 0 else "grid")
        drawing.text(left - 5, y(value) + 4, tick_text(value, y_ticks), "axis", "end")
    x_ticks = ticks(x.low, x.high, 5)
    for value in x_ticks:
        drawing.text(x(value), height - 20, tick_text(value, x_ticks), "axis", "middle")
    middle = (left + WIDTH - 6) / 2
    drawing.text(middle, height - 4, "seconds of training, × student alone", "axis", "middle")
    drawing.circle(x(1.0), y(0.0), 4.5, "fill c1")
    for place, (_, cost, each) in enumerate(points, 1):
        if each.interval is not None:
            low, high = (y(bound) for bound in each.interval)
            drawing.line(x(cost), low, x(cost), high, "whisker c0")
        drawing.circle(x(cost), y(each.mean), 4.5, "fill c0")
        drawing.text(x(cost) + 7, y(each.mean) - 3, str(place), "value")
    return drawing


SMALL = 168
"""Width of a small figure: two stand side by side on a phone."""


def reliability(title: str, error: float, before: Sequence[Bin], after: Sequence[Bin]) -> Drawing:
    """Draw accuracy by confidence: bars as the model is, dots after temperature scaling.

    Args:
        title: whose it is.
        error: expected calibration error, in per cent.
        before: bins.
        after: bins after scaling; none where it was not done.
    """
    filled = [each for each in before if each.count]
    told = ", ".join(
        f"{100 * each.accuracy:.0f} % right at {100 * each.confidence:.0f} %" for each in filled
    )
    scaled = "; dots: after temperature scaling" if after else ""
    drawing = Drawing(
        SMALL + 36, f"Reliability of {title}", f"By confidence: {told}{scaled}.", SMALL
    )
    drawing.text(0, 11, cut(title, 26), "strong")
    drawing.text(0, 26, f"ECE {error:.1f} %", "axis")
    left, right, top, bottom = 26, SMALL - 6, 34, SMALL + 2
    x, y = Scale(0, 1, left, right), Scale(0, 1, bottom, top)
    for value in (0.0, 0.5, 1.0):
        drawing.line(left, y(value), right, y(value), "grid")
        drawing.text(left - 4, y(value) + 4, f"{100 * value:.0f}", "axis", "end")
        anchor = "middle" if value < 1 else "end"
        drawing.text(x(value), bottom + 14, f"{100 * value:.0f}", "axis", anchor)
    for each in filled:
        height = bottom - y(each.accuracy)
        width = x(each.high) - x(each.low) - 1
        drawing.rect(x(each.low) + 0.5, y(each.accuracy), width, height, "fill c0", 0.55)
    drawing.line(left, bottom, right, top, "zero")
    for each in after:
        if each.count:
            drawing.circle(x(each.confidence), y(each.accuracy), 2.6, "fill c1")
    drawing.text((left + right) / 2, bottom + 30, "confidence (%)", "axis", "middle")
    return drawing


CELL = 24


def matrix(counts: Tensor, names: Sequence[str], title: str) -> Drawing:
    """Draw a confusion matrix: true classes are rows, those that were said are columns."""
    size, shown = len(names), [cut(name, 14) for name in names]
    left = 30 + SIGNS * max(map(len, shown))
    # Short names stand upright, longer ones are turned.
    short = max(map(len, shown)) <= 3
    top = 38 if short else 28 + SIGNS * max(map(len, shown)) * 0.75
    width = max(left + CELL * size + (0 if short else 44), SMALL)
    rows = counts.tolist()
    right = int(counts.diagonal().sum())
    drawing = Drawing(
        top + CELL * size + 6,
        title,
        f"{right} of {int(counts.sum())} samples lie on the diagonal.",
        width,
    )
    drawing.text(left, 11, "said", "axis")
    drawing.text(11, top + CELL * size / 2, "true class", "axis", "middle", -90)
    for place, name in enumerate(shown):
        middle = CELL * place + CELL / 2
        drawing.text(left - 6, top + middle + 4, name, "", "end")
        if short:
            drawing.text(left + middle, top - 6, name, "", "middle")
        else:
            drawing.text(left + middle, top - 6, name, "", "start", -45)
    for of, row in enumerate(rows):
        total = sum(row) or 1
        for said, count in enumerate(row):
            if not count:
                continue
            share = count / total
            kind = "fill c0" if of == said else "fill c1"
            x, y = left + CELL * said, top + CELL * of
            drawing.rect(x + 0.5, y + 0.5, CELL - 1, CELL - 1, kind, 0.12 + 0.88 * share)
            digits = f"{count}" if count < 10_000 else f"{count / 1000:.0f}k"
            drawing.text(
                x + CELL / 2,
                y + CELL / 2 + 3.5,
                digits,
                "cell inverse" if share > 0.5 else "cell",
                "middle",
            )
    drawing.rect(left, top, CELL * size, CELL * size, "frame")
    return drawing


PARTS = (
    ("both right", "c0"),
    ("teacher alone right", "c3"),
    ("student alone right", "c2"),
    ("the same mistake", "c1"),
    ("different mistakes", "c4"),
)


def parted(rows: Sequence[tuple[str, Sequence[Agreement]]]) -> Drawing:
    """Draw for each student how its and the teacher's answers go together, as shares of a bar."""
    legend = [name for name, _ in PARTS]
    top = LINE * len(_legend_lines(legend)) + 4
    drawing = Drawing(top + 40 * len(rows) + 18, "Teacher and student, right and wrong", "")
    _legend(drawing, PARTS, 12, area=True)
    told = []
    for index, (label, each) in enumerate(rows):
        y, x = top + 40 * index, 0.0
        drawing.text(0, y + 13, cut(label, 50))
        shares = [
            mean_of([getattr(one, key) for one in each]) or 0.0
            for key in ("both_right", "teacher_only", "student_only", "same_wrong", "other_wrong")
        ]
        for share, (_, kind) in zip(shares, PARTS, strict=True):
            width = share / 100 * WIDTH
            drawing.rect(x, y + 18, max(width - 1, 0), 15, f"fill {kind}")
            if width > 26:
                drawing.text(x + width / 2, y + 29.5, f"{share:.0f}", "cell inverse", "middle")
            x += width
        parts = zip(PARTS, shares, strict=True)
        told.append(f"{label}: " + ", ".join(f"{name} {share:.1f} %" for (name, _), share in parts))
    drawing.about = "; ".join(told) + "."
    drawing.text(WIDTH, top + 40 * len(rows) + 12, "per cent of the test samples", "axis", "end")
    return drawing


def shares(title: str, measured: Sequence[Mapping[str, float]]) -> Drawing:
    """Draw each loss's share in the gradient, one above the other, by measurement."""
    labels = list(dict.fromkeys(label for each in measured for label in each))
    kinds = {label: f"c{index % COLOURS}" for index, label in enumerate(labels)}
    top = LINE * len(_legend_lines(labels)) + 26
    height = top + 122
    means = {
        label: 100 * sum(each.get(label, 0.0) for each in measured) / len(measured)
        for label in labels
    }
    told = ", ".join(f"{label} {mean:.0f} %" for label, mean in means.items())
    drawing = Drawing(height, f"Shares in the gradient of {title}", f"In the mean {told}.")
    drawing.text(0, 12, cut(title, 50), "strong")
    _legend(drawing, list(kinds.items()), 30, area=True)
    top += 2
    left = 34.0
    x = Scale(0, max(len(measured) - 1, 1), left, WIDTH - 2)
    y = Scale(0, 1, height - 20, top)
    floor = [0.0] * len(measured)
    for label in labels:
        ceiling = [low + each.get(label, 0.0) for low, each in zip(floor, measured, strict=True)]
        there = [(x(place), y(value)) for place, value in enumerate(ceiling)]
        back = [(x(place), y(value)) for place, value in enumerate(floor)]
        if len(measured) == 1:  # one measurement is as wide as the figure
            there, back = [*there, (WIDTH - 2, there[0][1])], [*back, (WIDTH - 2, back[0][1])]
        drawing.path([*there, *reversed(back)], f"fill {kinds[label]}", closed=True)
        floor = ceiling
    for value in (0.0, 0.5, 1.0):
        drawing.line(left, y(value), WIDTH - 2, y(value), "grid over")
        drawing.text(left - 5, y(value) + 4, number(100 * value), "axis", "end")
    drawing.text(left, height - 4, "start of training", "axis")
    drawing.text(WIDTH - 2, height - 4, "end", "axis", "end")
    return drawing
