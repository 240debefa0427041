"""The base of every distillation method, and of its settings.

What a method implements is in `hookspecs`; how methods are found is in `catalog`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    ValidationError,
    model_validator,
)

from kdcore.errors import ConfigError, StrategyError
from kdcore.hookspecs import HOOKS, PROJECT
from kdcore.taps import TapAddress
from kdcore.validation import Checked, describe_validation

API_VERSION = 1
"""Version of the contract; it rises when a strategy that worked would stop working."""


RESERVED = ("name", "weight", "label", "teacher")
"""Keys of an entry of a list of strategies that are not the method's own settings."""


def _parsed(address: str) -> str:
    return str(TapAddress.parse(address))


_MARK = AfterValidator(_parsed)

Tap = Annotated[str, _MARK]
"""Type of a setting that holds the address of a tap."""

SeveralTaps = Tap | Annotated[tuple[Tap, ...], Field(min_length=1)]
"""Type of a setting that holds those of several: one that stands for them, or a list."""


def tap_settings(settings: type[BaseModel]) -> list[str]:
    """Return the names of the settings that hold the address of a tap, or those of several."""
    return [
        name
        for name, field in settings.model_fields.items()
        if _holds_taps((field.annotation, *field.metadata))
    ]


def _holds_taps(types: Iterable[object]) -> bool:
    """Return whether the marker of `Tap` is among some types, or in one of them."""
    return any(each == _MARK or _holds_taps(get_args(each)) for each in types)


def auto(kind: str) -> str:
    """Return the address that has the core find a tap of one kind; see `kdcore.taps.AUTO_KINDS`."""
    return str(TapAddress.parse(f"auto:{kind}"))


class StrategySettings(Checked):
    """Base of a method's settings: ``"auto"`` for a tap stands for the default of its field.

    Unknown keys are refused, values are fixed and finite, and a truth value is no number.
    """

    @model_validator(mode="before")
    @classmethod
    def _auto_is_the_default(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {
            key: cls.model_fields[key].default if value == "auto" and _is_auto(cls, key) else value
            for key, value in values.items()
        }


def _is_auto(settings: type[BaseModel], key: str) -> bool:
    default = settings.model_fields[key].default if key in settings.model_fields else None
    return isinstance(default, str) and default.startswith("auto:")


@dataclass(frozen=True)
class Recommended:
    """The weights that a method's paper uses, for users who give none.

    Attributes:
        weight: of the auxiliary loss.
        task_weight: of the task's loss beside it.
        source: where the two are from.
    """

    weight: float = 1.0
    task_weight: float = 1.0
    source: str = "no recommendation"

    def __post_init__(self) -> None:
        for value in (self.weight, self.task_weight):
            if not 0 <= value < float("inf"):
                raise StrategyError(f"a recommended weight must be a number from 0, not {value}")


WhereEqual = Literal["zero", "smallest"]
"""What a loss can be where the student is its teacher."""

_OWN = (
    *(*HOOKS, "Settings", "recommended", "where_equal", "exact_in_micro_batches", "api_version"),
    *("settings", "with_settings"),
)
"""What a strategy's class may define that kdcore looks at."""


class Strategy:
    """One distillation method. Subclass it, nest `Settings`, implement the hooks.

    An instance holds its settings and nothing else: what is trained goes into `Adapters`, what
    is remembered into `Adapters.state`, or it would be lost when a run is resumed. Setting an
    attribute is therefore an error.

    A class may say what is known of the method: `recommended`, the weights of its paper;
    `where_equal`, ``"zero"`` where its loss is zero when student and teacher are equal, or
    ``"smallest"`` where it is at its smallest; and ``exact_in_micro_batches = False`` where its
    memory is another when a batch is computed in micro-batches, because several samples write one
    row. The conformance kit holds it to that.

    Args:
        values: the settings, by name.

    Raises:
        ConfigError: a setting is unknown or out of bounds.
    """

    Settings: ClassVar[type[StrategySettings]] = StrategySettings
    recommended: ClassVar[Recommended] = Recommended()
    where_equal: ClassVar[WhereEqual | None] = None
    exact_in_micro_batches: ClassVar[bool] = True
    api_version: ClassVar[int] = API_VERSION

    settings: StrategySettings

    def __init__(self, *positional: object, **values: Any) -> None:
        if positional:
            fields = ", ".join(self.Settings.model_fields) or "none"
            raise ConfigError(f"{type(self).__name__} takes its settings by name: {fields}")
        try:
            settings = self.Settings.model_validate(values)
        except ValidationError as error:
            raise ConfigError(
                describe_validation(error, type(self).__name__, self.Settings)
            ) from None
        object.__setattr__(self, "settings", settings)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.__init__ is not Strategy.__init__:
            raise StrategyError(f"{cls.__name__} has its own __init__: declare Settings instead")
        settings: object = cls.Settings
        if not (isinstance(settings, type) and issubclass(settings, StrategySettings)):
            raise StrategyError(f"{cls.__name__}.Settings must subclass kdcore.StrategySettings")
        if taken := [key for key in RESERVED if key in cls.Settings.model_fields]:
            raise StrategyError(
                f"{cls.__name__}.Settings names {', '.join(map(repr, taken))}, which each entry "
                f"of a list of strategies has already ({', '.join(RESERVED)})"
            )
        if cls.where_equal not in (None, *get_args(WhereEqual)):
            raise StrategyError(
                f"{cls.__name__}.where_equal is {cls.where_equal!r}: take 'zero' or 'smallest', or "
                "leave it out"
            )
        if not isinstance(cls.exact_in_micro_batches, bool):
            raise StrategyError(
                f"{cls.__name__}.exact_in_micro_batches is {cls.exact_in_micro_batches!r}: take "
                "False, or leave it out"
            )
        for hook in HOOKS:
            if hook in cls.__dict__ and not hasattr(cls.__dict__[hook], f"{PROJECT}_impl"):
                raise StrategyError(
                    f"{cls.__name__}.{hook} is not marked with @hookimpl: it would never be called"
                )

        for name, value in cls.__dict__.items():
            near = get_close_matches(name, _OWN, n=1, cutoff=0.8)
            # A misspelt hook that is marked as one is refused with all hooks at hand.
            if near and name not in _OWN and not hasattr(value, f"{PROJECT}_impl"):
                raise StrategyError(
                    f"{cls.__name__}.{name} would never be used; did you mean {near[0]!r}? If not, "
                    "give it a name less like it"
                )

    def __setattr__(self, name: str, value: object) -> None:
        raise StrategyError(
            f"{type(self).__name__}.{name}: a strategy holds its settings alone; trained parts go "
            "into Adapters.modules, memory into Adapters.state"
        )

    def __repr__(self) -> str:
        values = ", ".join(f"{key}={value!r}" for key, value in self.settings)
        return f"{type(self).__name__}({values})"

    def with_settings(self, **values: Any) -> Self:
        """Return the same method with some settings changed."""
        return type(self)(**{**self.settings.model_dump(), **values})
