"""The base of strategies and of settings: what is refused in a method and in its configuration."""

import json
import math
from dataclasses import dataclass
from typing import Any

import pluggy
import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kdcore.errors import ConfigError, StrategyError
from kdcore.hooks import HookCaller, Member
from kdcore.hookspecs import HOOKS, PROJECT, Hooks, hookimpl
from kdcore.strategy import (
    RESERVED,
    Recommended,
    Strategy,
    StrategySettings,
    Tap,
    auto,
)


class MethodSettings(StrategySettings):
    temperature: float = Field(2.0, gt=0, le=100)
    layers: tuple[int, ...] = (1, 2)
    kind: str = "plain"
    student_tap: Tap = auto("feature_map")


class Method(Strategy):
    Settings = MethodSettings
    settings: MethodSettings


def _class(name: str, *bases: type, **members: object) -> type:
    """Define a class as a class statement would, so that a test can expect it to fail."""
    return type(name, bases or (Strategy,), members)


# Settings


def test_settings_are_given_by_name_and_have_defaults() -> None:
    method = Method(temperature=4)
    assert method.settings.temperature == 4.0
    assert method.settings.layers == (1, 2)


def test_an_unknown_setting_is_refused_and_the_nearest_known_one_is_offered() -> None:
    with pytest.raises(ConfigError) as caught:
        Method(temprature=4)
    assert str(caught.value).startswith("Method: unknown key 'temprature'")
    assert "did you mean 'temperature'?" in str(caught.value)


def test_plain_pydantic_would_drop_an_unknown_setting_in_silence() -> None:
    class Plain(BaseModel):
        temperature: float = 2.0

    assert Plain.model_validate({"temprature": 4}).temperature == 2.0


