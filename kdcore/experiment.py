"""What an experiment is: sections, strategies, and whether it is one run or a comparison.

The sections' keys are in `sections`; reading and writing files in `configfile`.
"""

import json
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from kdcore.imports import FILE, placed
from kdcore.sections import (
    LABEL,
    MODEL,
    AugmentConfig,
    CacheConfig,
    CheckpointConfig,
    DataConfig,
    ExportConfig,
    LogConfig,
    ModelConfig,
    ProcessesConfig,
    Section,
    Seed,
    TaskConfig,
    TrainConfig,
)
from kdcore.teacher_sections import AnyTeacherConfig, TeacherConfig, check_all_teach, check_names
from kdcore.teachers import TEACHER, title_of
from kdcore.validation import Checked, describe_validation
from kdcore.weights import Weight


class StudentConfig(ModelConfig):
    """The student: a model that begins alike in every run of a comparison."""

    model: str = Field("lightnn", min_length=1, description=MODEL)


class StrategyConfig(Checked):
    """One entry of a list of strategies; the keys beside these four are the method's settings."""

    model_config = ConfigDict(extra="allow")  # which the method's own settings check

    name: str = Field(min_length=1, description="name of an installed strategy")
    weight: Weight | None = Field(
        None,
        description="weight of its auxiliary loss, a number or a table that moves it; the method's "
        "own where not given",
    )
    label: str | None = Field(
        None, pattern=rf"^{LABEL}$", description="name of this entry in logs; its name if not given"
    )
    teacher: str | None = Field(None, description="the teacher it learns from, where several are")

    @model_validator(mode="before")
    @classmethod
    def _a_table(cls, values: Any) -> Any:
        if isinstance(values, str):
            raise ValueError(f"{_quoted(values)} stands alone; write {_entry(values)}")
        return values

    @model_validator(mode="before")
    @classmethod
    def _label_without_distribution(cls, values: Any) -> Any:
        name = values.get("name") if isinstance(values, dict) else None
        if not isinstance(name, str) or ":" not in name:
            return values
        label = name.rpartition(":")[2]
        if FILE.fullmatch(name):
            # Where it is, so that the resolved experiment finds it from everywhere.
            values, label = {**values, "name": placed(name)}, label.lower()
        return {**values, "label": values.get("label") or label}

    @property
    def settings(self) -> dict[str, Any]:
        """The method's own settings, as they were given."""
        return dict(self.model_extra or {})


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def _entry(name: str) -> str:
    return f"{{ name = {_quoted(name)} }}"


def _a_list(values: object) -> object:
    if isinstance(values, str):
        raise ValueError(f"{_quoted(values)} is no list; write [{_entry(values)}]")
    return values


Strategies = Annotated[tuple[StrategyConfig, ...], BeforeValidator(_a_list)]


class StageConfig(Section):
    """One part of a student's training, with losses and a budget of its own."""

    strategies: Strategies = Field(
        (), description="what the student learns by in it; none for its task alone"
    )
    task_weight: Weight | None = Field(
        None, description="weight of the task's loss; the strategies' own where not given"
    )
    trainable: tuple[str, ...] = Field(
        (), description="names of the student's modules that are trained in it; all if none"
    )
    train: dict[str, Any] = Field(
        default_factory=dict, description="keys of [train] that differ in it"
    )


