"""What the labels of listed files mean for a task: classes, several labels, or numbers."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from kdcore.data.files import relative_name
from kdcore.data.folder import ListedFile, Listing, some
from kdcore.errors import DataError
from kdcore.tasks import UNLABELLED

NONE_OF_THEM = "-"
"""Label of an image that has none of several labels; an empty one is not known."""

Encoded = tuple[Tensor, tuple[str, ...]]


def encode(listing: Listing, kind: str, name: str) -> Encoded:
    """Return the target of each file, and what each output stands for.

    Args:
        listing: the files.
        kind: of the task.
        name: of the data set, for messages.

    Returns:
        For classes ``int64 [files]``, -100 for no label. For several labels, separated by ``;``,
        ``float32 [files, labels]`` of 0 and 1, and for numbers, separated by spaces or ``;``,
        ``float32 [files, values]``; NaN for no label.

    Raises:
        DataError: labels are too few, or no numbers.
    """
    return _KINDS.get(kind, _classes)(listing, name)


def _classes(listing: Listing, name: str) -> Encoded:
    if len(listing.classes) < 2:
        found = some(listing.classes) or "none"
        raise DataError(f"{name} needs two classes or more, found {found}; add labelled images")
    index = {each: position for position, each in enumerate(listing.classes)}
    targets = [UNLABELLED if each.label is None else index[each.label] for each in listing.files]
    return torch.tensor(targets), listing.classes


def _several(listing: Listing, name: str) -> Encoded:
    given = [None if each.label is None else _names(each.label) for each in listing.files]
    labels = tuple(sorted({label for names in given if names for label in names}))
    if not labels:
        raise DataError(f"{name} has no labels; write them into the column label, separated by ;")
    rows = [
        [math.nan] * len(labels) if names is None else [float(each in names) for each in labels]
        for names in given
    ]
    return torch.tensor(rows), labels


def _names(label: str) -> set[str]:
    names = {name.strip() for name in label.split(";")} - {""}
    return set() if names == {NONE_OF_THEM} else names


def _numbers(listing: Listing, name: str) -> Encoded:
    given = [None if each.label is None else _values(each, listing) for each in listing.files]
    known = {len(values): file for values, file in zip(given, listing.files, strict=True) if values}
    if len(known) != 1:
        counts = " and ".join(map(str, sorted(known))) or "no"
        raise DataError(f"{name}: images are labelled with {counts} numbers; give each as many")
    width = next(iter(known))
    rows = [[math.nan] * width if values is None else values for values in given]
    return torch.tensor(rows), tuple(f"value {place}" for place in range(1, width + 1))


def _values(file: ListedFile, listing: Listing) -> list[float]:
    assert file.label is not None
    try:
        values = [float(text) for text in file.label.replace(";", " ").split()]
    except ValueError:
        values = []
    if not values or not all(map(math.isfinite, values)):
        raise DataError(
            f"{relative_name(file.path, listing.root)}: its label is {file.label!r}, expected "
            "numbers, separated by spaces or ;"
        )
    return values


_KINDS: dict[str, Callable[[Listing, str], Encoded]] = {
    "multi-label": _several,
    "regression": _numbers,
}
