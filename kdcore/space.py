"""What can be searched for: the settings of an experiment's strategies, each with its range.

Ranges come from the bounds that methods' settings have. How they are searched is in `tuning`.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

from kdcore.errors import ConfigError
from kdcore.experiment import StageConfig
from kdcore.hooks import Member
from kdcore.selection import agreed_task_weight
from kdcore.strategy import Strategy, StrategySettings, tap_settings

Value = float | int | bool | str

TIMES = 10.0
"""A weight, or a learning rate, is searched from a tenth to ten times what it would be."""

TIMES_OPEN = 4.0
"""A setting without a bound on either side is searched from a quarter to four times its default."""

LOG_FROM = 10.0
"""A range of positive numbers whose ends differ by this factor is searched by its logarithm."""

WIDEST = 1000.0
"""Bounds further apart than this factor (of whole numbers: than so many) bound nothing."""

WIDEST_LOG = 1e6
"""The same factor where the lower bound is above 0 and the logarithm is searched."""

NEAR_ONE = 0.9
"""From here a setting of at most 1 is searched by its distance from 1, as decays are chosen."""

OPEN_SHARE = 1e-3
"""So near, as a share of the range or of 1, a bound is approached that does not belong to it."""

LR = "lr"
TASK_WEIGHT = "task_weight"


@dataclass(frozen=True)
class Dimension:
    """One value that is searched for.

    Attributes:
        path: where it is in a candidate: ``"lr"``, stage and key with a dot, or stage, entry and
            key.
        default: what it would be without a search; always in the range.
        low: the lowest value; None of choices.
        high: the highest.
        log: whether it is searched by its logarithm.
        whole: whether it is a whole number.
        choices: the values, where there is no range.
        from_one: whether it is searched by the logarithm of its distance from 1.
    """

    path: str
    default: Value
    low: float | None = None
    high: float | None = None
    log: bool = False
    whole: bool = False
    choices: tuple[Value, ...] = ()
    from_one: bool = False

    def __str__(self) -> str:
        if self.choices:
            return f"{self.path} of {', '.join(map(str, self.choices))}"
        scale = ", by its logarithm" if self.log else ""
        if self.from_one:
            scale = ", by the logarithm of its distance from 1"
        return f"{self.path} from {self.low:g} to {self.high:g}{scale}"

    def within(self, low: float, high: float, log: bool) -> "Dimension":
        """Return the same with another range; its default is the nearest value in that.

        Raises:
            ConfigError: it has choices, or the range is none.
        """
        if self.choices:
            raise ConfigError(f"it is one of {', '.join(map(str, self.choices))}, not of a range")
        if self.whole and math.isfinite(low + high):
            low, high = math.ceil(low), math.floor(high)
        if not low < high or not math.isfinite(low + high) or (log and low <= 0):
            raise ConfigError(f"{low:g} to {high:g} is no range to search")
        nearest = min(max(float(self.default), low), high)
        kept: Value = round(nearest) if self.whole else nearest
        low, high = float(low), float(high)
        return replace(self, default=kept, low=low, high=high, log=log, from_one=False)

    def coordinate(self, value: Value) -> Value:
        """Return where a value is on the scale that is searched."""
        return 1 - float(value) if self.from_one else value

    def value(self, coordinate: Value) -> Value:
        """Return the value that is somewhere on the scale that is searched."""
        if not self.from_one:
            return coordinate
        assert self.low is not None
        assert self.high is not None
        return min(max(1 - float(coordinate), self.low), self.high)


def of_lr(lr: float) -> Dimension:
    """Return the learning rate's, which everybody has."""
    return Dimension(LR, lr, lr / TIMES, lr * TIMES, log=True)


