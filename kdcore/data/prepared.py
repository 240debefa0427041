"""An experiment's data as its models want it, made once and shared by all its runs."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from kdcore.data.augment import Augment
from kdcore.data.feed import describe_feed, workers_for
from kdcore.data.images import LabelledImages
from kdcore.data.load import hold_out, keep_labels, load_data
from kdcore.data.pixels import BUDGET_BYTES, PixelPool
from kdcore.data.preprocess import Preprocess
from kdcore.data.source import ImageSource
from kdcore.errors import ConfigError
from kdcore.experiment import Experiment
from kdcore.models.build import preprocess_for
from kdcore.teachers import TEACHER, title_of

BUDGETS = {"auto": BUDGET_BYTES, "always": 2**62, "never": 0}
"""Bytes that decoded images may take, by ``data.keep``."""


@dataclass(frozen=True)
class TeacherData:
    """The data as one teacher wants it.

    Attributes:
        train: what it learns from, if it is trained here: every labelled training image.
        test: decides nothing.
        preprocess: how it wants images.
        fingerprint: of what its training depends on.
    """

    train: ImageSource
    test: ImageSource
    preprocess: Preprocess
    fingerprint: str


@dataclass(frozen=True)
class PreparedData:
    """The sources of an experiment.

    Attributes:
        name: of the data set.
        classes: names of the classes, by index.
        student: what students learn from; labels that they may not see are taken away.
        teachers: the data as each teacher wants it, by name.
        validation: held out of training, to choose weights on; None without one.
        test: decides nothing.
        student_preprocess: how the student wants images.
        fingerprint: of what a student alone depends on: images, labels, split, sizes.
        workers: processes that make batches ahead.
        notes: what a user should know.
    """

    name: str
    classes: tuple[str, ...]
    student: ImageSource
    teachers: Mapping[str, TeacherData]
    validation: ImageSource | None
    test: ImageSource
    student_preprocess: Preprocess
    fingerprint: str
    workers: int
    notes: tuple[str, ...]


def prepare_data(experiment: Experiment, device: torch.device) -> PreparedData:
    """Load an experiment's data and split it.

    Args:
        experiment: the experiment.
        device: where decoded images are kept, and batches are made.

    Raises:
        DataError: the data is missing, unreadable or not enough.
    """
    config = experiment.data
    loaded = load_data(config)
    train, held_out = loaded.train, None
    if config.validation:
        train, held_out = hold_out(train, config.validation, config.split_seed)
    few = train if config.labels is None else keep_labels(train, config.labels, config.split_seed)
    student = preprocess_for(experiment.student, loaded.train.images)
    teachers = {
        name: preprocess_for(each, loaded.train.images)
        for name, each in experiment.model_teachers.items()
    }
    pool = PixelPool(device, BUDGETS[config.keep])
    augment = Augment(experiment.augment)
    source = ImageSource(few, student, teachers, pool, augment)
    labelled = train.subset(train.labelled.tolist())
    test = ImageSource(loaded.test, student, teachers, pool)
    validation = None if held_out is None else ImageSource(held_out, student, None, pool)
    as_taught = {
        name: TeacherData(
            # A teacher trains as a student does: both of its inputs are the teacher's.
            ImageSource(labelled, own, None, pool, augment),
            test if own == student else ImageSource(loaded.test, own, None, pool),
            own,
            _fingerprint((labelled, loaded.test), str(own)),
        )
        for name, own in teachers.items()
    }
    pool.keep()
    if config.workers and pool.in_memory and pool.device.type != "cpu":
        raise ConfigError(
            f"data.workers = {config.workers}: processes cannot read ahead from images that are "
            f"kept on {pool.device}; leave it out, or set data.keep = 'never'"
        )
    workers = workers_for(pool.in_memory, config.workers)
    views = source.view_size if augment.active else ""
    return PreparedData(
        loaded.name,
        loaded.train.classes,
        source,
        as_taught,
        validation,
        test,
        student,
        _fingerprint((few, held_out, loaded.test), f"{student}{views}"),
        workers,
        (
            *loaded.notes,
            *_notes(few, train, student, teachers),
            describe_feed(pool.in_memory, pool.nbytes, pool.device, workers),
        ),
    )


def _notes(
    few: LabelledImages,
    train: LabelledImages,
    student: Preprocess,
    teachers: Mapping[str, Preprocess],
) -> list[str]:
    notes = []
    seen, labelled = len(few.labelled), len(train.labelled)
    if seen < len(few):
        notes.append(
            f"{len(few)} training images; the student sees {seen} labels, the others reach it "
            f"through the teacher alone; a teacher that is trained here sees {labelled}"
        )
    if any(each.size != student.size for each in teachers.values()):
        others = (
            f"{each.size} for {'the teacher' if name == TEACHER else title_of(name)}"
            for name, each in teachers.items()
        )
        notes.append(f"images of {student.size} pixels for the student, {', '.join(others)}")
    return notes


def _fingerprint(parts: tuple[LabelledImages | None, ...], preprocess: str) -> str:
    digest = hashlib.sha256(preprocess.encode())
    for part in parts:
        if part is not None:
            digest.update(f"{part.images.fingerprint()}{part.classes}".encode())
            digest.update(part.targets.contiguous().numpy().tobytes())
    return digest.hexdigest()
