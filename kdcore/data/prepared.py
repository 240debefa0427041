"""An experiment's data as its models want it, made once and shared by all its runs."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from kdcore.data.augment import Augment
from kdcore.data.feed import describe_feed, workers_for
from kdcore.data.images import LabelledImages
from kdcore.data.load import hold_out, keep_labels, load_data
from kdcore.data.named import load_named
from kdcore.data.pixels import BUDGET_BYTES, PixelPool
from kdcore.data.preprocess import Preprocess
from kdcore.data.source import DatasetSource, ImageSource, Source
from kdcore.errors import ConfigError
from kdcore.experiment import Experiment
from kdcore.models.build import preprocess_for
from kdcore.task_kinds import task_of
from kdcore.tasks import labelled_samples
from kdcore.teachers import TEACHER, title_of

BUDGETS = {"auto": BUDGET_BYTES, "always": 2**62, "never": 0}
"""Bytes that decoded images may take, by ``data.keep``."""


@dataclass(frozen=True)
class TeacherData:
    """The data as one teacher wants it.

    Attributes:
        train: what it learns from, if it is trained here: every labelled training image.
        test: decides nothing.
        preprocess: how it wants images; None where samples are no images.
        fingerprint: of what its training depends on.
    """

    train: Source
    test: Source
    preprocess: Preprocess | None
    fingerprint: str

    @property
    def given(self) -> Any:
        """Side in pixels of its images, or two samples as it is given them."""
        return _given(self.preprocess, self.train)

    @property
    def view_size(self) -> int | None:
        """Side in pixels of the images that views are made of."""
        return self.train.view_size if isinstance(self.train, ImageSource) else None


@dataclass(frozen=True)
class PreparedData:
    """The sources of an experiment.

    Attributes:
        name: of the data set.
        outputs: how many classes, or values a sample, models shall have; None if not known.
        classes: names of them, by index; none of samples that a user's callable brings.
        student: what students learn from; labels that they may not see are taken away.
        teachers: the data as each teacher wants it, by name.
        validation: held out of training, to choose weights on; None without one.
        test: decides nothing.
        student_preprocess: how the student wants images; None where samples are no images.
        fingerprint: of what a student alone depends on: images, labels, split, sizes.
        samples: hash of the training and test samples and their targets, before images are held
            out or labels are taken away; of a callable's, of its parts as they are; empty where
            its samples vary between readings.
        workers: processes that make batches ahead.
        notes: what a user should know.
    """

    name: str
    outputs: int | None
    classes: tuple[str, ...]
    student: Source
    teachers: Mapping[str, TeacherData]
    validation: Source | None
    test: Source
    student_preprocess: Preprocess | None
    fingerprint: str
    samples: str
    workers: int
    notes: tuple[str, ...]

    @property
    def things(self) -> str:
        """What its samples are called."""
        return "images" if self.student_preprocess else "samples"

    @property
    def student_given(self) -> Any:
        """Side in pixels of the student's images, or two samples as it is given them."""
        return _given(self.student_preprocess, self.student)

    @property
    def view_size(self) -> int | None:
        """Side in pixels of the images that the student's views are made of."""
        return self.student.view_size if isinstance(self.student, ImageSource) else None


def _given(preprocess: Preprocess | None, source: Source) -> Any:
    if preprocess:
        return preprocess.size
    return source.batch(torch.arange(2) % len(source)).inputs


def prepare_data(experiment: Experiment, device: torch.device) -> PreparedData:
    """Load an experiment's data and split it.

    Args:
        experiment: the experiment.
        device: where decoded images are kept, and batches are made.

    Raises:
        DataError: the data is missing, unreadable or not enough.
    """
    config = experiment.data
    if config.named:
        return _prepare_named(experiment)
    loaded = load_data(config, experiment.task.kind)
    train, held_out = loaded.train, None
    if config.validation:
        train, held_out = hold_out(train, config.validation, config.split_seed)
    few = train if config.labels is None else keep_labels(train, config.labels, config.split_seed)
    student = preprocess_for(experiment.student, loaded.train.images, "student")
    teachers = {
        name: preprocess_for(each, loaded.train.images, title_of(name))
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
        len(loaded.train.classes),
        loaded.train.classes,
        source,
        as_taught,
        validation,
        test,
        student,
        _fingerprint((few, held_out, loaded.test), f"{student}{views}"),
        _fingerprint((loaded.train, loaded.test), ""),
        workers,
        (
            *loaded.notes,
            *_notes(experiment, few, train, student, teachers),
            describe_feed(pool.in_memory, pool.nbytes, pool.device, workers),
        ),
    )


def _prepare_named(experiment: Experiment) -> PreparedData:
    config, task = experiment.data, task_of(experiment.task, experiment.train)
    data = load_named(config, task)
    taught = _fingerprint_named(data.code, data.teacher, data.test)
    teacher = TeacherData(data.teacher, data.test, None, taught)
    seen, labelled = (int(labelled_samples(s.targets).sum()) for s in (data.student, data.teacher))
    return PreparedData(
        config.name,
        data.outputs,
        (),
        data.student,
        dict.fromkeys(experiment.model_teachers, teacher),
        data.validation,
        data.test,
        None,
        _fingerprint_named(data.code, data.student, data.validation, data.test),
        _samples_named(data.student, data.validation, data.test),
        config.workers or 0,
        tuple(_labels_note(experiment, len(data.student), seen, labelled, "samples")),
    )


def _fingerprint_named(code: str, *sources: DatasetSource | None) -> str:
    digest = hashlib.sha256(code.encode())
    for source in sources:
        if source is not None:
            digest.update(f"{source.content}{source.targets.dtype}".encode())
            digest.update(source.targets.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _samples_named(*sources: DatasetSource | None) -> str:
    if any(source is not None and source.content is None for source in sources):
        return ""
    return _fingerprint_named("", *sources)


def _labels_note(
    experiment: Experiment, count: int, seen: int, labelled: int, things: str
) -> list[str]:
    """Say what labels a student and a teacher see, where it is not all of them."""
    if seen == count:
        return []
    note = (
        f"{count} training {things}; the student sees {seen} labels, the others reach it "
        "through the teacher alone"
    )
    if any(not each.comes_trained or each.fit for each in experiment.model_teachers.values()):
        note += f"; a teacher that is trained here sees {labelled}"
        if labelled < count / 2:
            note += (
                ", and has little to say of the others: one that knows the classes is given with "
                "--teacher FILE (teacher.weights)"
            )
    return [note]


def _notes(
    experiment: Experiment,
    few: LabelledImages,
    train: LabelledImages,
    student: Preprocess,
    teachers: Mapping[str, Preprocess],
) -> list[str]:
    notes = _labels_note(experiment, len(few), len(few.labelled), len(train.labelled), "images")
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
