"""What users write, checked by pydantic, and its reports told in one line to who wrote the value.

What sections and settings there are is in `sections` and in the methods themselves.
"""

import re
from collections.abc import Iterable, Iterator
from enum import Enum, EnumType
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from kdcore.errors import unknown


class Checked(BaseModel):
    """Base of what users write: values are finite and do not change, and keys are known.

    A truth value is no number, alone or in a list, which pydantic by itself would take it for.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None  # it is a field's
        found = _truth_in(value)
        if found is not None and not _admits_truth(cls.model_fields[info.field_name].annotation):
            raise ValueError(f"{str(found).lower()} is no value for it")
        return value


def _truth_in(value: object) -> bool | None:
    """Return a truth value that is given, or stands in a list that is."""
    if isinstance(value, bool):
        return value
    items = value if isinstance(value, list | tuple) else ()
    return next((found for each in items if (found := _truth_in(each)) is not None), None)


def _admits_truth(annotation: object) -> bool:
    """Return whether truth values are among those of a type, or of a type in it."""
    return any(
        each in (bool, Any, object)
        or isinstance(each, bool)  # of a Literal
        or (isinstance(each, EnumType) and any(map(_is_truth, each)))
        for each in _types_in(annotation)
    )


def _is_truth(member: Enum) -> bool:
    return isinstance(member.value, bool)


def _types_in(annotation: object) -> Iterator[object]:
    """Go through a type and the types in it, each once: a named one may contain itself."""
    left, seen = [annotation], list[object]()
    while left:
        each = left.pop()
        if any(each is other for other in seen):
            continue
        seen.append(each)
        yield each
        left += get_args(each)
        if hasattr(each, "__value__"):  # of a type with a name
            left.append(each.__value__)


TRIED = re.compile(r"[a-z-]+\[(.*)\]")
"""What pydantic puts into a path where a value may have several types: the one that it tried."""


def describe_validation(error: ValidationError, where: str, model: type[BaseModel]) -> str:
    """Turn pydantic's report into one line: each key, what is wrong, and what was given.

    Args:
        error: the report.
        where: what the keys belong to; begins the line.
        model: the model that was validated; its fields are offered for an unknown key.
    """
    items: list[Any] = error.errors()
    told = [item for item in items if not _follows(item, items)]
    return f"{where}: " + "; ".join(_describe(item, model) for item in told)


def _follows(item: Any, items: list[Any]) -> bool:
    """Return whether a list is called too short only because something in it is wrong."""
    loc = item["loc"]
    inside = (other["loc"] for other in items if len(other["loc"]) > len(loc))
    return item["type"] == "too_short" and any(other[: len(loc)] == loc for other in inside)


def _describe(item: Any, model: type[BaseModel]) -> str:
    if item["type"] == "extra_forbidden":
        *above, last = item["loc"]
        path = _keys(above)
        owner = _owner(model, above)
        known = owner.model_fields if owner else ()
        message = unknown("key", str(last), known)
        return f"in {_dotted(path)}: {message}" if path else message
    key = _dotted(_keys(item["loc"]))
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "model_type":
        message = "expected a table of keys"
    message = message[:1].lower() + message[1:]
    if item["type"] in ("missing", "value_error"):
        return f"{key}: {message}" if key else message
    return f"{key}: {message} (got {_shown(item['input'])})"


def _keys(loc: Iterable[str | int]) -> list[str | int]:
    # Where a value may have several types, pydantic puts those that it tried into the path.
    return [part for part in loc if not TRIED.fullmatch(str(part))]


def _dotted(path: Iterable[str | int]) -> str:
    return ".".join(map(str, path))


def _owner(model: type[BaseModel], loc: Iterable[str | int]) -> type[BaseModel] | None:
    """Return the model that a path leads to, where it is known."""
    owners, named = [model], False
    for part in loc:
        if tried := TRIED.fullmatch(str(part)):
            owners = [kind for kind in owners if kind.__name__ == tried[1]] or owners
        elif named:  # a key of a mapping, which any is
            named = False
        elif not isinstance(part, int):
            found = next((kind.model_fields.get(part) for kind in owners), None)
            annotation = found.annotation if found else None
            owners = list(_models_in(annotation))
            named = any(get_origin(each) is dict for each in (annotation, *get_args(annotation)))
    return next(iter(owners), None)


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply, or an integer of too many digits
        return f"a very large {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."
