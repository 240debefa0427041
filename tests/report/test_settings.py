from dataclasses import replace
from pathlib import Path

from kdcore.report.rows import Sheet
from kdcore.report.settings import origin_lines, sections, version_lines
from tests.report.runs import comparison

NAMES = ("cat", "dog", "eel")


def test_origins_of_teacher_and_student_are_stated(tmp_path: Path) -> None:
    teacher, alone, own = comparison(tmp_path, ["a"], [1], NAMES)
    teacher = replace(teacher, origin="pretrained: <w>")
    lines = origin_lines(Sheet.of([teacher, alone, own]))
    assert lines[0] == ["teacher", "pretrained: <w>"]
    body = sections(Sheet.of([teacher, alone, own]))[0].body
    assert "pretrained: &lt;w&gt;" in body


def test_settings_are_folded_and_escaped(tmp_path: Path) -> None:
    body = sections(Sheet.of(comparison(tmp_path, ["a"], [1], NAMES)))[1].body
    assert body.count("<details>") == 1 + 1 + 3  # versions, comparison.toml, a file a row
    assert "a &lt;b&gt;" in body
    assert "[[candidates]]" in body


def test_versions_that_differ_are_all_named(tmp_path: Path) -> None:
    results = comparison(tmp_path, ["a"], [1], NAMES)
    assert version_lines(Sheet.of(results)) == [["torch", "9.9"], ["hash of the data", "d" * 12]]
    file = Path(results[2].folder) / "result.json"
    file.write_text(file.read_text().replace("9.9", "10.0"))
    assert version_lines(Sheet.of(results))[0] == ["torch", "9.9; 10.0"]