@pytest.mark.parametrize(
    ("value", "bound"), [(0, "greater than 0"), (101, "less than or equal to 100")]
)
def test_a_setting_out_of_bounds_is_refused_with_its_key_value_and_bound(
    value: int, bound: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        Method(temperature=value)
    for part in ("Method: ", "temperature: ", f"got {value}", bound):
        assert part in str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_setting_that_is_not_finite_is_refused_also_without_a_bound(value: float) -> None:
    class Plain(BaseModel):
        sigma: float = 1.0

    class Free(Strategy):
        class Settings(StrategySettings):
            sigma: float = 1.0

    assert not math.isfinite(Plain(sigma=value).sigma)
    with pytest.raises(ConfigError, match="sigma: input should be a finite number"):
        Free(sigma=value)


def test_a_setting_of_another_type_is_refused_with_its_key_and_value() -> None:
    with pytest.raises(ConfigError, match=r"layers\.1: .*integer.*got 'deep'"):
        Method(layers=[1, "deep"])


def test_a_default_that_breaks_its_own_bound_is_refused_when_the_method_is_configured() -> None:
    class Wrong(Strategy):
        class Settings(StrategySettings):
            temperature: float = Field(0.0, gt=0)

    with pytest.raises(ConfigError, match="temperature: input should be greater than 0"):
        Wrong()


def test_several_wrong_settings_are_told_in_one_line() -> None:
    with pytest.raises(ConfigError) as caught:
        Method(temperature=-1, kind=3)
    assert "temperature: " in str(caught.value)
    assert "kind: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truth_value_is_no_number_of_a_method() -> None:
    with pytest.raises(ConfigError) as caught:
        Method(temperature=True, layers=[1, False])
    assert str(caught.value) == (
        "Method: temperature: true is no value for it; layers: false is no value for it"
    )


def test_settings_cannot_be_changed() -> None:
    method = Method()
    with pytest.raises(ValidationError, match="frozen"):
        method.settings.temperature = 3.0  # type: ignore[misc]  # mypy knows it, too
    assert method.settings.temperature == 2.0


def test_settings_survive_json() -> None:
    settings = Method(temperature=0.1, layers=[3, 1], student_tap="conv:input").settings
    again = MethodSettings.model_validate_json(settings.model_dump_json())
    assert again == settings
    through = json.loads(json.dumps(settings.model_dump(mode="json")))
    assert MethodSettings.model_validate(through) == settings


def test_settings_of_two_instances_are_their_own() -> None:
    warm, hot = Method(temperature=3), Method(temperature=9)
    assert (warm.settings.temperature, hot.settings.temperature) == (3.0, 9.0)
    assert MethodSettings().temperature == 2.0


def test_changing_some_settings_gives_another_strategy_and_keeps_the_rest() -> None:
    method = Method(temperature=3, kind="other")
    changed = method.with_settings(temperature=5)
    assert (changed.settings.temperature, changed.settings.kind) == (5.0, "other")
    assert method.settings.temperature == 3.0
    with pytest.raises(ConfigError, match="temperature"):
        method.with_settings(temperature=-5)


def test_a_strategy_is_printed_with_its_settings() -> None:
    assert repr(Method(temperature=3)).startswith("Method(temperature=3.0, layers=(1, 2), ")


# Settings that are taps


def test_auto_stands_for_the_fields_own_default() -> None:
    assert Method(student_tap="auto").settings.student_tap == "auto:feature_map"


def test_auto_stays_a_word_where_the_default_is_no_automatic_tap() -> None:
    assert Method(kind="auto").settings.kind == "auto"


def test_auto_is_also_the_default_of_a_setting_that_may_hold_several_taps() -> None:
    class Several(Strategy):
        class Settings(StrategySettings):
            student_taps: Tap | tuple[Tap, ...] = auto("stages")

    assert Several(student_taps="auto").settings == Several().settings
    with pytest.raises(ConfigError) as caught:
        Several(student_taps=["layer1", "a:b:c"])
    assert "student_taps.1: 'a:b:c' is no tap" in str(caught.value)


def test_a_tap_is_stored_in_its_one_spelling() -> None:
    assert Method(student_tap="conv:output").settings.student_tap == "conv"


@pytest.mark.parametrize("address", ["", "a:b:c", "conv[", "conv:sideways"])
def test_a_setting_that_is_no_tap_is_refused_with_its_key_and_the_form_of_taps(
    address: str,
) -> None:
    with pytest.raises(ConfigError) as caught:
        Method(student_tap=address)
    assert "student_tap: " in str(caught.value)
    assert "expected MODULE, MODULE:input or MODULE:output" in str(caught.value)


def test_an_unknown_kind_of_automatic_tap_is_refused_with_the_kinds() -> None:
    with pytest.raises(ConfigError, match="did you mean 'stages'"):
        Method(student_tap="auto:stage")


# Defining a method


@pytest.mark.parametrize("hook", HOOKS)
def test_an_override_without_the_marker_is_refused_when_the_class_is_defined(hook: str) -> None:
    def override(self: object) -> None: ...

    with pytest.raises(StrategyError, match=rf"Wrong\.{hook} is not marked with @hookimpl"):
        _class("Wrong", **{hook: override})
    assert issubclass(_class("Right", **{hook: hookimpl(override)}), Strategy)


def test_pluggy_would_unhook_an_override_without_the_marker_in_silence() -> None:
    class Base:
        @hookimpl
        def extract_features(self) -> str:
            return "base"

    class Override(Base):
        def extract_features(self) -> str:
            return "override"

    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Hooks)
    manager.register(Override())
    manager.check_pending()
    assert manager.hook.extract_features(setup=None, label="") == []


def test_an_override_without_the_marker_that_comes_from_a_mixin_is_refused_in_a_run() -> None:
    class Marked(Strategy):
        @hookimpl
        def compute_auxiliary_loss(self) -> float:
            return 1.0

    class Mixin:
        def compute_auxiliary_loss(self) -> float:
            return 2.0

    mixed = _class("Mixed", Mixin, Marked)()
    with pytest.raises(StrategyError, match=r"'mixed' \(Mixed, .*compute_auxiliary_loss is not"):
        HookCaller([Member("mixed", mixed, 1.0, "teacher")])


