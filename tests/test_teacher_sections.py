"""The sections of teachers: one or several, what each may be, and that each has a learner."""

import tomllib
from typing import Any

import pytest

from kdcore.configfile import as_comparison, as_run, as_toml
from kdcore.errors import ConfigError
from kdcore.experiment import RunConfig
from kdcore.teacher_sections import AverageConfig, EnsembleConfig, TeacherConfig
from kdcore.teachers import MovingAverageTeacher, TeacherEnsemble

TEACHERS: dict[str, Any] = {
    "big": {"model": "deepnn", "image_size": 16},
    "small": {"model": "lightnn", "train": {"epochs": 3}},
    "both": {"ensemble": ["big", "small"], "shares": [3.0, 1.0]},
    "self": {"average": 0.99},
}


def _entries(*names: str | None) -> list[dict[str, Any]]:
    return [
        {"name": "logits", "label": f"l{at}"} | ({"teacher": name} if name else {})
        for at, name in enumerate(names)
    ]


def _run(teachers: dict[str, Any], *bound: str | None, **more: Any) -> RunConfig:
    return as_run({"teachers": teachers, "strategies": _entries(*bound), **more}, "file.toml")


def _refused(teachers: dict[str, Any], *bound: str | None, **more: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        _run(teachers, *bound, **more)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_each_teacher_is_what_its_keys_say() -> None:
    config = _run(TEACHERS, "all")
    kinds = [type(each) for each in config.teachers_by_name.values()]
    assert kinds == [TeacherConfig, TeacherConfig, EnsembleConfig, AverageConfig]
    both, own = (config.teachers_by_name[name] for name in ("both", "self"))
    assert isinstance(both, EnsembleConfig)
    assert isinstance(own, AverageConfig)
    assert both.spec == TeacherEnsemble(("big", "small"), (3.0, 1.0))
    assert own.spec == MovingAverageTeacher(0.99)
    assert list(config.model_teachers) == ["big", "small"]
    assert config.model_names == ("deepnn", "lightnn", "lightnn")


def test_the_training_of_each_is_its_own() -> None:
    config = _run(TEACHERS, "all", train={"epochs": 7})
    assert (config.teacher_train("big").epochs, config.teacher_train("small").epochs) == (7, 3)
    wrong = {**TEACHERS, "big": {"train": {"epochs": 0}}}
    assert "teachers.big.train: epochs: input should be greater" in _refused(wrong, "all")


def test_the_one_teacher_has_the_name_teacher() -> None:
    config = as_run({"teacher": {"model": "lightnn"}}, "file.toml")
    assert config.teachers_by_name == {"teacher": TeacherConfig(model="lightnn")}
    assert RunConfig().teachers_by_name == {"teacher": TeacherConfig()}


def test_what_is_written_is_read_again() -> None:
    for config in (_run(TEACHERS, "all"), as_run({"teacher": {"model": "lightnn"}}, "x")):
        assert as_run(tomllib.loads(as_toml(config)), "again") == config


@pytest.mark.parametrize(
    ("teachers", "message"),
    [
        ({"student": {}, "big": {}}, "no teacher can be called 'student'"),
        ({"all": {}, "big": {}}, "no teacher can be called 'all'"),
        ({"teacher": {}, "big": {}}, "can be called 'teacher', as the one of \\[teacher\\] is"),
        ({"a b": {}, "big": {}}, "'a b' is no name"),
        ({"big": {"ensemble": ["a", "b"], "model": "x"}}, "teachers.big: unknown key 'model' "),
        ({"big": {"wieghts": "f"}}, "teachers.big: unknown key 'wieghts'; did you mean 'weights'"),
        ({"big": {"average": 1.0}}, "teachers.big.average: input should be less than 1"),
        ({"big": {"average": 0.9, "ensemble": ["a", "b"]}}, "unknown key 'average' \\(known: ens"),
        ({"big": {"shares": [1.0]}}, "teachers.big.ensemble: field required"),
        ({"big": {}, "e": {"ensemble": ["big"]}}, "teachers.e: an ensemble has two members"),
        ({"big": {}, "e": {"ensemble": ["big", "smal"]}}, "teacher e: unknown member 'smal'"),
        (
            {"a": {}, "b": {}, "e": {"ensemble": ["a", "b"]}, "f": {"ensemble": ["a", "e"]}},
            "teacher f: its member 'e' is an ensemble",
        ),
        ({"big": 3}, "teachers.big: expected a table of keys"),
        ({}, "teachers: dictionary should have at least 1 item"),
    ],
)
def test_what_is_no_teacher_is_refused_with_its_name(
    teachers: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        _run(teachers, "all")


def test_one_and_several_exclude_each_other() -> None:
    text = _refused({"big": {}}, None, teacher={"model": "lightnn"})
    assert "[teacher] is one teacher, [teachers.NAME] are several: give one or the other" in text


def test_a_teacher_that_nobody_learns_from_is_refused() -> None:
    text = _refused(TEACHERS, "both")
    assert "no strategy learns from teacher 'self'" in text
    assert 'bind one (teacher = "self"), or leave [teachers.self] out' in text
    _run(TEACHERS, "both", "self")  # the control: members of an ensemble teach through it
    assert "no strategy learns from teacher 'big'" in _refused({"big": {}})


def test_a_strategy_names_one_of_several_teachers() -> None:
    assert "'l0' does not say which teacher it learns from" in _refused(TEACHERS, None, "all")
    assert "unknown teacher 'bgi'; did you mean 'big'" in _refused(TEACHERS, "bgi", "all")
    _run({"big": {}}, None)  # the control: there is one


def test_each_teacher_of_a_comparison_serves_some_candidate() -> None:
    def tree(*bound: str) -> dict[str, Any]:
        candidates = [
            {"label": name, "strategies": [{"name": "logits", "teacher": name}]} for name in bound
        ]
        return {"teachers": {"big": {}, "small": {}}, "candidates": candidates}

    as_comparison(tree("big", "small"), "file.toml")
    with pytest.raises(ConfigError, match="no strategy learns from teacher 'small'"):
        as_comparison(tree("big"), "file.toml")


def test_a_summary_says_what_a_teacher_is() -> None:
    said = [each.summary for each in _run(TEACHERS, "all").teachers_by_name.values()]
    assert said == [
        "deepnn",
        "lightnn",
        "mean of big, small, shares 3, 1",
        "moving average of the student, decay 0.99",
    ]
