"""Pydantic's reports, told in one line to the person who wrote the value."""

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
    return f"{where}: " + "; ".join(_describe(item, model) for item in error.errors())


def _describe(item: Any, model: type[BaseModel]) -> str:
    path = [part for part in item["loc"] if part != "function-after"]
    key = ".".join(map(str, path))
    if item["type"] == "extra_forbidden":
        owner = _owner(model, path[:-1])
        known = owner.model_fields if owner else ()
        prefix = ".".join(map(str, path[:-1]))
        message = unknown("key", str(path[-1]), known)
        return f"in {prefix}: {message}" if prefix else message
    message = item["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if item["type"] in ("missing", "value_error"):
        return f"{key}: {message}" if key else message
    return f"{key}: {message} (got {_shown(item['input'])})"


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
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
