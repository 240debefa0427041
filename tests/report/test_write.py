import json
from dataclasses import replace
from pathlib import Path

from kdcore.job import MARKDOWN, ROWS
from kdcore.report import Sheet, gather, write_report
from kdcore.report.scores import cost_notes
from kdcore.report.study import Study
from kdcore.report.write import CURVES, GAINS, PAGE, gains, markdown
from tests.report.runs import comparison


def test_a_report_is_made_again_the_same_from_its_folder(tmp_path: Path) -> None:
    results = comparison(tmp_path)
    write_report(tmp_path, "kdcore compare: mine", [f"of what, in {tmp_path.name}"], results)
    before = {
        name: (tmp_path / name).read_bytes() for name in (PAGE, MARKDOWN, ROWS, CURVES, GAINS)
    }
    found = gather([tmp_path])
    write_report(tmp_path, found.title, found.about, found.sheet)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_the_markdown_has_the_report_in_short(tmp_path: Path) -> None:
    results = comparison(tmp_path, shares=(0.95, 0.95, 0.95))
    write_report(tmp_path, "a <title>", ["<b>about</b>"], results)
    text = (tmp_path / MARKDOWN).read_text(encoding="utf-8")
    assert text.startswith("# a &lt;title>\n\n- &lt;b>about&lt;/b>\n\n**Warning:** a: the loss")
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == [
        "## Last and best weights",
        "## Costs",
        "## Calibration",
        "## Agreement with the teacher",
        "## Where weights began",
    ]
    assert "nothing was chosen on the test samples" in text
    assert "![Accuracy by epoch](curves.png)" in text
    assert "[report.html](report.html)" in text


def test_the_rows_are_kept_for_programs_with_what_they_are_of(tmp_path: Path) -> None:
    results = comparison(tmp_path, ["a"], [1])
    write_report(tmp_path, "t", ["of this"], results)
    known = json.loads((tmp_path / ROWS).read_text())
    assert (known["title"], known["about"]) == ("t", ["of this"])
    assert [row["name"] for row in known["rows"]] == ["teacher", "student", "a"]


def test_two_candidates_have_a_picture_of_what_each_gain_costs(tmp_path: Path) -> None:
    results = comparison(tmp_path)
    write_report(tmp_path, "two", [], results)
    assert (tmp_path / GAINS).read_bytes().startswith(b"\x89PNG")
    assert "![What each gain costs](gains.png)" in (tmp_path / MARKDOWN).read_text()
    assert cost_notes(Sheet.of(results)) == ["seconds of training, × student alone"]
    one = [each for each in results if each.name in ("teacher", "student", results[-1].name)]
    assert gains(one) is None
    assert "gains.png" not in markdown("one", [], Sheet.of(one), Study.of(Sheet.of(one)))


def test_the_picture_says_what_asking_took_and_leaves_out_who_trained_elsewhere(
    tmp_path: Path,
) -> None:
    results = [
        replace(
            each,
            machine="there" if each.name == "c" else "here",
            teacher_seconds=4.5 if each.name == "a" else 0.0,
        )
        for each in comparison(tmp_path, ["a", "b", "c"])
    ]
    assert cost_notes(Sheet.of(results)) == [
        "seconds of training, × student alone",
        "(asking teachers once for all runs took 9.0 seconds more)",
        "left out, trained on another machine: c",
    ]
    assert gains(results) is not None
    apart = [replace(each, machine="there") if each.name == "b" else each for each in results]
    assert gains(apart) is None  # one is left
    write_report(tmp_path, "t", [], results)
    told = "seconds are of several machines, and only those of one compare: here, and there"
    for file in (MARKDOWN, PAGE):
        text = (tmp_path / file).read_text(encoding="utf-8")
        assert told[1:] in text
        assert "sking teachers once for what all runs read took 9.0 seconds more" in text
