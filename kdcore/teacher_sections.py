"""Who teaches in an experiment: the sections [teacher] and [teachers.NAME], checked as a whole.

What strategies learn from whom is in their entries; how teachers come about is in `teacher_runs`.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag, field_validator, model_validator

from kdcore.errors import ConfigError, unknown
from kdcore.sections import LABEL, MODEL, ModelConfig, Positive, Section, Seed
from kdcore.teachers import (
    ALL_TEACHERS,
    TEACHER,
    MovingAverageTeacher,
    TeacherEnsemble,
    check_teachers,
    needed,
)


class FitConfig(Section):
    """How a pretrained teacher gets to know classes that are not its own, before it teaches."""

    mode: Literal["head", "full"] = Field(
        "head", description="train its new head alone, or all of its layers"
    )
    epochs: int = Field(5, ge=1, description="passes over the labelled training images")
    lr: Positive = Field(1e-3, description="learning rate")


class TeacherConfig(ModelConfig):
    """The teacher: a model, and the training it gets where no weights are given.

    Keys of the training that are not given here are taken from ``[train]``.
    """

    model: str = Field("deepnn", min_length=1, description=MODEL)
    train: dict[str, Any] = Field(
        default_factory=dict, description="keys of [train] that differ for the teacher"
    )
    seed: Seed | None = Field(
        None,
        description="seed of its start and training: one teacher for all seeds of a comparison; "
        "that of the run where not given",
    )
    fit: FitConfig | None = Field(
        None, description="train it on the data first, where its head is of other classes"
    )
    classes: int | None = Field(
        None, ge=1, description="classes of its own head, where weights names a file of others"
    )
    class_map: dict[str, int | str | tuple[int | str, ...]] | None = Field(
        None,
        description="by class of the data, which class of its own it is, or which several: names "
        "or indices",
    )
    shard: bool = Field(
        False,
        description="spread its weights over the processes (FSDP2) where it is asked, for a model "
        "that is too large for one",
    )

    @field_validator("class_map", mode="before")
    @classmethod
    def _no_truth_for_a_class(cls, given: Any) -> Any:
        for name, each in given.items() if isinstance(given, Mapping) else ():
            if any(isinstance(one, bool) for one in (each if isinstance(each, list) else [each])):
                raise ValueError(f"{name}: {str(each).lower()} is no class: give names or indices")
        return given

    @property
    def comes_trained(self) -> bool:
        """Whether it knows something before it sees the data."""
        return self.pretrained or self.weights is not None

    def own_seed(self, seed: int) -> int:
        """Return the seed of its start and training, in a run of some seed."""
        return seed if self.seed is None else self.seed

    @property
    def summary(self) -> str:
        """What it is, in a few words."""
        fit = f", {self.fit.mode} fitted" if self.fit else ""
        return self.model + (", pretrained" if self.pretrained else "") + fit

    @model_validator(mode="after")
    def _settings_that_are_used(self) -> "TeacherConfig":
        if not self.comes_trained:
            self._refuse("a teacher that is pretrained or has weights", True, *_OWN_HEAD)
        if self.fit and self.class_map is not None:
            raise ValueError("fit and class_map exclude each other: a fitted head needs no map")
        if self.classes is not None and self.weights is None:
            raise ValueError("classes would be ignored: only weights = FILE does not say them")
        return self


_OWN_HEAD = ("fit", "classes", "class_map")


class EnsembleConfig(Section):
    """A teacher whose logits are the mean of other teachers'."""

    ensemble: tuple[str, ...] = Field(description="names of the teachers that it is the mean of")
    shares: tuple[Positive, ...] | None = Field(
        None,
        description="each one's share in the mean, relative to the others'; equal if not given",
    )

    @model_validator(mode="after")
    def _is_one(self) -> "EnsembleConfig":
        _ = self.spec
        return self

    @property
    def spec(self) -> TeacherEnsemble:
        """The same as it is handed over in Python."""
        return TeacherEnsemble(self.ensemble, self.shares)

    @property
    def summary(self) -> str:
        """What it is, in a few words."""
        shares = self.shares and f", shares {', '.join(f'{share:g}' for share in self.shares)}"
        return f"mean of {', '.join(self.ensemble)}{shares or ''}"


class AverageConfig(Section):
    """A teacher that is the moving average of the student."""

    average: float = Field(
        ge=0, lt=1, description="what the average of the student keeps of itself a step"
    )

    @property
    def spec(self) -> MovingAverageTeacher:
        """The same as it is handed over in Python."""
        return MovingAverageTeacher(self.average)

    @property
    def summary(self) -> str:
        """What it is, in a few words."""
        return f"moving average of the student, decay {self.average:g}"


def _kind(value: object) -> str:
    """Say which of the three a value is, or was meant to be, by the keys that only it has."""
    if isinstance(value, BaseModel):
        return _tag(type(value))
    keys = value if isinstance(value, Mapping) else ()
    if "ensemble" in keys or "shares" in keys:
        return _tag(EnsembleConfig)
    return _tag(AverageConfig if "average" in keys else TeacherConfig)


def _tag(kind: type[BaseModel]) -> str:
    return f"teacher[{kind.__name__}]"


AnyTeacherConfig = Annotated[
    Annotated[TeacherConfig, Tag(_tag(TeacherConfig))]
    | Annotated[EnsembleConfig, Tag(_tag(EnsembleConfig))]
    | Annotated[AverageConfig, Tag(_tag(AverageConfig))],
    Discriminator(_kind),
]
"""A section ``[teachers.NAME]``."""


def check_names(teachers: Mapping[str, AnyTeacherConfig]) -> None:
    """Refuse names that are no labels or mean something else, and wrong members of ensembles.

    Raises:
        ConfigError: names the teacher.
    """
    for name in teachers:
        if not re.fullmatch(LABEL, name):
            raise ConfigError(f"teachers: {name!r} is no name: letters, digits, _, +, @ and -")
        if name == TEACHER:
            raise ConfigError(
                f"no teacher of several can be called {name!r}, as the one of [teacher] is: give "
                "it another name"
            )
    check_teachers(teachers, ensembles_in(teachers))


def check_all_teach(
    teachers: Mapping[str, AnyTeacherConfig], learners: Iterable[tuple[str, str | None]]
) -> None:
    """Refuse teachers that nobody learns from, of those that were named.

    Args:
        teachers: by name.
        learners: label of each strategy, and the teacher that it names.

    Raises:
        ConfigError: names the teacher, or the strategy that learns from none of them.
    """
    bound = set()
    for label, teacher in learners:
        if teacher == ALL_TEACHERS or (teacher is None and len(teachers) == 1):
            bound |= set(teachers)
        elif teacher is None:
            raise ConfigError(
                f"strategy {label!r} does not say which teacher it learns from; set teacher to "
                f"one of {', '.join(teachers)}, or to {ALL_TEACHERS!r}"
            )
        elif teacher not in teachers:
            raise ConfigError(f"strategy {label!r}: {unknown('teacher', teacher, teachers)}")
        else:
            bound.add(teacher)
    for name in teachers:
        if name not in needed(bound, ensembles_in(teachers)):
            raise ConfigError(
                f'no strategy learns from teacher {name!r}: bind one (teacher = "{name}"), or '
                f"leave [teachers.{name}] out"
            )


def ensembles_in(teachers: Mapping[str, AnyTeacherConfig]) -> dict[str, TeacherEnsemble]:
    """Return those of an experiment's teachers that are ensembles, as Python has them."""
    return {name: each.spec for name, each in teachers.items() if isinstance(each, EnsembleConfig)}