def of_stage(
    number: int,
    stage: StageConfig,
    members: Sequence[Member],
    taps: Mapping[str, Sequence[str]],
    *,
    task: bool = True,
) -> Iterator[Dimension]:
    """Go through what can be searched for in one stage: weights, and settings of its strategies.

    Args:
        number: of the stage, from 0.
        stage: its configuration.
        members: one of each of its entries, as configured.
        taps: maps that a tap may be instead, by model: ``"student"``, ``"teacher"``.
        task: whether the task has a loss that can be weighed.
    """
    if task and members:
        given = stage.task_weight
        weight = agreed_task_weight(members) if given is None else given
        yield from _weight(f"{number}.{TASK_WEIGHT}", weight)
    for place, (entry, member) in enumerate(zip(stage.strategies, members, strict=True)):
        path, strategy = f"{number}.{place}", member.strategy
        weight = strategy.recommended.weight if entry.weight is None else entry.weight
        yield from _weight(f"{path}.weight", weight)
        yield from _settings(path, strategy, taps)


def _weight(path: str, weight: object) -> Iterator[Dimension]:
    """Go through a weight; one that moves with the epochs, or is 0, stays as it is."""
    if isinstance(weight, int | float) and weight > 0:
        yield Dimension(path, float(weight), weight / TIMES, weight * TIMES, log=True)


def _settings(
    path: str, strategy: Strategy, taps: Mapping[str, Sequence[str]]
) -> Iterator[Dimension]:
    settings: StrategySettings = strategy.settings
    tapping = tap_settings(type(settings))
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if name in tapping:
            choices = taps.get(name.partition("_")[0], ())
            # Of what a head is given there is one place; of several taps, too many lists.
            if value == "auto:feature_map" and choices:
                yield Dimension(f"{path}.{name}", value, choices=(value, *choices))
            continue
        found = of_setting(f"{path}.{name}", value, field)
        if found is not None:
            yield found


def left_out(
    number: int, stage: StageConfig, members: Sequence[Member], found: Collection[str]
) -> Iterator[tuple[str, Value, str]]:
    """Go through the settings of one stage's strategies that are not searched for.

    Args:
        number: of the stage, from 0.
        stage: its configuration.
        members: one of each of its entries, as configured.
        found: paths of what is searched for.

    Yields:
        Where it is, what it stays, and why.
    """
    for place, (entry, member) in enumerate(zip(stage.strategies, members, strict=True)):
        settings: StrategySettings = member.strategy.settings
        tapping = tap_settings(type(settings))
        for name in type(settings).model_fields:
            path, value = f"{number}.{place}.{name}", getattr(settings, name)
            if path in found:
                continue
            if name not in tapping:
                why = "it has no range"
            elif value == "auto:embedding":
                why = "a head is given one thing"
            elif entry.settings.get(name, "auto") != "auto":
                why = "the experiment chose it"
            elif value == "auto:feature_map":
                why = "the model has no other maps"
            else:
                why = "lists of taps are not searched"
            yield path, value, why


def of_setting(path: str, value: object, field: FieldInfo) -> Dimension | None:
    """Return what a setting's type and bounds allow; None where that is nothing to search.

    Args:
        path: where it is.
        value: what it would be without a search.
        field: its declaration.
    """
    kind, bounds = _plain(field.annotation)
    if kind is bool and isinstance(value, bool):
        return Dimension(path, value, choices=(True, False))
    if get_origin(kind) is Literal and isinstance(value, bool | int | float | str):
        choices = get_args(kind)
        return Dimension(path, value, choices=choices) if len(choices) > 1 else None
    if kind not in (int, float) or isinstance(value, bool) or not isinstance(value, int | float):
        return None
    bounds = (*field.metadata, *bounds)
    return _of_whole(path, value, bounds) if kind is int else _of_number(path, value, bounds)


def _of_whole(path: str, value: float, bounds: Sequence[object]) -> Dimension | None:
    low, high = (lowest, highest) = _bounds(bounds, inset=1.0)
    if not (high - low <= WIDEST and low <= value <= high):
        if value <= 0:
            return None  # there is no scale to search on
        low, high = _about(value, lowest, highest)
    low, high = math.ceil(low), math.floor(high)
    if not low < high:
        return None
    log = _spans_decades(low, high)
    return Dimension(path, value, float(low), float(high), log, whole=True)


