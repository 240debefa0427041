import re
import xml.etree.ElementTree as ET

import pytest
import torch

from kdcore.report.analysis import Agreement, Bin
from kdcore.report.figures import (
    Series,
    curves,
    differences,
    matrix,
    parted,
    prices,
    reliability,
    shares,
)
from kdcore.report.svg import WIDTH, Drawing
from kdcore.statistics import Summary

LONG = "a-candidate-with-a-label-that-goes-on-and-on-and-on-for-ever"


def _drawings() -> list[Drawing]:
    points = ((1.0, 50.0), (2.0, 75.0))
    flat = ((1.0, 0.0),)
    bins = [Bin(0.0, 0.5, 0, 0.0, 0.0), Bin(0.5, 1.0, 7, 0.8, 0.6)]
    half = Agreement(50, 40, 30, 20, 10, 0, 0.5)
    return [
        curves([Series(LONG, points, "c0"), Series("b", points, "c1")], "t", "epoch", "score"),
        curves([Series("one point", flat, "c0")], "t", "epoch", "score"),
        differences([(LONG, Summary(1.0, 0.5, (-1.0, 3.0), None, 2), "soft")], "points", ".2f"),
        differences([("a", Summary(0.0, None, None, None, 2), "soft")], "points", ".2f"),
        matrix(torch.tensor([[5, 1], [0, 90_000]]), ["cat", LONG], "t"),
        parted([(LONG, [half, half])]),
        reliability(LONG, 12.0, bins, bins),
        shares(LONG, [{"task": 0.4, "hint": 0.6}]),
        shares("a", [{"task": 0.4, "hint": 0.6}, {"task": 1.0}]),
        prices(
            [
                (LONG, 24.0, Summary(1.0, 0.5, (-1.0, 3.0), None, 2)),
                ("b", 1.0, Summary(2.0, 0, None, None, 2)),
            ],
            "%",
        ),
        prices(
            [(each, 1.0, Summary(0.0, None, None, None, 2)) for each in "abcdefghijklmnopq"], "%"
        ),
    ]


@pytest.mark.parametrize("drawing", _drawings(), ids=lambda each: each.title[:20])
def test_a_figure_is_well_formed_described_and_within_its_bounds(drawing: Drawing) -> None:
    root = ET.fromstring(drawing.svg("n"))
    assert root[1].text
    assert "nan" not in drawing.svg("n")
    for each in root:
        for name, end in (("x", drawing.width), ("cx", drawing.width), ("cy", drawing.height)):
            assert -1 <= float(each.get(name, 0)) <= end + 1
        if each.tag.endswith("rect"):
            right = float(each.get("x", 0)) + float(each.get("width", 0))
            assert right <= drawing.width + 1


def test_text_does_not_run_out_of_a_figure() -> None:
    for drawing in _drawings():
        for place, text in re.findall(
            r'<text x="([\d.]+)" y="[\d.]+"(?: class="\w+")?>([^<]+)', drawing.svg("n")
        ):
            assert (
                float(place) + 5.2 * len(text)
                <= max(drawing.width, WIDTH if drawing.width >= WIDTH else 0) + 1
            )


def test_bars_of_a_student_are_as_wide_as_its_shares() -> None:
    drawing = parted([("a", [Agreement(50, 40, 30, 20, 10, 0, 0.5)])])
    widths = [
        float(w) for w in re.findall(r'<rect [^>]*width="([\d.]+)" height="15"', drawing.svg("n"))
    ]
    assert widths == [round(share / 100 * WIDTH - 1, 1) for share in (40, 30, 20, 10)] + [0]


def test_what_a_figure_shows_is_said_in_words_too() -> None:
    about = [each.about for each in _drawings()]
    assert "+1.00 (-1.00 to +3.00)" in about[2]
    assert "both right 40.0 %" in about[5]
    assert "60 % right at 80 %" in about[6]
    assert "hint 60 %" in about[7]


def test_gains_are_drawn_at_what_they_cost_beside_the_student_alone() -> None:
    drawing = prices(
        [
            ("a", 3.0, Summary(2.0, None, None, None, 2)),
            ("b", 2.0, Summary(-1.0, None, None, None, 2)),
        ],
        "%",
    )
    circles = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', drawing.svg("n"))
    alone, one, two = ((float(x), float(y)) for x, y in circles)
    assert alone[0] < two[0] < one[0]
    assert one[1] < alone[1] < two[1]
    assert "a 3.00 ×, +2.00; b 2.00 ×, -1.00" in drawing.about
