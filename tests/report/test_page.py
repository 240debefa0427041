"""The page as a browser and a screen reader meet it."""

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest

from kdcore.job import RunResult
from kdcore.report.page import page
from kdcore.report.rows import Sheet
from kdcore.report.study import Study
from kdcore.tasks import Metric
from tests.report import browser
from tests.report.runs import comparison, said

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Reader(HTMLParser):
    """Notes what a page consists of, and what is wrong with it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        self.wrong += [f"<{tag}> is not closed" for tag in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}> closes nothing")

    def handle_data(self, data: str) -> None:
        if self.open and re.fullmatch("h[1-6]", self.open[-1]):
            self.headings.append(f"{self.open[-1]} {data}")
        self.text.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def foreign(text: str) -> list[str]:
    """Return what a page would take from elsewhere, and every program in it."""
    read, found = Reader(text), []
    for tag, attributes in read.tags:
        for name, value in attributes.items():
            own = (value or "").startswith(("#", "data:"))
            if name in ("src", "href", "srcset", "xlink:href", "action", "poster") and not own:
                found.append(f"{tag} {name}={value}")
            if name.startswith("on"):
                found.append(f"{tag} {name}")
        if tag in ("script", "iframe", "object", "embed"):
            found.append(tag)
    return found + re.findall(r"@import|url\(|expression\(", text)


def _page(results: Sequence[RunResult], title: str = "title", about: Sequence[str] = ()) -> str:
    sheet = Sheet.of(results)
    return page(title, about, sheet, Study.of(sheet))


def test_the_page_is_well_formed_and_takes_nothing_from_elsewhere(tmp_path: Path) -> None:
    text = _page(comparison(tmp_path), about=["<i>about</i>"])
    assert Reader(text).wrong == []
    assert foreign(text) == []


@pytest.mark.parametrize(
    "harm",
    [
        '<img src="https://example.org/x.png">',
        '<link href="//example.org/x.css">',
        "<script>1</script>",
        '<p onclick="x()"></p>',
        "<style>@import 'x'</style>",
    ],
)
def test_what_the_tests_of_the_page_look_for_is_found(harm: str) -> None:
    assert foreign(f"<html>{harm}</html>")


def test_a_page_that_is_not_well_formed_is_found() -> None:
    assert Reader("<p><b></p>").wrong


def test_names_that_users_give_do_no_harm(tmp_path: Path) -> None:
    hostile = '"><script>alert(1)</script>'
    results = comparison(tmp_path, names=("cat", "</style>", hostile))
    text = _page(results, hostile, [hostile, "</title>"])
    read = Reader(text)
    assert read.wrong == []
    assert read.of("script") == []
    assert read.text.count(hostile) >= 5  # as text it is there
    assert "&lt;photo&gt;" in text
    assert "<photo>" not in text


def test_every_picture_says_what_it_is(tmp_path: Path) -> None:
    read = Reader(_page(comparison(tmp_path)))
    images, drawings = read.of("img"), read.of("svg")
    assert len(images) > 10
    assert len(drawings) > 5
    assert all(each.get("alt") for each in images)
    ids = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for each in drawings:
        assert each["role"] == "img"
        assert set((each["aria-labelledby"] or "").split()) <= set(ids)


def test_headings_and_contents_lead_through_the_page(tmp_path: Path) -> None:
    read = Reader(_page(comparison(tmp_path), "all of it"))
    assert read.headings[0] == "h1 all of it"
    assert [each for each in read.headings if each.startswith("h2")] == [
        "h2 Results",
        "h2 What it costs",
        "h2 Learning curves",
        "h2 Accuracy by class",
        "h2 Confusions",
        "h2 Where teacher and student disagree",
        "h2 The worst images",
        "h2 What the teacher says of ten images",
        "h2 Calibration",
        "h2 Agreement with the teacher",
        "h2 Shares in the gradient",
        "h2 Where weights began",
        "h2 Settings and versions",
    ]
    ids = {attributes.get("id") for _, attributes in read.tags}
    targets = [(each["href"] or "").removeprefix("#") for each in read.of("a")]
    assert len(targets) == 13
    assert set(targets) <= ids


def test_sections_with_nothing_to_show_are_left_out() -> None:
    metric = Metric("R²")
    epochs = ({"epoch": 1, "loss": 1.0, "scores": {"R²": 0.5}},)
    bare = RunResult("a", 1, {"R²": 0.5}, 1.0, 2.0, epochs, None, None, "", (metric,))
    read = Reader(_page([bare]))
    assert [each.removeprefix("h2 ") for each in read.headings[1:]] == [
        "Results",
        "What it costs",
        "Learning curves",
        "Where weights began",
        "Settings and versions",
    ]
    nothing = RunResult("teacher", 1, {}, None, 0.0, (), None, None, "", ())
    assert Reader(_page([nothing])).wrong == []


def test_samples_that_are_no_images_are_named_and_not_shown(tmp_path: Path) -> None:
    read = Reader(_page(comparison(tmp_path, pictures=False)))
    assert read.of("img") == []
    assert any("png" in each for each in read.text)


def test_a_loss_that_drowns_the_others_is_warned_of(tmp_path: Path) -> None:
    results = comparison(tmp_path, ["a"], [1], shares=(0.95, 0.96, 0.97))
    assert "the loss 'a' has 96 % of the gradient" in " ".join(Reader(_page(results)).text)
    assert "Warning" not in _page(comparison(tmp_path, ["a"], [1]))


def test_seventeen_candidates_and_five_seeds_stay_small(tmp_path: Path) -> None:
    names = [f"candidate-number-{index}" for index in range(17)]
    results = comparison(tmp_path, names, range(1, 6), [f"class {n}" for n in range(30)])
    text = _page(results)
    assert Reader(text).wrong == []
    assert len(text) < 6_000_000


def test_a_thousand_classes_stay_small(tmp_path: Path) -> None:
    names = [f"class {n}" for n in range(1000)]
    results = comparison(tmp_path, ["a"], [1], names, logits=said(1, 1000, 2000, 1.0))
    text = _page(results)
    assert len(text) < 1_000_000
    assert "The 20 of 1,000 classes" in text


@pytest.mark.slow
@pytest.mark.skipif(browser.binary() is None, reason="there is no browser")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_a_browser_shows_it_without_a_request_a_complaint_or_a_scroll_bar(
    tmp_path: Path, width: int, scheme: str
) -> None:
    file = tmp_path / "report.html"
    names = [f"a class of a rather long name, number {n}" for n in range(14)]
    file.write_text(_page(comparison(tmp_path / "out", names=names)), encoding="utf-8")
    with browser.running() as shown:
        shown.open(file, width, scheme)
        asked = [each for each in shown.requests() if not each.startswith("data:")]
        assert asked == [file.as_uri()]
        unfold = "document.querySelectorAll('details').forEach(each => each.open = true)"
        shown.value(unfold)
        assert shown.value("document.documentElement.scrollWidth") == width
        assert shown.complaints() == []
        dark = shown.value("getComputedStyle(document.documentElement).backgroundColor")
        assert (dark == "rgb(22, 24, 26)") == (scheme == "dark")
        small = shown.value(SMALLEST)
        assert small >= 9, "text in figures is too small to read"


@pytest.mark.slow
@pytest.mark.skipif(browser.binary() is None, reason="there is no browser")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_table_shows_where_it_goes_on_and_where_it_ends(tmp_path: Path, scheme: str) -> None:
    file = tmp_path / "report.html"
    file.write_text(_page(comparison(tmp_path / "out")), encoding="utf-8")
    with browser.running() as shown:
        shown.open(file, 390, scheme)
        box = "document.querySelector('#costs .box')"
        assert shown.value(f"{box}.scrollWidth > {box}.clientWidth")
        before = _edge(shown, box)
        shown.value(f"{box}.scrollLeft = 9999")
        assert before != _edge(shown, box)  # the shade has gone, as nothing is behind the edge
        lines = "[...document.querySelectorAll('#costs tbody th')]"
        tops = f"{lines}.map(each => getComputedStyle(each).borderTopWidth)"
        assert set(shown.value(tops)) == {"1px"}


def _edge(shown: browser.Browser, box: str) -> str:
    """Return the colours of the upper right corner of a box, where no text is."""
    shown.value(f"{box}.scrollIntoView()")
    place = shown.value(f"(r => [r.right - 4, r.top + scrollY + 1])({box}.getBoundingClientRect())")
    clip = {"x": place[0], "y": place[1], "width": 4, "height": 4, "scale": 1}
    return str(shown.call("Page.captureScreenshot", format="png", clip=clip)["data"])


SMALLEST = """Math.min(...[...document.querySelectorAll('svg text')].map(each => {
  const scale = each.ownerSVGElement.getBoundingClientRect().width /
    each.ownerSVGElement.viewBox.baseVal.width;
  return scale ? scale * parseFloat(getComputedStyle(each).fontSize) : 99;
}))"""


@pytest.mark.slow
@pytest.mark.skipif(browser.binary() is None, reason="there is no browser")
def test_the_browser_tells_of_requests_complaints_and_scroll_bars(tmp_path: Path) -> None:
    file = tmp_path / "bad.html"
    (tmp_path / "x.png").write_bytes(b"")
    file.write_text(
        "<img src='x.png'><script>console.error('no')</script><div style='width:2000px'>x</div>"
    )
    with browser.running() as shown:
        shown.open(file, 390)
        assert any(each.endswith("x.png") for each in shown.requests())
        assert any("no" in each for each in shown.complaints())
        assert shown.value("document.documentElement.scrollWidth") > 390
