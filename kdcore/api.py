"""Distillation in one call, for people who do not keep a training loop of their own."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from kdcore.asking import Request
from kdcore.cache import SignalCache
from kdcore.catalog import own_version
from kdcore.contract import Setup
from kdcore.data.source import DatasetSource, Samples, Source
from kdcore.devices import device_of, find_device
from kdcore.distiller import Distiller
from kdcore.errors import ConfigError, DataError, ResumeError
from kdcore.execution import Execution
from kdcore.files import locked
from kdcore.fingerprint import digest_of, machine_facts, source_of, structure_of
from kdcore.history import History, Observer
from kdcore.nested import to_device
from kdcore.probe import evaluating
from kdcore.saving import Saver
from kdcore.sections import CacheConfig, CheckpointConfig, TrainConfig
from kdcore.selection import Entry
from kdcore.snapshot import split
from kdcore.taps import logits_of, run_model
from kdcore.tasks import UNLABELLED, Classification
from kdcore.teacher import AnyTeacher
from kdcore.trainer import train
from kdcore.validation import describe_validation
from kdcore.weights import Moving

Data = Samples | tuple[Tensor, Tensor] | Source


@dataclass(frozen=True)
class Result:
    """A distilled student.

    Attributes:
        student: the model that was handed over, trained in place; no hooks are left on it.
        accuracy: on the evaluation data in per cent, of the last weights.
        history: one record an epoch, and the best weights where there was validation data.
    """

    student: nn.Module
    accuracy: float
    history: History


def distill(
    teacher: AnyTeacher | Mapping[str, AnyTeacher] | None,
    student: nn.Module,
    train_data: Data,
    eval_data: Data,
    strategies: Iterable[Entry] = (),
    *,
    validation_data: Data | None = None,
    task_weight: float | Moving | None = None,
    seed: int = 0,
    device: str = "auto",
    observers: Iterable[Observer] = (),
    resume: Path | str | None = None,
    **training: Any,
) -> Result:
    """Train a classifier to do its task and to follow a teacher.

    Args:
        teacher: the model to learn from, a `MovingAverageTeacher` for the student's own average, or
            several by name, among them a `TeacherEnsemble`; None to train the student alone.
        student: the model to train, in place.
        train_data: a data set of ``(input, target)`` pairs, or a pair of tensors
            ``[samples, ...]`` and ``int64 [samples]``; -100 is no label.
        eval_data: the same, to measure accuracy on after each epoch; it chooses nothing.
        strategies: names, mappings or `Strategy` instances, as `Distiller` takes them.
        validation_data: the same again, to choose the best weights on.
        task_weight: weight of the task's loss; if not given, what the strategies' papers use.
        seed: of order, dropout and adapters; the student's initial weights are as handed over.
        device: ``"auto"`` for the accelerator where there is one; or its name.
        observers: told of each step and each epoch, see `kdcore.history.Observer`.
        resume: folder in which the training is saved after each epoch (and every ten minutes), and
            from which the same call continues it; models have to come with the weights that
            they came with before.
        training: keys of ``[train]``: epochs, batch_size, optimizer, lr, schedule, ...

    Returns:
        `Result`: the student with its last weights, its accuracy, and the history.

    Raises:
        ConfigError: a key of the training or an entry of `strategies` is wrong.
        DataError: the data is empty, or its targets are no classes.
        NonFiniteLossError: a loss became infinite or not a number.
        ResumeError: what was saved in the folder is of another training.
    """
    try:
        config = TrainConfig.model_validate(training)
    except ValidationError as error:
        raise ConfigError(describe_validation(error, "distill", TrainConfig)) from None
    source = _source(train_data, "train_data")
    test = _source(eval_data, "eval_data")
    validation = None if validation_data is None else _source(validation_data, "validation_data")
    for name, measured in (("eval_data", test), ("validation_data", validation)):
        if measured and not bool((measured.targets != UNLABELLED).any()):
            raise DataError(f"{name} has no labels to measure accuracy on")
    task = Classification(config.label_smoothing)
    sample = source.batch(torch.arange(min(2, len(source))))
    place = find_device(device)
    with evaluating(student):
        logits = logits_of(run_model(student, to_device(sample.inputs, device_of(student))))
    classes = 0 if logits is None else logits.shape[-1]
    with Distiller(
        teacher,
        student,
        strategies,
        task_weight=task_weight,
        sample_input=sample.inputs,
        teacher_sample_input=sample.teacher_inputs,
        setup=Setup(targets=source.targets),
        task=task,
        seed=seed,
        device=place,
        execution=Execution.of(config.precision, place, config.compile),
    ) as distiller:
        for name, data in (
            ("train_data", source),
            ("eval_data", test),
            ("validation_data", validation),
        ):
            if data is not None:
                _check_targets(data, name, classes)
        request = Request(distiller.teachers, source, config.micro_batch, place)
        signals = SignalCache(CacheConfig(), lambda _: None).source(request)
        saver = None
        if resume is not None:
            sources = {"train": source, "eval": test, "validation": validation}
            facts = _facts(distiller, sources, config, seed, place)
            saver = Saver(Path(resume), CheckpointConfig(), facts)
        with nullcontext() if resume is None else _alone(Path(resume)):
            history = train(
                distiller,
                source,
                config,
                seed,
                test=test,
                validation=validation,
                signals=signals,
                observers=tuple(observers),
                saver=saver,
            )
    accuracy = history.epochs[-1].accuracy
    assert accuracy is not None
    return Result(student, accuracy, history)


def _alone(folder: Path) -> AbstractContextManager[None]:
    """Refuse a folder that another training saves itself in."""

    def busy() -> None:
        raise ResumeError(
            f"another training is saved in {folder}: wait for it, or give this one another folder"
        )

    return locked(folder, busy)


def _digest(source: Source) -> str:
    """Return the hash of samples, as far as they are the same whenever they are read."""
    if source.fingerprint:
        return source.fingerprint
    digests = [digest_of({"targets": source.targets})]
    for indices in torch.split(torch.arange(len(source)), 256) if source.views == 1 else ():
        digests.append(digest_of(split(source.batch(indices).inputs)[1]))
    return digest_of(
        {"all": torch.frombuffer(bytearray("".join(digests), "ascii"), dtype=torch.uint8)}
    )


def _facts(
    distiller: Distiller,
    sources: Mapping[str, Source | None],
    config: TrainConfig,
    seed: int,
    device: torch.device,
) -> dict[str, object]:
    """Return what the result of a training depends on, as far as it can be known."""
    return {
        "seed": seed,
        "train": config.model_dump(mode="json"),
        "task_weight": repr(distiller.task_weight),
        "strategies": [
            [each.label, each.teacher, repr((each.weight, each.strategy)), source_of(each.strategy)]
            for each in distiller.members
        ],
        "student": structure_of(distiller.student),
        "teachers": {
            name: structure_of(teacher.model) for name, teacher in distiller.teachers.items()
        },
        "ensembles": {name: repr(each) for name, each in distiller.ensembles.items()},
        "averages": {name: each.decay for name, each in distiller.moving.items()},
        "data": {name: source and _digest(source) for name, source in sources.items()},
        "kdcore": own_version(),
        **machine_facts(device),
    }


def _check_targets(source: Source, name: str, classes: int) -> None:
    wrong = (source.targets != UNLABELLED) & ((source.targets < 0) | (source.targets >= classes))
    if bool(wrong.any()):
        index = int(wrong.nonzero()[0])
        raise DataError(
            f"{name}[{index}]: the target is {int(source.targets[index])}, the student has "
            f"{classes} classes; -100 is no label"
        )


def _source(data: Data, name: str) -> Source:
    if isinstance(data, Source):
        return data
    if isinstance(data, tuple):
        if len(data) != 2 or len(data[0]) != len(data[1]):
            raise DataError(f"{name}: expected a pair of tensors of equal length")
        return DatasetSource(TensorDataset(*data), name, same_every_epoch=True)
    return DatasetSource(data, name)
