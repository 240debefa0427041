import re
from pathlib import Path

from kdcore.report.rows import Sheet
from kdcore.report.samples import sections
from kdcore.report.study import Study
from tests.report.runs import comparison, said


def _bodies(folder: Path, classes: int, samples: int = 60) -> dict[str, str]:
    names = [f"class {index}" for index in range(classes)]
    results = comparison(folder, ["a"], [1], names, logits=said(1, classes, samples))
    return {each.name: each.body for each in sections(Study.of(Sheet.of(results)))}


def test_few_classes_have_matrices_and_many_have_lists(tmp_path: Path) -> None:
    few, many = _bodies(tmp_path / "few", 5), _bodies(tmp_path / "many", 31)
    assert few["confusion"].count("<svg") == 3
    assert many["confusion"].count("<svg") == 0
    assert many["confusion"].count("was taken for") == 3
    assert few["classes"].count("<tr>") == 1 + 5 + 1
    assert many["classes"].count("<tr>") == 1 + 20 + 1


def test_a_matrix_has_a_cell_for_what_occurs_alone(tmp_path: Path) -> None:
    body = _bodies(tmp_path, 5)["confusion"]
    first = body[: body.index("</svg>")]
    said_of = said(1, 5).argmax(1).tolist()
    pairs = {(index % 5, one) for index, one in enumerate(said_of)}
    assert len(re.findall(r'<text [^>]*class="cell', first)) == len(pairs)


def test_the_teacher_is_asked_of_ten_images_at_four_temperatures(tmp_path: Path) -> None:
    body = _bodies(tmp_path, 5)["opinions"]
    assert body.count("<img") == 10
    for temperature in (1, 2, 4, 8):
        assert body.count(f"T = {temperature}<") == 10


def test_the_true_class_is_shown_however_unlikely_it_is(tmp_path: Path) -> None:
    logits = -said(1, 9)  # mostly wrong
    names = [f"class {index}" for index in range(9)]
    results = comparison(tmp_path, ["a"], [1], names, logits=logits)
    bodies = {each.name: each.body for each in sections(Study.of(Sheet.of(results)))}
    for index in range(9):
        assert f"<b>class {index}</b>" in bodies["opinions"]


def test_nothing_is_said_of_samples_that_nothing_is_known_of() -> None:
    assert sections(Study((), (), 0)) == []
