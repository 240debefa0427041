import base64
import io
import re

import torch
from PIL import Image

from kdcore.report.html import bar, details, figure, paragraph, picture, table, warning
from kdcore.report.svg import Drawing

HOSTILE = '<script>alert("1")</script>'


def test_every_text_is_escaped() -> None:
    parts = [
        paragraph(HOSTILE),
        warning(HOSTILE),
        table([HOSTILE, "b"], [[HOSTILE, HOSTILE]], HOSTILE),
        bar(0.5, HOSTILE),
        details(HOSTILE, ""),
        picture(torch.zeros(3, 2, 2, dtype=torch.uint8), HOSTILE),
        figure(Drawing(5, HOSTILE, HOSTILE), "name", HOSTILE, fixed=True),
    ]
    for part in parts:
        assert "<script" not in part
        assert "&lt;script&gt;" in part


def test_a_table_says_what_heads_rows_and_columns_and_scrolls_by_itself() -> None:
    text = table(["", "score", "by"], [["a", "1", "me"]], "scores", {2})
    assert '<th scope="col">score</th>' in text
    assert '<th scope="row">a</th><td>1</td><td class="words">me</td>' in text
    assert text.startswith('<div class="box" role="region" tabindex="0" aria-label="scores">')


def test_a_picture_is_within_the_page_and_is_that_picture() -> None:
    image = torch.full((3, 16, 8), 200, dtype=torch.uint8)
    text = picture(image, "grey")
    assert 'alt="grey" width="8" height="16"' in text
    (data,) = re.findall(r"base64,([^\"]+)", text)
    with Image.open(io.BytesIO(base64.b64decode(data))) as shown:
        assert shown.size == (8, 16)
        assert abs(shown.convert("L").getpixel((4, 4)) - 200) < 3  # type: ignore[operator]
    assert picture(None, "nothing") == ""


def test_details_are_folded_unless_they_are_to_be_shown() -> None:
    assert "<details>" in details("more", "")
    assert "<details open>" in details("more", "", shown=True)
