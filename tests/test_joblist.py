"""The students of a comparison by number, their records, and the report of what there is."""

import json
import re
from pathlib import Path

import pytest

from kdcore import report
from kdcore.errors import ConfigError, UserError
from kdcore.experiment import ComparisonConfig
from kdcore.job import RunResult
from kdcore.joblist import Student, join, numbered, record, students
from kdcore.tasks import ACCURACY

CONFIG = ComparisonConfig.model_validate(
    {
        "seeds": [5, 3],
        "task_weight": 0.5,
        "candidates": [
            {"label": "a", "strategies": [{"name": "logits"}]},
            {"label": "b", "strategies": [{"name": "cosine"}], "task_weight": 2.0},
        ],
    }
)
WORDS = b"a comparison"


def _result(name: str, seed: int, accuracy: float) -> RunResult:
    epochs = ({"epoch": 1, "loss": 1.0, "scores": {"accuracy": accuracy}},)
    scores = {"accuracy": accuracy}
    return RunResult(name, seed, scores, 1.0, 2.0, epochs, None, None, "f", (ACCURACY,))


def _record(
    out: Path,
    student: Student,
    accuracy: float,
    words: bytes = WORDS,
    data: str = "the data",
    teacher: str = "the teacher of",
) -> None:
    teachers = [] if student.alone else [_result("teacher", student.seed, 99.0)]
    own = _result(student.name, student.seed, accuracy)
    who = {} if student.alone else {"teacher": f"{teacher} {student.seed}"}
    facts = {"data": data, "teachers": who}
    record(out, words, student, [*teachers, own], ["of what"], facts)


def test_students_are_numbered_seed_by_seed_and_have_the_weights_of_their_candidates() -> None:
    listed = students(CONFIG)
    assert [(each.number, each.seed, each.name) for each in listed] == [
        (0, 5, "student"),
        (1, 5, "a"),
        (2, 5, "b"),
        (3, 3, "student"),
        (4, 3, "a"),
        (5, 3, "b"),
    ]
    assert [each.plan[0].task_weight for each in listed[:3]] == [1.0, 0.5, 2.0]
    assert numbered(CONFIG, 4) == listed[4]
    for number in (-1, 6):
        with pytest.raises(ConfigError, match="there are students 0 to 5"):
            numbered(CONFIG, number)


def test_what_is_there_is_joined_in_the_order_of_a_whole_comparison(tmp_path: Path) -> None:
    for student in reversed(students(CONFIG)):
        _record(tmp_path, student, 50.0 + student.number)
    found = join(tmp_path, WORDS, CONFIG)
    names = ["teacher", "student", "a", "b"]
    assert [(each.seed, each.name) for each in found.results] == [
        (seed, name) for seed in (5, 3) for name in names
    ]
    assert [each.accuracy for each in found.results][1:4] == [50.0, 51.0, 52.0]
    assert (found.missing, found.about) == ((), ("of what",))
    report.write_report(tmp_path, "all", found.about, found.results)
    assert "| a | 52.50" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_what_is_missing_or_of_another_comparison_is_named(tmp_path: Path) -> None:
    listed = students(CONFIG)
    _record(tmp_path, listed[1], 51.0)
    _record(tmp_path, listed[2], 52.0, b"another")
    found = join(tmp_path, WORDS, CONFIG)
    assert [each.name for each in found.results] == ["teacher", "a"]
    assert [each.number for each in found.missing] == [0, 2, 3, 4, 5]


def test_nothing_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no student of the comparison"):
        join(tmp_path, WORDS, CONFIG)


@pytest.mark.parametrize(
    ("other", "words"), [({"data": "other"}, "(data)"), ({"teacher": "x"}, "(teacher teacher)")]
)
def test_students_of_other_data_or_teachers_do_not_stand_in_one_table(
    tmp_path: Path, other: dict[str, str], words: str
) -> None:
    listed = students(CONFIG)
    _record(tmp_path, listed[0], 50.0)
    _record(tmp_path, listed[1], 51.0)
    join(tmp_path, WORDS, CONFIG)
    _record(tmp_path, listed[2], 52.0, **other)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=re.escape(words)):
        join(tmp_path, WORDS, CONFIG)


def test_a_teacher_with_a_seed_of_its_own_is_one_for_all_seeds(tmp_path: Path) -> None:
    teacher = CONFIG.model_teachers["teacher"].model_copy(update={"seed": 42})
    config = CONFIG.model_copy(update={"teacher": teacher})
    listed = students(CONFIG)
    for student in (listed[1], listed[4]):
        _record(tmp_path, student, 51.0)
    join(tmp_path, WORDS, CONFIG)  # one of each seed
    with pytest.raises(UserError, match=r"students 1 and 4 .* \(teacher teacher\)"):
        join(tmp_path, WORDS, config)


def test_a_record_that_is_not_whole_is_none(tmp_path: Path) -> None:
    listed = students(CONFIG)
    _record(tmp_path, listed[0], 50.0)
    _record(tmp_path, listed[1], 51.0)
    file = tmp_path / "students" / "1.json"
    known = json.loads(file.read_text())
    del known["about"]
    file.write_text(json.dumps(known))
    assert [each.number for each in join(tmp_path, WORDS, CONFIG).missing] == [1, 2, 3, 4, 5]
