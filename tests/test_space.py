from collections.abc import Mapping
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from kdcore.catalog import Catalog
from kdcore.errors import ConfigError
from kdcore.experiment import StageConfig, StrategyConfig
from kdcore.selection import select
from kdcore.space import Dimension, Value, left_out, of_lr, of_setting, of_stage, with_values
from kdcore.strategy import StrategySettings

TEACHERS = ("teacher",)
MAPS = {"student": ("features.1",), "teacher": ("features.3", "features.8")}


def _setting(annotation: object, field: object, value: object) -> Dimension | None:
    """Return what is searched of a setting that is declared like this."""
    namespace = {"__annotations__": {"key": annotation}, "key": field, "__module__": __name__}
    settings: type[StrategySettings] = type("Settings", (StrategySettings,), namespace)
    return of_setting("0.0.key", value, settings.model_fields["key"])


def _stage(*entries: Mapping[str, object], task_weight: object = None) -> StageConfig:
    return StageConfig.model_validate({"strategies": entries, "task_weight": task_weight})


def _space(stage: StageConfig, *, task: bool = True) -> dict[str, Dimension]:
    members = [select([entry], TEACHERS)[0] for entry in stage.strategies]
    return {each.path: each for each in of_stage(0, stage, members, MAPS, task=task)}


@pytest.mark.parametrize(
    ("annotation", "field", "value", "low", "high", "log"),
    [
        (float, Field(0.5, ge=0, le=1), 0.5, 0.0, 1.0, False),
        (float, Field(0.5, ge=0, lt=1), 0.5, 0.0, 0.999, False),
        (float, Field(0.5, gt=0, lt=1), 0.5, 0.001, 0.999, False),
        (float, Field(2.0, ge=1, le=20), 2.0, 1.0, 20.0, True),
        (float, Field(4.0, gt=0), 4.0, 1.0, 16.0, True),
        (float, Field(4.0, ge=2), 4.0, 2.0, 16.0, False),
        (float, Field(4.0, le=8), 4.0, 1.0, 8.0, False),
        (float, 3.0, 3.0, 0.75, 12.0, True),
        (float, Field(5.0, gt=0, le=1e6), 5.0, 1.25, 20.0, True),  # such bounds say nothing
        (float, Field(0.0, ge=0, le=2), 0.0, 0.0, 2.0, False),
        (Annotated[float, Field(gt=0, le=1)], 0.5, 0.5, 0.001, 1.0, False),
        (Annotated[float, Field(gt=0)] | None, None, 2.0, 0.5, 8.0, True),
        (float | None, Field(None, ge=1, le=3), 2.0, 1.0, 3.0, False),
        (float, Field(1e-4, ge=1e-5, le=1e-4), 1e-4, 1e-5, 1e-4, True),  # a decade
        (float, Field(0.3, ge=0.2, le=1.9), 0.3, 0.2, 1.9, False),  # less
        (float, Field(1e-4, ge=1e-6, le=1e-1), 1e-4, 1e-6, 1e-1, True),
        (float, Field(5.0, ge=1e-6, le=1e6 + 1), 5.0, 1.25, 20.0, True),  # nor do such
        (float, Field(0.5, ge=0, le=200), 0.5, 0.0, 200.0, False),  # 0 has no logarithm
        (int, Field(3, ge=1, le=9), 3, 1, 9, False),
        (int, Field(3, gt=1, lt=12), 3, 2, 11, False),
        (int, Field(3, gt=0, le=12), 3, 1, 12, True),
        (int, Field(3, ge=0, le=900), 3, 0, 900, False),
        (int, Field(128, ge=1), 128, 32, 512, True),
        (int, Field(128, ge=1, le=10**6), 128, 32, 512, True),
    ],
)
def test_a_number_is_searched_between_its_bounds_or_about_its_default(
    annotation: object, field: object, value: float, low: float, high: float, log: bool
) -> None:
    found = _setting(annotation, field, value)
    whole = isinstance(value, int)
    assert found == Dimension("0.0.key", value, low, high, log, whole)


