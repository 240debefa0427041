"""What teachers may be called, and what an ensemble and a moving average may be."""

import pytest

from kdcore.errors import ConfigError
from kdcore.teachers import (
    MovingAverageTeacher,
    TeacherEnsemble,
    check_teachers,
    ensembles_of,
    needed,
    title_of,
)

BOTH = TeacherEnsemble(("big", "small"))


def test_members_count_alike_or_by_their_shares() -> None:
    assert BOTH.weights() == {"big": 0.5, "small": 0.5}
    assert TeacherEnsemble(("a", "b"), (3.0, 1.0)).weights() == {"a": 0.75, "b": 0.25}


@pytest.mark.parametrize("members", [(), ("a",), ("a", "b", "a")])
def test_an_ensemble_has_two_different_members_or_more(members: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="two members or more, each once"):
        TeacherEnsemble(members)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ((1.0,), "of 2 members has 1 shares"),
        ((1.0, 0.0), "shares are numbers above 0"),
        ((1.0, float("inf")), "shares are numbers above 0"),
        ((1.0, float("nan")), "shares are numbers above 0"),
    ],
)
def test_shares_are_one_a_member_and_above_0(shares: tuple[float, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TeacherEnsemble(("a", "b"), shares)


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_is_from_0_to_below_1(decay: float) -> None:
    with pytest.raises(ConfigError, match="from 0 to below 1"):
        MovingAverageTeacher(decay)
    assert MovingAverageTeacher(0.0).decay == 0.0


@pytest.mark.parametrize("name", ["all", "student"])
def test_names_that_mean_something_else_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"no teacher can be called '{name}'"):
        check_teachers(["big", name], {})
    check_teachers(["big", f"{name}2"], {})  # the control


def test_members_are_teachers_and_no_ensembles() -> None:
    check_teachers(["big", "small", "both"], {"both": BOTH})  # the control
    with pytest.raises(ConfigError, match="teacher both: unknown member 'small'"):
        check_teachers(["big", "both"], {"both": BOTH})
    with pytest.raises(ConfigError, match=r"^teacher: unknown member"):
        check_teachers(["teacher"], {"teacher": BOTH})
    nested = {"both": BOTH, "more": TeacherEnsemble(("both", "big"))}
    with pytest.raises(ConfigError, match="teacher more: its member 'both' is an ensemble"):
        check_teachers(["big", "small", "both", "more"], nested)


def test_an_ensemble_needs_its_members() -> None:
    assert needed(["both"], {"both": BOTH}) == {"both", "big", "small"}
    assert needed(["big"], {"both": BOTH}) == {"big"}


def test_ensembles_are_told_from_other_teachers() -> None:
    assert ensembles_of({"both": BOTH, "self": MovingAverageTeacher()}) == {"both": BOTH}


def test_one_teacher_has_no_name_in_a_table_and_each_of_several_has() -> None:
    assert title_of("teacher") == "teacher"
    assert title_of("big") == "teacher big"
