"""What a search goes through: settings by the names that users write, ranges, and choices."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kdcore import seeking
from kdcore.configfile import as_comparison, override, read_recipe
from kdcore.context import RunContext
from kdcore.errors import ConfigError, StrategyError
from kdcore.experiment import StageConfig
from kdcore.seeking import Range, Seeker, Sought

SMALL = (
    "teacher.model=lightnn",
    "data.limit=60",
    "teacher.image_size=8",
    "student.image_size=8",
    "train.epochs=1",
    "train.batch_size=32",
)

Seek = Callable[..., dict[str, Sought]]


@pytest.fixture
def seek(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Seek:
    """Return a function that gives what is searched for by candidate, where all fits."""

    def found(*assignments: str, **ranges: Range) -> dict[str, Sought]:
        tree = read_recipe("tutorial")
        override(tree, [*SMALL, *assignments])
        config = as_comparison(tree, "test")
        context = RunContext(config, tmp_path, Console(quiet=True))
        return {each.label: each for each in Seeker(context, config, 7).candidates(ranges)}

    monkeypatch.setattr(seeking, "rehearse", lambda *_: [])
    return found


def test_settings_have_the_names_that_users_write(seek: Seek) -> None:
    found = seek()
    assert list(found) == ["student", "logits", "cosine", "fitnets"]
    assert found["student"].names == {"lr": "train.lr"}
    assert found["logits"].names == {
        "lr": "train.lr",
        "0.task_weight": "candidates.logits.task_weight",
        "0.0.weight": "candidates.logits.strategies.logits.weight",
        "0.0.temperature": "candidates.logits.strategies.logits.temperature",
    }


def test_a_range_is_that_of_one_setting_and_of_the_learning_rate_everybodys(seek: Seek) -> None:
    temperature = "candidates.logits.strategies.logits.temperature"
    found = seek(**{temperature: (3.0, 3.5, False), "train.lr": (0.2, 0.3, True)})
    ends = {
        (label, each.path): (each.low, each.high)
        for label, one in found.items()
        for each in one.dimensions
    }
    assert ends["logits", "0.0.temperature"] == (3.0, 3.5)
    assert {ends[label, "lr"] for label in found} == {(0.2, 0.3)}
    plain = {each.path: (each.low, each.high) for each in seek()["logits"].dimensions}
    assert ends["logits", "0.0.weight"] == plain["0.0.weight"]


@pytest.mark.parametrize(
    ("named", "range_", "says"),
    [
        ("candidates.logits.strategies.logits.temperatur", (1.0, 2.0, False), "did you mean"),
        ("candidates.logits.strategies.logits.temperature", (-1.0, 2.0, False), "temperature"),
        ("candidates.logits.strategies.logits.weight", (-1.0, 2.0, False), "weight"),
        ("candidates.logits.task_weight", (-1.0, 2.0, False), "task_weight"),
        ("candidates.fitnets.strategies.fitnets.teacher_tap", (1.0, 2.0, False), "it is one of"),
        ("train.lr", (-1.0, 1.0, False), "lr"),
        ("train.lr", (1.0, 0.1, True), "no range"),
    ],
)
def test_a_range_of_nothing_or_beyond_the_bounds_is_refused(
    seek: Seek, named: str, range_: Range, says: str
) -> None:
    with pytest.raises(ConfigError, match=says) as raised:
        seek(**{named: range_})
    assert "--search" in str(raised.value)


def test_a_choice_that_cannot_be_set_up_is_left_out(
    seek: Seek, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rehearse(*given: Any) -> list[str]:
        plan: Sequence[StageConfig] = given[3]
        for entry in plan[0].strategies:
            if entry.settings.get("student_tap") == "features.1":
                raise StrategyError("no such map")
        return []

    def choices() -> tuple[Any, ...]:
        dimensions = seek()["fitnets"].dimensions
        (tap,) = [each for each in dimensions if each.path == "0.0.student_tap"]
        return tap.choices

    before = choices()
    assert "features.1" in before
    monkeypatch.setattr(seeking, "rehearse", rehearse)
    assert choices() == tuple(each for each in before if each != "features.1")
