"""An experiment's data as its models want it, made once and shared by all its runs."""

import hashlib
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

BUDGETS = {"auto": BUDGET_BYTES, "always": 2**62, "never": 0}
"""Bytes that decoded images may take, by ``data.keep``."""


@dataclass(frozen=True)
class PreparedData:
    """The sources of an experiment.

    Attributes:
        name: of the data set.
        classes: names of the classes, by index.
        student: what students learn from; labels that they may not see are taken away.
        teacher: what a teacher learns from: every labelled training image.
        validation: held out of training, to choose weights on; None without one.
        test: decides nothing.
        teacher_test: the same samples, for a teacher that is trained here.
        student_preprocess: how the student wants images.
        teacher_preprocess: how the teacher does.
        fingerprint: of what a student's run depends on: images, labels, split, sizes.
        teacher_fingerprint: of what the teacher's training depends on.
        workers: processes that make batches ahead.
        notes: what a user should know.
    """

    name: str
    classes: tuple[str, ...]
    student: ImageSource
    teacher: ImageSource
    validation: ImageSource | None
    test: ImageSource
    teacher_test: ImageSource
    student_preprocess: Preprocess
    teacher_preprocess: Preprocess
    fingerprint: str
    teacher_fingerprint: str
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
    teacher = preprocess_for(experiment.teacher, loaded.train.images)
    pool = PixelPool(device, BUDGETS[config.keep])
    augment = Augment(experiment.augment)
    source = ImageSource(few, student, teacher, pool, augment)
    # The teacher trains as a student does: both of its inputs are the teacher's.
    labelled = train.subset(train.labelled.tolist())
    teacher_source = ImageSource(labelled, teacher, None, pool, augment)
    test = ImageSource(loaded.test, student, teacher, pool)
    validation = None if held_out is None else ImageSource(held_out, student, None, pool)
    teacher_test = test if student == teacher else ImageSource(loaded.test, teacher, None, pool)
    pool.keep()
    if config.workers and pool.in_memory and pool.device.type != "cpu":
        raise ConfigError(
            f"data.workers = {config.workers}: processes cannot read ahead from images that are "
            f"kept on {pool.device}; leave it out, or set data.keep = 'never'"
        )
    workers = workers_for(pool.in_memory, config.workers)
    return PreparedData(
        loaded.name,
        loaded.train.classes,
        source,
        teacher_source,
        validation,
        test,
        teacher_test,
        student,
        teacher,
        _fingerprint((few, held_out, loaded.test), student, teacher),
        _fingerprint((labelled, loaded.test), teacher),
        workers,
        (
            *loaded.notes,
            *_notes(few, train, student, teacher),
            describe_feed(pool.in_memory, pool.nbytes, pool.device, workers),
        ),
    )


def _notes(
    few: LabelledImages,
    train: LabelledImages,
    student: Preprocess,
    teacher: Preprocess,
) -> list[str]:
    notes = []
    seen, labelled = len(few.labelled), len(train.labelled)
    if seen < len(few):
        notes.append(
            f"{len(few)} training images; the student sees {seen} labels, the others reach it "
            f"through the teacher alone; a teacher that is trained here sees {labelled}"
        )
    if student.size != teacher.size:
        notes.append(
            f"images of {student.size} pixels for the student, {teacher.size} for the teacher"
        )
    return notes


def _fingerprint(parts: tuple[LabelledImages | None, ...], *preprocess: Preprocess) -> str:
    digest = hashlib.sha256(str(preprocess).encode())
    for part in parts:
        if part is not None:
            digest.update(f"{part.images.fingerprint()}{part.classes}".encode())
            digest.update(part.targets.contiguous().numpy().tobytes())
    return digest.hexdigest()
