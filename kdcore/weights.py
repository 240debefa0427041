"""Weights of losses: numbers, or values that move with the epochs."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, PlainSerializer, ValidationError, WrapValidator, model_validator

from kdcore.sections import NotNegative, Section
from kdcore.validation import describe_validation


class Moving(Section):
    """A weight that is another in each epoch."""

    start: NotNegative = Field(description="its value in the first epoch, before any warm-up")
    shape: Literal["constant", "linear", "cosine", "step"] = Field(
        "constant", description="how it moves from there"
    )
    end: NotNegative | None = Field(None, description="where linear and cosine arrive, and stay")
    epochs: int | None = Field(
        None, ge=1, description="the epoch, from 1, in which they have arrived"
    )
    milestones: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        None, description="epochs after which step multiplies by `gamma`"
    )
    gamma: NotNegative | None = Field(None, description="factor of step; 0.1 where not given")
    warmup: int = Field(
        0, ge=0, description="epochs over which it rises linearly to what it would be"
    )

    @model_validator(mode="after")
    def _settings_that_are_used(self) -> Self:
        owners = {"end": "linear or cosine", "epochs": "linear or cosine"}
        owners |= {"milestones": "step", "gamma": "step"}
        for key, owner in owners.items():
            given = getattr(self, key) is not None
            if given and self.shape not in owner.split(" or "):
                raise ValueError(f"{key} would be ignored: only shape = {owner!r} has it")
            if not given and self.shape in owner.split(" or ") and key != "gamma":
                raise ValueError(f"shape = {self.shape!r} needs {key}")
        if self.milestones and list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError("milestones must rise")
        return self

    def at(self, epoch: int) -> float:
        """Return its value in an epoch, from 0."""
        return self._settled(epoch) * min(1.0, (epoch + 1) / (self.warmup + 1))

    def _settled(self, epoch: int) -> float:
        if self.shape == "step":
            passed = sum(milestone <= epoch for milestone in self.milestones or ())
            return self.start * float((0.1 if self.gamma is None else self.gamma) ** passed)
        if self.end is None or self.epochs is None:
            return self.start
        done = min(1.0, epoch / (self.epochs - 1)) if self.epochs > 1 else 1.0
        if self.shape == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        return self.start + (self.end - self.start) * done

    def scaled(self, factor: float) -> "Moving":
        """Return the same, times a factor."""
        end = None if self.end is None else self.end * factor
        return self.model_copy(update={"start": self.start * factor, "end": end})

    def __str__(self) -> str:
        given = {key: value for key, value in self.written().items() if key not in ("start",)}
        return f"{self.start:g} ({', '.join(f'{key} {value}' for key, value in given.items())})"

    def written(self) -> dict[str, Any]:
        """Return what was given, as it stands in a file."""
        return self.model_dump(mode="json", exclude_defaults=True)


def _number_or_table(value: object, number: Any) -> object:
    if isinstance(value, Moving):
        return value
    if not isinstance(value, Mapping):
        return number(value)
    try:
        return Moving.model_validate(dict(value))
    except ValidationError as error:
        raise ValueError(describe_validation(error, "as a table", Moving)) from None


def _written(value: object) -> object:
    return value.written() if isinstance(value, Moving) else value


if TYPE_CHECKING:
    Weight = float | Moving
else:
    Weight = Annotated[NotNegative, WrapValidator(_number_or_table), PlainSerializer(_written)]


def weight_at(weight: float | Moving, epoch: int) -> float:
    """Return a weight in an epoch, from 0."""
    return weight.at(epoch) if isinstance(weight, Moving) else weight


def scaled(weight: float | Moving, factor: float) -> float | Moving:
    """Return a weight times a factor."""
    return weight.scaled(factor) if isinstance(weight, Moving) else weight * factor


def weight_text(weight: float | Moving) -> str:
    """Return a weight as people read it."""
    return str(weight) if isinstance(weight, Moving) else f"{weight:g}"
