"""Pydantic's reports, told in one line to the person who wrote the value."""

import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError

from kdcore.errors import unknown


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
        owner = _owner(model, path)
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
    return [part for part in loc if not re.fullmatch(r"[a-z-]+\[.*\]", str(part))]


def _dotted(path: Iterable[str | int]) -> str:
    return ".".join(map(str, path))


def _owner(model: type[BaseModel], path: list[str | int]) -> type[BaseModel] | None:
    owner: type[BaseModel] | None = model
    for part in path:
        if isinstance(part, int) or owner is None:
            continue
        found = owner.model_fields.get(part)
        candidates = [found.annotation, *getattr(found.annotation, "__args__", ())] if found else []
        owner = next(
            (kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel)),
            None,
        )
    return owner


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply, or an integer of too many digits
        return f"a very large {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."
