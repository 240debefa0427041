import xml.etree.ElementTree as ET

import pytest

from kdcore.report.svg import Drawing, Scale, cut, number, tick_text, ticks

SVG = "{http://www.w3.org/2000/svg}"


def test_a_drawing_is_well_formed_named_and_described() -> None:
    drawing = Drawing(50, "a < b", 'said "so" & so')
    drawing.line(0, 0, 1.25, 2, "grid")
    drawing.path([(0, 0), (1, 1)], "curve")
    drawing.path([(0, 0), (1, 1), (0, 1)], "fill", closed=True)
    drawing.rect(0, 0, 5, 5, "fill", 0.5)
    drawing.circle(1, 1, 2, "fill")
    drawing.text(0, 10, "<script>", "axis", "end", -45)
    root = ET.fromstring(drawing.svg("here"))
    assert root.get("role") == "img"
    names = {each.get("id"): each.text for each in root if each.get("id")}
    assert names == {"here-t": "a < b", "here-d": 'said "so" & so'}
    assert root.get("aria-labelledby") == "here-t here-d"
    texts = [each.text for each in root.iter() if each.tag.endswith("text")]
    assert texts == ["<script>"]


def test_coordinates_are_short() -> None:
    assert [number(each) for each in (1.0, 1.25, -0.04, 100.0)] == ["1", "1.2", "-0", "100"]


def test_a_scale_puts_bounds_at_its_ends() -> None:
    scale = Scale(10, 20, 100, 0)
    assert [scale(value) for value in (10, 15, 20)] == [100, 50, 0]


@pytest.mark.parametrize("bounds", [(0, 1), (-3.2, 7.9), (0.001, 0.0017), (96, 98), (0, 12_345)])
def test_ticks_are_round_few_and_within_bounds(bounds: tuple[float, float]) -> None:
    low, high = bounds
    found = ticks(low, high)
    assert 2 <= len(found) <= 5
    assert all(low - 1e-9 <= each <= high + 1e-9 for each in found)
    texts = [tick_text(each, found) for each in found]
    assert len(set(texts)) == len(texts)
    assert [float(text.replace(",", "")) for text in texts] == pytest.approx(found)


def test_names_are_cut() -> None:
    assert (cut("short", 8), cut("rather long", 8)) == ("short", "rather …")