def _of_number(path: str, value: float, bounds: Sequence[object]) -> Dimension | None:
    declared, ceiling = _bounds(bounds, inset=0.0)
    lowest, highest = _bounds(bounds, inset=OPEN_SHARE * min(ceiling - declared, 1.0))
    if NEAR_ONE <= value < 1 and ceiling <= 1:
        # The ends are rounded so that 0.9 begins at 0, and not at what is left of a sum.
        low, high = (round(1 - factor * (1 - value), 12) for factor in (TIMES, 1 / TIMES))
        low, high = max(low, min(lowest, value)), min(high, ceiling)
        return Dimension(path, value, low, high, from_one=True) if low < high else None
    low, high = lowest, highest
    scaled = declared > 0 and _spans_decades(low, high)
    wide = low > 0 and high / low > (WIDEST_LOG if scaled else WIDEST)
    # A default beside an open bound, such as 5 between 0 and 1e6, says more than the bounds.
    if wide or not math.isfinite(high - low) or not low <= value <= high:
        if value <= 0:
            return None  # there is no scale to search on
        low, high = _about(value, lowest, highest)
        scaled = _spans_decades(low, high)
    # A share, from about 0 to 1, has no scale of its own.
    return Dimension(path, value, float(low), float(high), scaled) if low < high else None


def _about(value: float, lowest: float, highest: float) -> tuple[float, float]:
    """Return the range about a positive default, as far as its bounds allow."""
    low = min(value, max(value / TIMES_OPEN, lowest))
    return low, max(value, min(value * TIMES_OPEN, highest))


def _spans_decades(low: float, high: float) -> bool:
    return low > 0 and high / low >= LOG_FROM


def _plain(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return a type without what may be None beside it, and the bounds that are written in it."""
    if get_origin(annotation) in (Union, UnionType):
        others = [each for each in get_args(annotation) if each is not NoneType]
        return _plain(others[0]) if len(others) == 1 else (annotation, ())
    if get_origin(annotation) is Annotated:
        kind, *notes = get_args(annotation)
        inner = [each.metadata if isinstance(each, FieldInfo) else [each] for each in notes]
        return kind, tuple(bound for each in inner for bound in each)
    return annotation, ()


def _bounds(metadata: Sequence[object], inset: float) -> tuple[float, float]:
    """Return the bounds that a setting has; of an open one, what lies so far inside."""
    low, high, opened = -math.inf, math.inf, [False, False]
    for bound in metadata:
        match bound:
            case annotated_types.Ge(ge=int() | float() as low):
                pass
            case annotated_types.Gt(gt=int() | float() as low):
                opened[0] = True
            case annotated_types.Le(le=int() | float() as high):
                pass
            case annotated_types.Lt(lt=int() | float() as high):
                opened[1] = True
    return low + inset * opened[0], high - inset * opened[1]


def with_values(
    plan: Sequence[StageConfig], values: Mapping[str, Value], lr: float
) -> tuple[StageConfig, ...]:
    """Return a candidate's stages with the values of a trial.

    Args:
        plan: its stages.
        values: by path.
        lr: what the learning rate would be without the search; stages with one of their own keep
            its proportion.

    Raises:
        ValidationError: no stage can have such a value.
    """
    stages = []
    for number, stage in enumerate(plan):
        changed = stage.model_dump(exclude_none=True)
        for path, value in values.items():
            at, _, rest = path.partition(".")
            place, _, key = rest.partition(".")
            if path == LR or int(at) != number:
                continue
            if key:
                changed["strategies"][int(place)][key] = value
            else:
                changed[place] = value
        factor = float(values.get(LR, lr)) / lr
        changed["train"] = {**stage.train, "lr": float(stage.train.get("lr", lr)) * factor}
        stages.append(StageConfig.model_validate(changed))
    return tuple(stages)
