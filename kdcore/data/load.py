"""Data sets by name, as an experiment describes them: read, split, cut to size and checked.

How each kind is read or listed is in the module of its name.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from kdcore.data.cifar import load_cifar10, load_cifar100
from kdcore.data.digits import load_digits
from kdcore.data.files import FileImages, check_readable, relative_name
from kdcore.data.folder import Listing, list_folder, some
from kdcore.data.images import ImageData, LabelledImages
from kdcore.data.labels import Encoded, encode
from kdcore.data.split import TEST_SHARE, shuffled, strata, stratified_split, stratified_subset
from kdcore.data.table import list_table
from kdcore.errors import DataError
from kdcore.randomness import derive_seed, stream
from kdcore.sections import DataConfig
from kdcore.tasks import without_targets

LOADERS: dict[str, Callable[[DataConfig, str], ImageData]] = {
    "digits": lambda _, kind: load_digits(),  # noqa: ARG005
    "cifar10": lambda config, _: load_cifar10(_root(config)),
    "cifar100": lambda config, _: load_cifar100(_root(config)),
    "folder": lambda config, kind: _from_listing(list_folder(_root(config)), config, kind),
    "csv": lambda config, kind: _from_listing(list_table(_root(config)), config, kind),
}


def load_data(config: DataConfig, kind: str = "classification") -> ImageData:
    """Read the data set that an experiment names, cut to ``limit`` images in each part.

    ``labels`` and ``validation`` are not applied here; see `keep_labels` and `hold_out`.

    Args:
        config: the data set.
        kind: of the task, which says what labels mean.

    Raises:
        DataError: the data cannot be read or split, or nothing can be learned from it: a part is
            empty, there is a single class, or a class has no labelled training image.
    """
    data = LOADERS[config.name](config, kind)
    train, test = _first(data.train, config.limit), _first(data.test, config.limit)
    for part, images in (("training", train), ("test", test)):
        if not len(images):
            raise DataError(f"{data.name} has no {part} images that can be used; add some")
    if not len(train.labelled):
        raise DataError(f"{data.name}: no training image has a label; label some")
    if train.targets.ndim == 1:
        _refuse_unseen(data.name, train, config.limit)
    return replace(data, train=train, test=test)


def _refuse_unseen(name: str, train: LabelledImages, limit: int | None) -> None:
    seen = set(train.targets.tolist())
    if missing := [each for index, each in enumerate(train.classes) if index not in seen]:
        advice = f"raise data.limit, now {limit}" if limit else "remove the class"
        raise DataError(
            f"{name}: none of the {len(train)} training images is labelled {some(missing)}; "
            f"add some, or {advice}"
        )


def hold_out(
    data: LabelledImages, share: float, seed: int
) -> tuple[LabelledImages, LabelledImages]:
    """Split training images into those that are learned from and those that choose weights.

    Classes keep their shares and groups stay whole; unlabelled images, and groups that have
    one, are learned from. So hold out before `keep_labels`.

    Raises:
        DataError: no such split was found.
    """
    own_seed = derive_seed(seed, "validation")
    targets, classes = strata(data.targets), _named_strata(data.targets, data.classes)
    kept, held = stratified_split(targets, share, own_seed, data.groups, classes=classes)
    return data.subset(kept), data.subset(held)


def keep_labels(data: LabelledImages, count: int, seed: int) -> LabelledImages:
    """Return the same images with so many labels, of all classes alike, the rest without.

    Raises:
        DataError: `count` is below the number of classes or above the number of labels.
    """
    kept = torch.tensor(stratified_subset(strata(data.targets), count, seed))
    targets = without_targets(data.targets)
    targets[kept] = data.targets[kept]
    return replace(data, targets=targets)


def _root(config: DataConfig) -> Path:
    assert config.root is not None
    return config.root.expanduser()


def _first(data: LabelledImages, limit: int | None) -> LabelledImages:
    return data if limit is None or len(data) <= limit else data.subset(range(limit))


def _named_strata(targets: Tensor, classes: tuple[str, ...]) -> tuple[str, ...]:
    return classes if targets.ndim == 1 else ("labelled",)


def _from_listing(listing: Listing, config: DataConfig, kind: str) -> ImageData:
    name = _root(config).absolute().name
    encoded = encode(listing, kind, name)
    groups = _groups(listing, config.group_by)
    parts = {}
    for part, indices in zip(
        ("train", "test"), _split(listing, encoded, groups, config), strict=True
    ):
        # Files come class by class, and the first so many should be a mix. They are cut before
        # any is decoded: a trial on a large data set should not wait for all of it.
        order = shuffled(indices, stream(config.split_seed, "order", part))
        parts[part] = order[: config.limit]
    paths = [listing.files[index].path for index in sorted(parts["train"] + parts["test"])]
    good, skipped = check_readable(paths, listing.root, config.skip_unreadable)
    readable = set(good)
    train, test = (
        _labelled(listing, encoded, [i for i in part if listing.files[i].path in readable], groups)
        for part in parts.values()
    )
    notes = [f"left out, being unreadable: {len(skipped)}, {some(skipped)}"] if skipped else []
    return ImageData(name, train, test, (*listing.notes, *notes))


def _groups(listing: Listing, pattern: str | None) -> list[str] | None:
    if pattern is None:
        return None
    names = [relative_name(file.path, listing.root) for file in listing.files]
    matches = [re.search(pattern, name) for name in names]
    if not any(matches):
        raise DataError(
            f"data.group_by = {pattern!r} matches no file, such as {names[0]!r}; it is searched "
            "in paths relative to the data's folder"
        )
    found = [match and match[min(1, match.re.groups)] for match in matches]
    # No path holds a NUL: a file of its own cannot be taken for a group that has its name.
    return [
        f"\0{name}" if group is None else group for name, group in zip(names, found, strict=True)
    ]


def _split(
    listing: Listing, encoded: Encoded, groups: Sequence[str] | None, config: DataConfig
) -> tuple[list[int], list[int]]:
    parts = [file.part for file in listing.files]
    if None in parts:
        return stratified_split(
            strata(encoded[0]),
            config.test_share or TEST_SHARE,
            config.split_seed,
            groups,
            classes=_named_strata(*encoded),
        )
    train = [index for index, part in enumerate(parts) if part == "train"]
    test = [index for index, part in enumerate(parts) if part == "test"]
    if groups is not None and (both := {groups[i] for i in train} & {groups[i] for i in test}):
        raise DataError(
            f"data.group_by: {len(both)} groups, such as {min(both)!r}, are in both the training "
            "and the test part that the data has; leave group_by out, or mend the parts"
        )
    return train, test


def _labelled(
    listing: Listing, encoded: Encoded, indices: Sequence[int], groups: Sequence[str] | None
) -> LabelledImages:
    targets, classes = encoded
    return LabelledImages(
        FileImages([listing.files[index].path for index in indices], listing.root),
        targets[torch.tensor(indices, dtype=torch.int64)],
        classes,
        None if groups is None else tuple(groups[index] for index in indices),
    )