class CandidateConfig(Section):
    """One list of strategies in a comparison, or several stages."""

    label: str = Field(
        pattern=rf"^{LABEL}$",
        description="the name of its row; those of its strategies, with + between them, if not "
        "given",
    )
    task_weight: Weight | None = Field(
        None, description="weight of the task's loss; the experiment's where not given"
    )
    strategies: Strategies = Field((), description="what its student learns by")
    stages: tuple[StageConfig, ...] = Field(
        (), description="instead: what it learns by, one after the other"
    )

    @model_validator(mode="before")
    @classmethod
    def _called_as_its_strategies(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("label") is not None:
            return values
        stages = values.get("stages") or [values]
        named = [joined_label(each.get("strategies")) for each in stages if isinstance(each, dict)]
        label = "-".join(filter(None, named))
        return {**values, "label": label} if label else values

    @model_validator(mode="after")
    def _learns_by_something(self) -> Self:
        if not any(stage.strategies for stage in self.plan):
            raise ValueError(f"candidate {self.label!r} has no strategies, in no stage")
        _refuse_both(self.stages, self.strategies, self.task_weight)
        return self

    @property
    def plan(self) -> tuple[StageConfig, ...]:
        """Its stages: those that were given, or the one that it is."""
        return self.stages or (
            StageConfig(strategies=self.strategies, task_weight=self.task_weight),
        )


def joined_label(strategies: object) -> str:
    """Return what some strategies that are yet to be checked are called together."""
    names = []
    for entry in strategies if isinstance(strategies, list | tuple) else [strategies]:
        if isinstance(entry, dict):
            names.append(str(entry.get("label") or entry.get("name", "")))
        elif isinstance(entry, str):  # refused as an entry, and not for want of a label
            names.append(entry)
    bare = [name.rpartition(":")[2] for name in names]  # of a distribution, or in a file
    return "+".join(filter(None, bare))


def _refuse_both(
    stages: tuple[StageConfig, ...],
    strategies: tuple[StrategyConfig, ...],
    task_weight: Weight | None,
) -> None:
    if stages and (strategies or task_weight is not None):
        raise ValueError("each stage has its own strategies and task_weight: give them there")


class Experiment(Section):
    """What a run and a comparison share."""

    task_weight: Weight | None = Field(
        None,
        description="weight of the task's loss, a number or a table that moves it; the strategies' "
        "own where not given",
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps, ...")
    wrappers: tuple[str, ...] = Field((), description="hook wrappers to use, by name")
    task: TaskConfig = TaskConfig()
    data: DataConfig = DataConfig()
    teacher: TeacherConfig | None = None
    teachers: dict[str, AnyTeacherConfig] | None = Field(None, min_length=1)
    student: StudentConfig = StudentConfig()
    train: TrainConfig = TrainConfig()
    augment: AugmentConfig = AugmentConfig()
    cache: CacheConfig = CacheConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    processes: ProcessesConfig = ProcessesConfig()
    log: LogConfig = LogConfig()
    export: ExportConfig | None = None

    @property
    def teachers_by_name(self) -> dict[str, AnyTeacherConfig]:
        """All teachers: those that were named, or the one of ``[teacher]``."""
        if self.teachers is not None:
            return self.teachers
        return {TEACHER: self.teacher or TeacherConfig()}

    @property
    def model_teachers(self) -> dict[str, TeacherConfig]:
        """Those teachers that are models of their own, loaded or trained."""
        found = self.teachers_by_name.items()
        return {name: each for name, each in found if isinstance(each, TeacherConfig)}

    @property
    def model_names(self) -> tuple[str, ...]:
        """What its models are built by: those of the teachers, and that of the student."""
        return *(each.model for each in self.model_teachers.values()), self.student.model

    def teacher_train(self, name: str = TEACHER) -> TrainConfig:
        """Return the training of a teacher: ``[train]`` with what its own section changes."""
        teacher = self.model_teachers[name]
        fit = teacher.fit.model_dump(include={"epochs", "lr"}) if teacher.fit else {}
        return TrainConfig.model_validate({**self.train.model_dump(), **teacher.train, **fit})

    def stage_train(self, stage: StageConfig) -> TrainConfig:
        """Return the training of a stage: ``[train]`` with what the stage changes."""
        return TrainConfig.model_validate({**self.train.model_dump(), **stage.train})

    @property
    def plans(self) -> tuple[tuple[StageConfig, ...], ...]:
        """The stages of every student of it."""
        return ()

    @property
    def strategy_lists(self) -> tuple[tuple[StrategyConfig, ...], ...]:
        """Every list of strategies that a student of it learns by."""
        return tuple(stage.strategies for plan in self.plans for stage in plan)

    @model_validator(mode="before")
    @classmethod
    def _one_teacher_or_several(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        if values.get("teachers") is None:
            return values if values.get("teacher") is not None else {**values, "teacher": {}}
        if values.get("teacher") is not None:
            raise ValueError(
                "[teacher] is one teacher, [teachers.NAME] are several: give one or the other"
            )
        return values

    @model_validator(mode="after")
    def _teachers_that_teach(self) -> Self:
        if self.teachers is not None:
            check_names(self.teachers)
            entries = [entry for entries in self.strategy_lists for entry in entries]
            learners = ((entry.label or entry.name, entry.teacher) for entry in entries)
            check_all_teach(self.teachers, learners)
        return self

    @property
    def imports(self) -> tuple[str, ...]:
        """The names in it by which something of the user's is imported."""
        named = (*self.model_names, self.data.name, self.task.metric or "")
        strategies = {each.name for entries in self.strategy_lists for each in entries}
        files = sorted(name for name in strategies if FILE.fullmatch(name))
        return (*(name for name in named if ":" in name), *files)

    @model_validator(mode="after")
    def _of_one_task(self) -> Self:
        kind, data = self.task.kind, self.data
        trainings = (self.train.model_dump(), *(t.train for t in self.model_teachers.values()))
        stages = [stage for plan in self.plans for stage in plan]
        smooths = any(each.get("label_smoothing") for each in trainings)
        smooths = smooths or any(stage.train.get("label_smoothing") for stage in stages)
        if smooths and not self.task.of_classes:
            raise ValueError(f"train.label_smoothing would be ignored: {kind} has no classes")
        if self.augment.mixes and kind not in ("classification", "none"):
            raise ValueError(f"augment: mixup and cutmix mix the classes of images, not {kind}")
        if data.named and self.augment.active:
            raise ValueError(f"augment would be ignored: {data.name} brings samples as they are")
        models = {title_of(name): each for name, each in self.model_teachers.items()}
        for where, model in {**models, "student": self.student}.items() if data.named else ():
            for key in ("image_size", "resize", "interpolation", "squash", "mean", "std"):
                if getattr(model, key) is not None:
                    raise ValueError(
                        f"{where}.{key} would be ignored: {data.name} brings what models take"
                    )
        served = ["classification", "none"]
        if data.name == "csv":
            served += ["regression", "multi-label"]
        if not data.named and kind not in served:
            csv = "'csv' or " if kind in ("regression", "multi-label") else ""
            raise ValueError(
                f"task.kind = {kind!r} needs other data than {data.name}: data.name = {csv}"
                "'package.module:callable'"
            )
        if kind == "none" and any(not stage.strategies for stage in stages):
            raise ValueError("task.kind = 'none' learns from strategies alone: give some")
        return self

    @model_validator(mode="after")
    def _other_trainings_are_valid(self) -> Self:
        where = "train"
        try:
            for name in self.model_teachers:
                where = "teacher.train" if self.teachers is None else f"teachers.{name}.train"
                self.teacher_train(name)
            for plan in self.plans:
                for number, stage in enumerate(plan):
                    where = f"stages.{number}.train"
                    self._refuse_compiled_pieces(self.stage_train(stage))
        except ValidationError as error:
            raise ValueError(describe_validation(error, where, TrainConfig)) from None
        return self

    def _refuse_compiled_pieces(self, train: TrainConfig) -> None:
        spread = [name for name, each in self.model_teachers.items() if each.shard]
        if train.compile and spread:
            raise ValueError(f"train.compile does not go with shard of {title_of(spread[0])}")


def _refuse_own_rows(labels: list[str]) -> None:
    for label in labels:
        if label in (TEACHER, "student"):
            raise ValueError(f"nothing may be called {label!r}: that row is kdcore's own")


class RunConfig(Experiment):
    """One student, one list of strategies, one seed."""

    seed: Seed = Field(42, description="seed of weights, order and dropout")
    strategies: Strategies = Field(
        (), description="what the student learns by; none for the student alone"
    )
    stages: tuple[StageConfig, ...] = Field(
        (), description="instead: what it learns by, one after the other"
    )

    @property
    def plan(self) -> tuple[StageConfig, ...]:
        """Its stages: those that were given, or the one that it is."""
        return self.stages or (
            StageConfig(strategies=self.strategies, task_weight=self.task_weight),
        )

    @property
    def name(self) -> str:
        """What it learns by, with + within a stage and - between; nothing for a student alone."""
        stages = [
            "+".join(each.label or each.name for each in list_) for list_ in self.strategy_lists
        ]
        return "-".join(filter(None, stages))

    @property
    def plans(self) -> tuple[tuple[StageConfig, ...], ...]:
        """Its one plan."""
        return (self.plan,)

    @model_validator(mode="after")
    def _rows_of_their_own(self) -> Self:
        for entries in self.strategy_lists:
            _refuse_own_rows([entry.label or entry.name for entry in entries])
        _refuse_both(self.stages, self.strategies, self.task_weight)
        return self


class ComparisonConfig(Experiment):
    """Candidates and seeds that share teacher, data, initial weights and budget."""

    seeds: tuple[Seed, ...] = Field((42,), min_length=1, description="one run a candidate and seed")
    candidates: tuple[CandidateConfig, ...] = Field(
        min_length=1, description="what is compared with the student alone"
    )

    @property
    def plans(self) -> tuple[tuple[StageConfig, ...], ...]:
        """The plan of each candidate."""
        return tuple(candidate.plan for candidate in self.candidates)

    @model_validator(mode="after")
    def _unambiguous(self) -> Self:
        labels = [candidate.label for candidate in self.candidates]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"two candidates have the label {label!r}")
        _refuse_own_rows(labels)
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds has a seed twice")
        return self

    @model_validator(mode="after")
    def _one_to_ship(self) -> Self:
        if self.export is None or self.chosen_by_validation or len(self.candidates) == 1:
            return self
        if not self.data.validation:
            raise ValueError(
                f"export: {len(self.candidates)} candidates, and nothing to choose one on, which "
                "the test split is not for: hold out some images, as data.validation = 0.2 "
                "(--validation 0.2)"
            )
        raise ValueError(
            f"export: {len(self.candidates)} candidates, and no score to choose one by: the task "
            "has none (task.metric); compare one candidate, or kdcore export one of the runs"
        )

    @property
    def chosen_by_validation(self) -> bool:
        """Whether there is a score on images held out to choose a student by."""
        scored = self.task.kind != "none" or self.task.metric is not None
        return bool(self.data.validation) and scored