@pytest.mark.parametrize(
    ("field", "value", "low", "high"),
    [
        (Field(0.999, ge=0, lt=1), 0.999, 0.99, 0.9999),
        (Field(0.9, ge=0, lt=1), 0.9, 0.0, 0.99),
        (Field(0.9, gt=0, le=1), 0.9, 0.001, 0.99),
        (Field(0.99, ge=0.95, le=0.995), 0.99, 0.95, 0.995),
        (Field(0.99, ge=0.985, lt=1), 0.99, 0.985, 0.999),
    ],
)
def test_what_is_close_to_one_is_searched_by_its_distance_from_it(
    field: object, value: float, low: float, high: float
) -> None:
    found = _setting(float, field, value)
    assert found == Dimension("0.0.key", value, low, high, from_one=True)
    assert str(found).endswith(f"to {high:g}, by the logarithm of its distance from 1")
    assert found.coordinate(value) == pytest.approx(1 - value)
    assert found.value(found.coordinate(value)) == value  # to the bit: trials begin with it
    for each in (low, high):
        assert found.value(found.coordinate(each)) == pytest.approx(each)
    assert found.value(0.0) == high
    assert found.value(1.0) == low
    plain = found.within(0.2, 0.4, False)
    assert plain.coordinate(0.3) == plain.value(0.3) == 0.3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (Field(0.89, ge=0, le=1), 0.89),
        (Field(1.0, ge=0, le=1), 1.0),
        (Field(0.95, ge=0, le=2), 0.95),
        (Field(0.95, ge=0), 0.95),
    ],
)
def test_what_is_far_from_one_or_not_bounded_by_it_is_searched_as_others(
    field: object, value: float
) -> None:
    found = _setting(float, field, value)
    assert found is not None
    assert not found.from_one


@pytest.mark.parametrize(
    ("annotation", "value", "choices"),
    [
        (bool, True, (True, False)),
        (Literal["l1", "l2"], "l2", ("l1", "l2")),
        (Literal[1, 3], 3, (1, 3)),
    ],
)
def test_a_choice_is_searched_among_its_values(
    annotation: object, value: Value, choices: tuple[Value, ...]
) -> None:
    found = _setting(annotation, value, value)
    assert found is not None
    assert found.choices == choices
    assert found.default == value


@pytest.mark.parametrize(
    ("annotation", "field", "value"),
    [
        (float, Field(0.0, ge=0), 0.0),  # there is no scale
        (float | None, None, None),
        (str, "text", "text"),
        (tuple[float, ...], (1.0,), (1.0,)),
        (Literal["one"], "one", "one"),
        (int, Field(2, ge=2, le=2), 2),
    ],
)
def test_what_has_no_scale_and_no_choice_is_not_searched(
    annotation: object, field: object, value: object
) -> None:
    assert _setting(annotation, field, value) is None


def _installed() -> list[str]:
    return sorted(each.name for each in Catalog().listings() if not each.problem)


@pytest.mark.parametrize("name", _installed())
def test_every_end_of_every_installed_strategy_can_be_configured(name: str) -> None:
    stage = _stage({"name": name})
    for path, each in _space(stage).items():
        if each.choices:
            assert each.default in each.choices
        else:
            assert each.low is not None
            assert each.high is not None
            assert each.low <= float(each.default) <= each.high
        for end in each.choices or (each.low, each.high):
            assert end is not None
            value = int(end) if each.whole else end
            (changed,) = with_values([stage], {path: value}, 1.0)
            select(changed.strategies, TEACHERS)


def test_a_value_beyond_a_strategys_bounds_cannot_be_configured() -> None:
    stage = _stage({"name": "logits"})
    (changed,) = with_values([stage], {"0.0.temperature": -1.0}, 1.0)
    with pytest.raises(ConfigError, match="temperature"):
        select(changed.strategies, TEACHERS)
    with pytest.raises(ValidationError, match="weight"):
        with_values([stage], {"0.0.weight": -1.0}, 1.0)


def test_weights_are_searched_about_what_they_would_be() -> None:
    found = _space(_stage({"name": "logits"}, {"name": "fitnets", "weight": 7.0}, task_weight=0.5))
    assert (found["0.task_weight"].low, found["0.task_weight"].high) == (0.05, 5.0)
    assert found["0.0.weight"].default == 0.25  # the method's own
    assert found["0.1.weight"].low == pytest.approx(0.7)
    assert found["0.1.weight"].high == 70.0
    assert all(found[path].log for path in ("0.task_weight", "0.0.weight", "0.1.weight"))
    own = _space(_stage({"name": "logits"}))["0.task_weight"]
    assert own.default == 0.75  # the method's own, too


