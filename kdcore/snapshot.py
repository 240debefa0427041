"""Nested values as JSON and tensors, and back: what is remembered of a training, without pickles.

Where they are written is in `checkpoint`.
"""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

TAG = "$"


def split(value: object) -> tuple[Any, dict[str, Tensor]]:
    """Take a nested value apart.

    Args:
        value: None, a truth value, number, string, tensor or bytes, or a list, tuple or mapping of
            such.

    Returns:
        What JSON can hold of it, and its tensors by the names that stand there instead.

    Raises:
        TypeError: it holds something else.
    """
    tensors: dict[str, Tensor] = {}
    return _split(value, "", tensors), tensors


def _split(value: object, path: str, tensors: dict[str, Tensor]) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {TAG: "float", "value": str(value)}
    if isinstance(value, bytes):
        return {TAG: "bytes", "value": value.hex()}
    if isinstance(value, Tensor):
        name = path or TAG
        while name in tensors:  # a key may look like a path
            name += TAG
        tensors[name] = value.detach()
        return {TAG: "tensor", "name": name}
    if isinstance(value, list | tuple):
        items = [_split(item, f"{path}/{at}", tensors) for at, item in enumerate(value)]
        return items if isinstance(value, list) else {TAG: "tuple", "items": items}
    if isinstance(value, Mapping):
        pairs = [(key, _split(item, f"{path}/{key}", tensors)) for key, item in value.items()]
        if all(isinstance(key, str) and key != TAG for key, _ in pairs):
            return dict(pairs)
        return {TAG: "mapping", "items": [[_split(key, path, {}), item] for key, item in pairs]}
    raise TypeError(f"{path or 'the value'} is {type(value).__name__}, which cannot be saved")


def join(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Put together what `split` took apart.

    Raises:
        KeyError, TypeError, ValueError: it was not `split` that made them.
    """
    if isinstance(tree, list):
        return [join(item, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    kind = tree.get(TAG)
    if kind is None:
        return {key: join(item, tensors) for key, item in tree.items()}
    if kind == "float":
        return float(tree["value"])
    if kind == "bytes":
        return bytes.fromhex(tree["value"])
    if kind == "tensor":
        return tensors[tree["name"]]
    if kind == "tuple":
        return tuple(join(item, tensors) for item in tree["items"])
    if kind == "mapping":
        return {join(key, tensors): join(item, tensors) for key, item in tree["items"]}
    raise ValueError(f"unknown kind {kind!r}")
