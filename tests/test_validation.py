"""Pydantic's reports as one line: which key, what was given, what would do."""

from enum import Enum
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import TypeAliasType

from kdcore.validation import Checked, _admits_truth, describe_validation


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    width: int = Field(8, ge=1)
    words: int | tuple[int, ...] = 1


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    depth: int = Field(ge=1)
    inner: Inner = Inner()
    perhaps: Inner | None = None
    several: tuple[Inner, ...] = Field((), min_length=0)
    needed: tuple[Inner, ...] = Field((Inner(),), min_length=1)

    @model_validator(mode="after")
    def _not_as_wide_as_deep(self) -> "Outer":
        if self.inner.width == self.depth:
            raise ValueError("Depth and width are equal; choose others")
        return self


def _error(**values: Any) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(values)
    return caught.value


def _line(**values: Any) -> str:
    return describe_validation(_error(**values), "file.toml", Outer)


def test_pydantics_own_report_has_many_lines_and_no_file() -> None:
    error = _error(depth=0, inner={"width": 0})
    assert len(str(error).splitlines()) > 4
    assert describe_validation(error, "file.toml", Outer) == (
        "file.toml: depth: input should be greater than or equal to 1 (got 0); "
        "inner.width: input should be greater than or equal to 1 (got 0)"
    )


def test_a_missing_key_is_named() -> None:
    assert _line() == "file.toml: depth: field required"


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"inner": {"wdith": 3}}, "in inner: "),
        ({"perhaps": {"wdith": 3}}, "in perhaps: "),
        ({"several": [{}, {"wdith": 3}]}, "in several.1: "),
        ({"wdith": 3}, ""),
    ],
)
def test_for_an_unknown_key_the_keys_of_its_own_table_are_offered(
    values: dict[str, Any], place: str
) -> None:
    line = _line(depth=1, **values)
    assert line.startswith(f"file.toml: {place}unknown key 'wdith'")
    assert ("did you mean 'width'?" in line) == bool(place)


def test_an_unknown_key_may_be_empty_or_look_like_a_type() -> None:
    assert "unknown key ''" in _line(depth=1, **{"": 3})
    assert "unknown key 'list[int]'" in _line(depth=1, **{"list[int]": 3})


def test_what_a_models_own_rule_says_is_told_without_pydantics_words() -> None:
    assert _line(depth=8) == "file.toml: depth and width are equal; choose others"


def test_a_table_that_is_something_else_is_told_in_the_users_words() -> None:
    error = _error(depth=1, inner=5)
    assert "instance of Inner" in str(error)
    line = describe_validation(error, "file.toml", Outer)
    assert line == "file.toml: inner: expected a table of keys (got 5)"


def test_types_that_were_tried_are_no_part_of_the_key() -> None:
    error = _error(depth=1, inner={"words": ["many"]})
    assert any("tuple[int, ...]" in item["loc"] for item in error.errors())
    line = describe_validation(error, "file.toml", Outer)
    assert "inner.words.0: input should be a valid integer" in line
    assert "tuple[" not in line


def test_a_list_is_not_called_too_short_because_something_in_it_is_wrong() -> None:
    error = _error(depth=1, needed=[{"width": 0}])
    assert "too_short" in [item["type"] for item in error.errors()]
    line = describe_validation(error, "file.toml", Outer)
    assert "needed.0.width" in line
    assert "at least 1 item" not in line


def test_a_list_that_is_too_short_is_called_so() -> None:
    assert "needed: " in _line(depth=1, needed=[])
    assert "at least 1 item" in _line(depth=1, needed=[])


def test_a_long_value_is_cut() -> None:
    line = _line(depth="x" * 10_000)
    assert "depth: " in line
    assert len(line) < 200


def test_what_a_terminal_might_obey_is_made_visible() -> None:
    line = _line(depth="\x1b[2J\n")
    assert "\x1b" not in line
    assert "\n" not in line
    assert r"\x1b[2J\n" in line


def test_a_value_that_python_cannot_print_is_still_reported() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    with pytest.raises(RecursionError):
        repr(deep)
    assert "depth: " in _line(depth=deep)
    assert "(got a very large dict)" in _line(depth=deep)


def test_an_integer_that_python_cannot_print_is_still_reported() -> None:
    with pytest.raises(ValueError, match="digits"):
        repr(10**5000)
    assert "inner.width: " in _line(depth=1, inner={"width": -(10**5000)})


class Answer(Enum):
    YES = True
    UNSURE = "unsure"


Perhaps = TypeAliasType("Perhaps", bool | Literal["auto"])


class Settings(Checked):
    number: float = 1.0
    whole: int | None = None
    listed: tuple[float, ...] = ()
    nested: tuple[tuple[int, int], ...] = ()
    said: Literal["some", True] = "some"
    several: tuple[bool, ...] | bool = ()
    anything: Any = None
    answer: Answer = Answer.UNSURE
    perhaps: Perhaps = "auto"
    named: float = Field(1.0, alias="lambda")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("number", True),
        ("whole", True),
        ("listed", [0.5, True]),
        ("nested", [[1, 2], [3, True]]),
        ("lambda", True),
    ],
)
def test_a_truth_value_is_no_number(key: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({key: value, "said": "other"})
    line = describe_validation(caught.value, "file.toml", Settings)
    assert f"{key}: true is no value for it" in line
    assert "said: " in line  # what else is wrong is told too


@pytest.mark.parametrize("key", ["said", "several", "anything", "perhaps"])
def test_a_truth_value_is_taken_where_it_is_a_value(key: str) -> None:
    assert getattr(Settings.model_validate({key: True}), key) is True
    assert Settings.model_validate({"answer": True}).answer is Answer.YES


def test_a_type_that_contains_itself_is_gone_through_once() -> None:
    class Nested:  # as ``type Nested = list[Nested] | float`` is, from Python 3.12 on
        __value__: object

    Nested.__value__ = list[Nested] | float
    assert not _admits_truth(Nested)
    Nested.__value__ = list[Nested] | bool
    assert _admits_truth(Nested)