@pytest.mark.parametrize("key", RESERVED)
def test_a_setting_named_like_a_key_of_an_entry_is_refused_when_the_class_is_defined(
    key: str,
) -> None:
    settings = type("Settings", (StrategySettings,), {key: 1.0, "__annotations__": {key: float}})
    with pytest.raises(StrategyError, match=f"Wrong.Settings names '{key}', which each entry"):
        _class("Wrong", Settings=settings)


def test_an_init_is_refused_when_the_class_is_defined() -> None:
    def init(self: object, temperature: float) -> None: ...

    with pytest.raises(StrategyError, match="Wrong has its own __init__: declare Settings"):
        _class("Wrong", __init__=init)


def test_an_init_that_comes_from_a_mixin_is_refused_when_the_class_is_defined() -> None:
    class Mixin:
        def __init__(self) -> None: ...

    with pytest.raises(StrategyError, match="has its own __init__"):
        _class("Wrong", Mixin, Strategy)


def test_settings_that_would_let_unknown_keys_pass_are_refused_when_the_class_is_defined() -> None:
    class Loose(BaseModel):
        model_config = ConfigDict(extra="ignore")

    for loose in (Loose, object):
        with pytest.raises(StrategyError, match=r"Wrong\.Settings must subclass"):
            _class("Wrong", Settings=loose)


def test_a_strategy_that_is_made_a_dataclass_is_refused_in_a_run() -> None:
    made: type[Strategy] = dataclass(_class("Made", compute_auxiliary_loss=hookimpl(lambda _: 1.0)))
    with pytest.raises(StrategyError, match="defines __eq__"):
        HookCaller([Member("made", made(), 1.0, "teacher")])


# Instances


def test_storing_something_on_a_strategy_is_refused_and_says_where_it_belongs() -> None:
    method = Method()
    with pytest.raises(StrategyError) as caught:
        method.memory = {}
    assert "Method.memory" in str(caught.value)
    assert "Adapters.modules" in str(caught.value)
    assert "Adapters.state" in str(caught.value)
    assert not hasattr(method, "memory")


def test_the_settings_of_a_strategy_cannot_be_replaced() -> None:
    method = Method()
    with pytest.raises(StrategyError):
        method.settings = MethodSettings(temperature=9.0)
    assert method.settings.temperature == 2.0


def test_two_strategies_of_equal_settings_are_two() -> None:
    one, other = Method(), Method()
    assert one.settings == other.settings
    assert one != other
    assert len({one, other}) == 2


def test_a_method_without_a_paper_recommends_nothing() -> None:
    assert Method.recommended == Recommended(1.0, 1.0, "no recommendation")


def test_settings_and_api_version_are_inherited() -> None:
    class Child(Method):
        pass

    values: dict[str, Any] = {"temperature": 7}
    assert Child(**values).settings.temperature == 7.0
    assert Child.api_version == Strategy.api_version


@pytest.mark.parametrize(
    ("name", "meant"), [("recomended", "recommended"), ("Setings", "Settings")]
)
def test_a_name_that_is_nearly_one_of_kdcores_is_refused(name: str, meant: str) -> None:
    with pytest.raises(StrategyError, match=rf"Child\.{name} would never .* mean '{meant}'"):
        type("Child", (Method,), {name: None})


def test_what_a_class_says_of_its_memory_in_micro_batches_is_true_or_false() -> None:
    assert Strategy.exact_in_micro_batches
    type("Says", (Strategy,), {"exact_in_micro_batches": False})
    with pytest.raises(StrategyError, match="exact_in_micro_batches is 'no': take False"):
        type("Says", (Strategy,), {"exact_in_micro_batches": "no"})


def test_a_hook_that_is_nearly_one_is_refused_also_without_its_mark() -> None:
    with pytest.raises(StrategyError, match=r"adapt_shape would .* mean 'adapt_shapes'"):
        type("Child", (Method,), {"adapt_shape": lambda _: None})
    type("Child", (Method,), {"shapes_of": lambda _: None})  # the control
