"""What an experiment file may say: every key, its type, its bounds and its default.

Reading and writing such files is in `configfile`; what the keys do is where they are used.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from kdcore.validation import describe_validation

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]

MODEL = "deepnn, lightnn, torchvision/NAME or package.module:callable"
LABEL = r"[A-Za-z0-9_][A-Za-z0-9_+@-]*"


class Section(BaseModel):
    """A table of an experiment file: unknown keys are errors, values do not change."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True
    )

    @model_validator(mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, values: Any) -> Any:
        for key, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(key)
            if isinstance(value, bool) and field and "bool" not in str(field.annotation):
                raise ValueError(f"{key}: {str(value).lower()} is no value for it")
        return values


class DataConfig(Section):
    """Where the images come from, how they are split, and which labels the student may see."""

    name: Literal["digits", "cifar10", "cifar100", "folder", "csv"] = Field(
        "digits", description="which kind of data"
    )
    root: Path | None = Field(
        None, description="the folder that holds the data; for csv the file of paths and labels"
    )
    labels: int | None = Field(
        None, ge=1, description="keep this many labels for the students, equally many a class"
    )
    limit: int | None = Field(
        None, ge=1, description="use only the first so many images, in training and in test"
    )
    validation: float = Field(
        0.0, ge=0, lt=1, description="share of the training images held out to choose weights on"
    )
    test_share: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share held out for testing where a folder or csv has no test part; 0.2 where "
        "not given",
    )
    split_seed: Seed = Field(0, description="seed of every split that kdcore makes")
    group_by: str | None = Field(
        None,
        description="regular expression on the relative path; files whose first group (or whole "
        "match) is equal stay on one side of a split",
    )
    skip_unreadable: bool = Field(
        False, description="leave out images that cannot be read, and list them, instead of failing"
    )

    @field_validator("root")
    @classmethod
    def _absolute(cls, root: Path | None) -> Path | None:
        return None if root is None else root.expanduser().absolute()

    @field_validator("group_by")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"not a regular expression: {error}") from None
        return pattern

    @model_validator(mode="after")
    def _settings_that_are_used(self) -> Self:
        if self.root is None and self.name != "digits":
            raise ValueError(f"data.name = {self.name!r} needs data.root (--root DIR)")
        if self.root is not None and self.name == "digits":
            raise ValueError("root would be ignored: digits come with scikit-learn; set data.name")
        for key in ("group_by", "skip_unreadable", "test_share"):
            if getattr(self, key) and self.name not in ("folder", "csv"):
                raise ValueError(f"{key} would be ignored: only folder and csv read image files")
        return self


class ModelConfig(Section):
    """A model by name, and where its weights begin."""

    model: str = Field(min_length=1, description=MODEL)
    weights: Path | None = Field(None, description="file of weights to begin with")
    image_size: int | None = Field(
        None, ge=1, description="side in pixels of the square images that the model is given"
    )
    mean: tuple[float, float, float] = Field(
        (0.485, 0.456, 0.406), description="subtracted from each channel, of values in 0 to 1"
    )
    std: tuple[Positive, Positive, Positive] = Field(
        (0.229, 0.224, 0.225), description="each channel is divided by it afterwards"
    )

    @field_validator("weights")
    @classmethod
    def _absolute(cls, weights: Path | None) -> Path | None:
        return None if weights is None else weights.expanduser().absolute()


