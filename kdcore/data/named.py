"""A user's own data sets, as an experiment names them: ``package.module:callable``."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from kdcore.data.source import DatasetSource
from kdcore.data.split import strata, stratified_split, stratified_subset
from kdcore.errors import DataError
from kdcore.fingerprint import source_of
from kdcore.imports import imported
from kdcore.randomness import derive_seed
from kdcore.sections import DataConfig
from kdcore.tasks import Task, check_targets, labelled_samples, without_targets


@dataclass(frozen=True)
class NamedData:
    """What a callable returned, as an experiment wants it.

    Attributes:
        student: what students learn from; labels that they may not see are taken away.
        teacher: what a teacher learns from: every labelled training sample.
        validation: held out of training; None without one.
        test: decides nothing.
        outputs: how many classes, or values a sample, there are; None where that is not known.
        code: hash of the files that the callable is in.
    """

    student: DatasetSource
    teacher: DatasetSource
    validation: DatasetSource | None
    test: DatasetSource
    outputs: int | None
    code: str


def load_named(config: DataConfig, task: Task) -> NamedData:
    """Call what an experiment names, and split it.

    The callable takes nothing and returns a training and a test set, each a data set of
    ``(input, target)`` pairs or a pair of tensors. Models are given the inputs as they are. An
    attribute ``outputs`` of the training set says how many classes, or values a sample, models
    shall have; without it, targets say. With an attribute ``same_every_epoch = True``, as of
    tensors, what the teacher says of a sample is kept.

    Raises:
        DataError: it cannot be imported, fails, or returns something else.
    """
    function = imported(config.name, "data.name", DataError)
    try:
        returned = function()
    except Exception as error:  # a user's function may fail in any way
        raise DataError(
            f"data.name {config.name!r} failed: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(returned, tuple | list) or len(returned) != 2:
        raise DataError(
            f"data.name {config.name!r} returned {type(returned).__name__}, expected a training "
            "and a test data set"
        )
    train, test = (
        _first(source_from(data, f"{config.name} {part}"), config.limit)
        for data, part in zip(returned, ("training", "test"), strict=True)
    )
    for source in (train, test):
        check_targets(task, source.targets, None, source.name)
    outputs = _outputs(returned[0], train.targets, task)
    for source in (train, test):
        check_targets(task, source.targets, outputs, source.name)
    held_out = None
    if config.validation:
        seed = derive_seed(config.split_seed, "validation")
        kept, held = stratified_split(strata(train.targets), config.validation, seed)
        train, held_out = train.subset(torch.tensor(kept)), train.subset(torch.tensor(held))
    few = train if config.labels is None else _with_labels(train, config.labels, config.split_seed)
    teacher = train.subset(labelled_samples(train.targets).nonzero().flatten())
    return NamedData(few, teacher, held_out, test, outputs, source_of(_module_of(function)))


def source_from(data: Any, name: str) -> DatasetSource:
    """Take a data set, or a pair of tensors, as samples.

    Raises:
        DataError: it is neither, or a sample is no pair.
    """
    if isinstance(data, tuple) and all(isinstance(part, Tensor) for part in data):
        if len(data) != 2 or len(data[0]) != len(data[1]):
            raise DataError(f"{name}: expected a pair of tensors of equal length")
        data = TensorDataset(*data)
        return DatasetSource(data, name, same_every_epoch=True)
    same = type(data) is TensorDataset or getattr(data, "same_every_epoch", False) is True
    return DatasetSource(data, name, same_every_epoch=same)


def _first(source: DatasetSource, limit: int | None) -> DatasetSource:
    if limit is None or len(source) <= limit:
        return source
    return source.subset(torch.arange(limit))


def _with_labels(source: DatasetSource, count: int, seed: int) -> DatasetSource:
    kept = torch.tensor(stratified_subset(strata(source.targets), count, seed))
    targets = without_targets(source.targets)
    targets[kept] = source.targets[kept]
    return source.labelled(targets)


def _outputs(data: Any, targets: Tensor, task: Task) -> int | None:
    for key in ("outputs", "classes"):
        said = getattr(data, key, None)
        if isinstance(said, int) and said > 0:
            return said
        if isinstance(said, Sequence) and said:
            return len(said)
    return task.outputs(targets)


def _module_of(function: object) -> ModuleType:
    return sys.modules[str(getattr(function, "__module__", __name__))]