def test_weights_that_move_or_are_zero_stay_as_they_are() -> None:
    moving = {"start": 1.0, "end": 0.5, "shape": "linear", "epochs": 3}
    stage = _stage({"name": "logits", "weight": moving}, {"name": "cosine", "weight": 0})
    assert not [path for path in _space(stage) if path.endswith(".weight")]


def test_a_task_without_a_loss_and_a_student_alone_have_no_weight_to_search() -> None:
    assert "0.task_weight" not in _space(_stage({"name": "logits"}), task=False)
    assert _space(_stage(task_weight=1.0)) == {}


def test_maps_are_chosen_among_the_stages_of_each_model_unless_a_user_chose() -> None:
    found = _space(_stage({"name": "fitnets", "student_tap": "features.4"}))
    assert found["0.0.teacher_tap"].choices == ("auto:feature_map", "features.3", "features.8")
    assert "0.0.student_tap" not in found


def test_settings_that_are_not_searched_are_told_with_their_value_and_why() -> None:
    stage = _stage(
        {"name": "fitnets", "student_tap": "features.4"},
        {"name": "cosine"},
        {"name": "attention", "student_taps": ["features.1"], "teacher_taps": "auto"},
        {"name": "multilevel"},
    )
    members = [select([entry], TEACHERS)[0] for entry in stage.strategies]
    found = list(_space(stage))
    told = {path: (value, why) for path, value, why in left_out(0, stage, members, found)}
    assert told == {
        "0.0.student_tap": ("features.4", "the experiment chose it"),
        "0.1.student_tap": ("auto:embedding", "a head is given one thing"),
        "0.1.teacher_tap": ("auto:embedding", "a head is given one thing"),
        "0.2.student_taps": (("features.1",), "the experiment chose it"),
        "0.2.teacher_taps": ("auto:stages", "lists of taps are not searched"),
        "0.3.temperatures": ((2.0, 3.0, 4.0, 5.0, 6.0), "it has no range"),
    }
    (fitnets, *_), without = members, {"student": (), "teacher": ()}
    plain = _stage({"name": "fitnets"})
    bare = [each.path for each in of_stage(0, plain, [fitnets], without)]
    whys = {why for path, _, why in left_out(0, plain, [fitnets], bare) if "tap" in path}
    assert "the model has no other maps" in whys


def test_another_range_takes_the_place_of_the_first() -> None:
    whole = Dimension("0.0.order", 2, 1.0, 20.0, log=True, whole=True)
    assert whole.within(2.5, 9.9, False) == Dimension("0.0.order", 3, 3.0, 9.0, whole=True)
    assert of_lr(1e-3).within(0.1, 0.2, True).default == 0.1
    for low, high, log in ((2, 1, False), (1, 1, False), (0, 1, True), (1, float("inf"), False)):
        with pytest.raises(ConfigError, match="no range"):
            of_lr(1e-3).within(low, high, log)
    with pytest.raises(ConfigError, match="one of 1, 3"):
        Dimension("0.0.kernel_size", 3, choices=(1, 3)).within(1, 3, False)


def test_values_go_where_their_paths_say_and_nowhere_else() -> None:
    first = StageConfig(strategies=(StrategyConfig(name="logits"),), train={"lr": 0.5})
    plan = [first, _stage({"name": "logits"}, {"name": "fitnets"}, task_weight=0.5)]
    values: dict[str, Value] = {
        "lr": 0.02,
        "1.task_weight": 0.1,
        "1.1.weight": 3.0,
        "1.1.student_tap": "features.1",
    }
    changed = with_values(plan, values, 0.01)
    assert changed[0] == first.model_copy(update={"train": {"lr": 1.0}})  # in proportion
    assert changed[1].task_weight == 0.1
    assert changed[1].train == {"lr": 0.02}
    assert changed[1].strategies[0] == plan[1].strategies[0]
    assert changed[1].strategies[1].weight == 3.0
    assert changed[1].strategies[1].settings == {"student_tap": "features.1"}