class TrainConfig(Section):
    """The budget and the optimizer of one training."""

    epochs: int = Field(10, ge=1, description="passes over the training images")
    batch_size: int = Field(128, ge=1, description="images an optimizer step")
    accumulate: int = Field(
        1, ge=1, description="micro-batches that each batch is computed in, to save memory"
    )
    optimizer: Literal["adam", "adamw", "sgd"] = Field("adam", description="PyTorch's optimizer")
    lr: Positive = Field(1e-3, description="learning rate")
    weight_decay: NotNegative = Field(0.0, description="PyTorch's weight decay")
    momentum: float | None = Field(
        None, ge=0, lt=1, description="momentum of sgd; 0.9 where not given"
    )
    nesterov: bool | None = Field(None, description="whether sgd's momentum is Nesterov's")
    schedule: Literal["constant", "cosine", "step", "one-cycle"] = Field(
        "constant", description="how the learning rate moves, by optimizer step"
    )
    milestones: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        None, description="epochs after which the step schedule multiplies by `gamma`"
    )
    gamma: Positive | None = Field(
        None, description="factor of the step schedule; 0.1 where not given"
    )
    warmup_epochs: NotNegative = Field(
        0.0, description="epochs over which the learning rate first rises from 1 % linearly"
    )
    clip_norm: Positive | None = Field(None, description="largest norm of the whole gradient")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="of the cross-entropy")
    labelled_share: float = Field(
        0.25,
        gt=0,
        lt=1,
        description="share of each batch drawn from the labelled images, where others have none",
    )

    @property
    def micro_batch(self) -> int:
        """Images that are computed at a time, and that a teacher is given at a time."""
        return -(-self.batch_size // self.accumulate)

    @model_validator(mode="after")
    def _settings_that_are_used(self) -> Self:
        self._refuse("optimizer = 'sgd'", self.optimizer != "sgd", "momentum", "nesterov")
        self._refuse("schedule = 'step'", self.schedule != "step", "milestones", "gamma")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum above 0")
        if self.schedule == "step" and not self.milestones:
            raise ValueError("schedule = 'step' needs milestones, such as [5, 8]")
        if self.milestones and list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError("milestones must rise")
        if self.milestones and self.milestones[0] <= self.warmup_epochs:
            raise ValueError("milestones must come after warmup_epochs")
        if self.accumulate > self.batch_size:
            raise ValueError("accumulate must not be more than batch_size")
        if self.schedule == "one-cycle" and self.warmup_epochs:
            raise ValueError("schedule = 'one-cycle' has a warm-up of its own")
        if self.warmup_epochs >= self.epochs:
            raise ValueError("warmup_epochs must be less than epochs")
        return self

    def _refuse(self, owner: str, wrong: bool, *keys: str) -> None:
        given = [key for key in keys if getattr(self, key) is not None]
        if wrong and given:
            raise ValueError(f"{' and '.join(given)} would be ignored: only {owner} has it")


class TeacherConfig(ModelConfig):
    """The teacher: a model, and the training it gets where no weights are given.

    Keys of the training that are not given here are taken from ``[train]``.
    """

    model: str = Field("deepnn", min_length=1, description=MODEL)
    train: dict[str, Any] = Field(
        default_factory=dict, description="keys of [train] that differ for the teacher"
    )


class StudentConfig(ModelConfig):
    """The student: a model that begins alike in every run of a comparison."""

    model: str = Field("lightnn", min_length=1, description=MODEL)


class StrategyConfig(BaseModel):
    """One entry of a list of strategies; the keys beside these four are the method's settings."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    name: str = Field(min_length=1, description="name of an installed strategy")
    weight: NotNegative | None = Field(
        None, description="weight of its auxiliary loss; the method's own where not given"
    )
    label: str | None = Field(
        None, pattern=rf"^{LABEL}$", description="name of this entry in logs; its name if not given"
    )
    teacher: str | None = Field(None, description="the teacher it learns from, where several are")

    @model_validator(mode="before")
    @classmethod
    def _label_without_distribution(cls, values: Any) -> Any:
        name = values.get("name") if isinstance(values, dict) else None
        if isinstance(name, str) and ":" in name and values.get("label") is None:
            return {**values, "label": name.rpartition(":")[2]}
        return values

    @property
    def settings(self) -> dict[str, Any]:
        """The method's own settings, as they were given."""
        return dict(self.model_extra or {})


class CandidateConfig(Section):
    """One list of strategies in a comparison."""

    label: str = Field(pattern=rf"^{LABEL}$", description="the name of its row")
    task_weight: NotNegative | None = Field(
        None, description="weight of the task's loss; the experiment's where not given"
    )
    strategies: tuple[StrategyConfig, ...] = Field(
        min_length=1, description="what its student learns by"
    )


class Experiment(Section):
    """What a run and a comparison share."""

    task_weight: NotNegative | None = Field(
        None, description="weight of the task's loss; the strategies' own where not given"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps, ...")
    teacher_cache: Literal["auto", "memory", "off"] = Field(
        "auto",
        description="keep what the teacher says of each image instead of asking every epoch: "
        "where it fits, always, or never; the numbers are the same",
    )
    wrappers: tuple[str, ...] = Field((), description="hook wrappers to use, by name")
    data: DataConfig = DataConfig()
    teacher: TeacherConfig = TeacherConfig()
    student: StudentConfig = StudentConfig()
    train: TrainConfig = TrainConfig()

    @property
    def teacher_train(self) -> TrainConfig:
        """The training of the teacher: ``[train]`` with what ``[teacher.train]`` changes."""
        return TrainConfig.model_validate({**self.train.model_dump(), **self.teacher.train})

    @property
    def strategy_lists(self) -> tuple[tuple[StrategyConfig, ...], ...]:
        """Every list of strategies that a student of it learns by."""
        return ()

    @model_validator(mode="after")
    def _teacher_train_is_valid(self) -> Self:
        try:
            _ = self.teacher_train
        except ValidationError as error:
            raise ValueError(describe_validation(error, "teacher.train", TrainConfig)) from None
        return self


def _refuse_own_rows(labels: list[str]) -> None:
    for label in labels:
        if label in ("teacher", "student"):
            raise ValueError(f"nothing may be called {label!r}: that row is kdcore's own")


class RunConfig(Experiment):
    """One student, one list of strategies, one seed."""

    seed: Seed = Field(42, description="seed of weights, order and dropout")
    strategies: tuple[StrategyConfig, ...] = Field(
        (), description="what the student learns by; none for the student alone"
    )

    @property
    def strategy_lists(self) -> tuple[tuple[StrategyConfig, ...], ...]:
        """Its one list of strategies."""
        return (self.strategies,)

    @model_validator(mode="after")
    def _rows_of_their_own(self) -> Self:
        _refuse_own_rows([entry.label or entry.name for entry in self.strategies])
        return self


class ComparisonConfig(Experiment):
    """Candidates and seeds that share teacher, data, initial weights and budget."""

    seeds: tuple[Seed, ...] = Field((42,), min_length=1, description="one run a candidate and seed")
    candidates: tuple[CandidateConfig, ...] = Field(
        min_length=1, description="what is compared with the student alone"
    )

    @property
    def strategy_lists(self) -> tuple[tuple[StrategyConfig, ...], ...]:
        """The list of each candidate."""
        return tuple(candidate.strategies for candidate in self.candidates)

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
