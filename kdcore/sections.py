"""The sections of an experiment file: every key, its type, its bounds and its default.

How sections make an experiment is in `experiment`; what the keys do is where they are used.
"""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from kdcore.errors import unknown
from kdcore.validation import Checked

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]

LABEL = r"[A-Za-z0-9_][A-Za-z0-9_+@-]*"

MODEL = (
    "deepnn, lightnn, quickcnn, a CIFAR network (resnet20, resnet8x4, wrn_16_2, ...), "
    "torchvision/NAME, timm/NAME, hf/NAME (or hf/FOLDER), or package.module:callable"
)


TORCHVISION, TIMM, HF = "torchvision/", "timm/", "hf/"
OFFERED = (TORCHVISION, TIMM, HF)
"""How the names of models begin that a library offers."""

RANDOM = "random"
"""Where a model's weights began that were drawn anew."""

Interpolation = Literal["bilinear", "bicubic"]


class Section(Checked):
    """A table of an experiment file."""

    def _refuse(self, owner: str, wrong: bool, *keys: str) -> None:
        given = [key for key in keys if getattr(self, key) is not None]
        if wrong and given:
            raise ValueError(f"{' and '.join(given)} would be ignored: only {owner} has it")


CALLABLE = r"[A-Za-z_][\w.]*:[A-Za-z_]\w*"
"""``package.module:callable``."""

DATA_NAMES = ("digits", "cifar10", "cifar100", "folder", "csv")

Kind = Literal["classification", "multi-label", "regression", "segmentation", "sequences", "none"]


class TaskConfig(Section):
    """What the student is for."""

    kind: Kind = Field("classification", description="its predictions, loss and scores")
    loss: Literal["squared", "absolute", "huber"] | None = Field(
        None, description="of each value of a regression; squared where not given"
    )
    select: Literal["accuracy", "macro-f1"] | None = Field(
        None,
        description="of a classification: the score that chooses weights on the validation split "
        "and heads reports; accuracy where not given; of equal scores the earliest epoch is kept",
    )
    metric: str | None = Field(
        None,
        pattern=rf"^{CALLABLE}$",
        description="of kind none: package.module:callable of outputs and targets, which returns "
        "one value a sample; no score where not given",
    )
    metric_name: str | None = Field(
        None, min_length=1, description="what that score is called; score where not given"
    )
    higher_is_better: bool | None = Field(
        None, description="whether more of it is better; true where not given"
    )

    @model_validator(mode="after")
    def _settings_that_are_used(self) -> Self:
        self._refuse("kind = 'regression'", self.kind != "regression", "loss")
        self._refuse("kind = 'classification'", self.kind != "classification", "select")
        named = ("metric", "metric_name", "higher_is_better")
        self._refuse("kind = 'none'", self.kind != "none", *named)
        self._refuse("metric", self.metric is None, *named[1:])
        return self

    @property
    def of_classes(self) -> bool:
        """Whether its loss is a cross-entropy over classes."""
        return self.kind in ("classification", "segmentation", "sequences")


class DataConfig(Section):
    """Where samples come from, how they are split, and which labels the student may see."""

    name: str = Field(
        "digits",
        description="digits, cifar10, cifar100, folder or csv, of images; or "
        "package.module:callable, which returns a training and a test data set",
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
    keep: Literal["auto", "always", "never"] = Field(
        "auto", description="keep decoded images in memory: where they fit, or as said"
    )
    workers: int | None = Field(
        None,
        ge=0,
        le=256,
        description="processes that make batches ahead; decided by whether images are kept where "
        "not given",
    )

    @field_validator("root")
    @classmethod
    def _absolute(cls, root: Path | None) -> Path | None:
        return None if root is None else root.expanduser().absolute()

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in DATA_NAMES and not re.fullmatch(CALLABLE, name):
            raise ValueError(unknown("data set", name, DATA_NAMES) + "; or package.module:callable")
        return name

    @property
    def named(self) -> bool:
        """Whether it is a callable of the user's."""
        return ":" in self.name

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
        if self.named:
            if self.root is not None or self.keep != "auto":
                key = "keep" if self.root is None else "root"
                raise ValueError(f"{key} would be ignored: {self.name} brings its own samples")
        elif self.root is None and self.name != "digits":
            raise ValueError(f"data.name = {self.name!r} needs data.root (--root DIR)")
        if self.root is not None and self.name == "digits":
            raise ValueError(
                "root would be ignored: digits come with scikit-learn; say what the folder holds: "
                "--data folder or cifar10 (data.name)"
            )
        for key in ("group_by", "skip_unreadable", "test_share"):
            if getattr(self, key) and self.name not in ("folder", "csv"):
                raise ValueError(f"{key} would be ignored: only folder and csv read image files")
        return self


class ModelConfig(Section):
    """A model by name, and where its weights begin."""

    model: str = Field(min_length=1, description=MODEL)
    weights: Path | None = Field(None, description="file of weights to begin with")
    pretrained: bool = Field(
        False,
        description="begin with the weights that come with a model of torchvision, timm or "
        "Hugging Face; a head of other classes begins anew",
    )
    output: str | None = Field(
        None,
        min_length=1,
        description="part of the model's output that is its logits, such as '1' or 'preds.cls'; "
        "the output itself, its .logits or its first part where not given",
    )
    image_size: int | None = Field(
        None,
        ge=1,
        description="side in pixels of the square images that the model is given; a pretrained "
        "model's own where not given, otherwise the images' where no larger than is usual",
    )
    resize: int | None = Field(
        None,
        ge=1,
        description="pixels that the shorter side is scaled to before the middle is cut out; a "
        "pretrained model's own where not given, otherwise image_size",
    )
    interpolation: Interpolation | None = Field(
        None, description="of that scaling; bilinear where neither this nor the model says"
    )
    squash: bool | None = Field(
        None, description="scale both sides to it, and lose the proportions; false if not given"
    )
    mean: tuple[float, float, float] | None = Field(
        None,
        description="subtracted from each channel, of values in 0 to 1; the model's own where "
        "known, otherwise ImageNet's (0.485, 0.456, 0.406)",
    )
    std: tuple[Positive, Positive, Positive] | None = Field(
        None,
        description="each channel is divided by it afterwards; the model's own where known, "
        "otherwise ImageNet's (0.229, 0.224, 0.225)",
    )

    @field_validator("weights")
    @classmethod
    def _absolute(cls, weights: Path | None) -> Path | None:
        return None if weights is None else weights.expanduser().absolute()

    @field_validator("model")
    @classmethod
    def _placed(cls, model: str) -> str:
        # A local folder is found from everywhere, as files of weights are.
        folder = Path(model.removeprefix(HF)).expanduser()
        return f"{HF}{folder.absolute()}" if model.startswith(HF) and folder.is_dir() else model

    @model_validator(mode="after")
    def _weights_that_are_used(self) -> Self:
        if self.pretrained and self.weights is not None:
            raise ValueError("pretrained would be ignored: weights names a file to begin with")
        if self.pretrained and not self.model.startswith(OFFERED):
            raise ValueError(
                f"pretrained: {self.model!r} comes without weights; only torchvision/NAME, "
                "timm/NAME and hf/NAME have some, others are given with weights = FILE"
            )
        return self


class TrainConfig(Section):
    """The budget and the optimizer of one training."""

    epochs: int = Field(10, ge=1, description="passes over the training images")
    batch_size: int = Field(128, ge=1, description="images an optimizer step")
    accumulate: int = Field(
        1, ge=1, description="micro-batches that each batch is computed in, to save memory"
    )
    optimizer: Literal["adam", "adamw", "muon", "sgd"] = Field(
        "adam",
        description="PyTorch's optimizer, or muon: Muon for the weights of linear layers and "
        "convolutions, with AdamW for the rest and in AdamW's scale",
    )
    lr: Positive = Field(1e-3, description="learning rate")
    weight_decay: NotNegative = Field(0.0, description="PyTorch's weight decay")
    momentum: float | None = Field(
        None, ge=0, lt=1, description="momentum of sgd or muon; 0.9 or 0.95 where not given"
    )
    nesterov: bool | None = Field(
        None, description="whether momentum is Nesterov's; of muon it is where not given"
    )
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
    weight_average: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay a step of a moving average of the student's weights, which is what is "
        "measured and saved; 0 for none",
    )
    precision: Literal["32", "bf16-mixed", "fp16-mixed"] = Field(
        "32",
        description="number format of both models' layers; adapters and losses stay in 32 bits",
    )
    compile: bool = Field(False, description="compile student and teacher with torch.compile")
    shard: bool = Field(
        False,
        description="spread the weights that are trained over the processes (FSDP2), for a model "
        "that is too large for one",
    )
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
        without = self.optimizer not in ("sgd", "muon")
        self._refuse("optimizer = 'sgd' or 'muon'", without, "momentum", "nesterov")
        self._refuse("schedule = 'step'", self.schedule != "step", "milestones", "gamma")
        if self.shard and (self.compile or self.precision == "fp16-mixed"):
            raise ValueError("shard goes with precision '32' and 'bf16-mixed', without compile")
        if self.shard and self.optimizer == "muon":
            raise ValueError("shard does not go with optimizer = 'muon', which needs whole weights")
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


class AugmentConfig(Section):
    """What is done to each training image before the models see it, in the order of the keys."""

    resized_crop: float | None = Field(
        None, gt=0, le=1, description="smallest share of the area of a crop that is resized"
    )
    crop: int = Field(0, ge=0, description="black pixels around the image that it is cropped from")
    flip: bool = Field(False, description="mirror every other image")
    randaugment: int = Field(0, ge=0, le=16, description="operations of RandAugment an image")
    magnitude: int | None = Field(
        None, ge=0, le=30, description="how strong these are; 9 where not given"
    )
    mixup: NotNegative = Field(0.0, description="alpha of mixup; 0 for none")
    cutmix: NotNegative = Field(0.0, description="alpha of CutMix; 0 for none")
    image_size: int | None = Field(
        None,
        ge=1,
        description="side in pixels of the images that views are made of, before each model's "
        "size; the largest that a model wants where not given",
    )
    views: int | None = Field(
        None,
        ge=1,
        description="how many views of each image there are, which epochs go through in turn and "
        "which can be kept with what the teacher says of them; each epoch has its own where not "
        "given",
    )
    seed: Seed = Field(0, description="seed of all views, the same for all runs")

    @model_validator(mode="after")
    def _settings_that_are_used(self) -> Self:
        if self.mixup and self.cutmix:
            raise ValueError("mixup and cutmix exclude each other: set one of them to 0")
        if self.magnitude is not None and not self.randaugment:
            raise ValueError("magnitude would be ignored: only randaugment has it")
        for key in ("views", "image_size"):
            if getattr(self, key) is not None and not self.active:
                raise ValueError(
                    f"{key} would be ignored: there is no augmentation, such as flip = true"
                )
        return self

    @property
    def active(self) -> bool:
        """Whether anything is done."""
        return bool(self.resized_crop or self.crop or self.flip or self.randaugment or self.mixes)

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with others."""
        return bool(self.mixup or self.cutmix)


GIB = 2**30


class CacheConfig(Section):
    """Where what the teacher says of each image is kept, instead of asking it every epoch."""

    mode: Literal["auto", "memory", "disk", "off"] = Field(
        "auto",
        description="in memory where it fits, else on disk where it fits, else not at all; or as "
        "said. The numbers are the same",
    )
    dtype: Literal["float32", "float16", "bfloat16"] = Field(
        "float32", description="number format that it is kept in; the shorter ones change numbers"
    )
    memory: int = Field(2 * GIB, ge=0, description="bytes that auto may take in memory")
    disk: int = Field(20 * GIB, ge=0, description="bytes that all caches on disk may take")
    folder: Path | None = Field(
        None,
        description="folder of caches on disk; kdcore's own in the user's cache folder if not "
        "given",
    )

    @field_validator("folder")
    @classmethod
    def _absolute(cls, folder: Path | None) -> Path | None:
        return None if folder is None else folder.expanduser().absolute()


class ProcessesConfig(Section):
    """How processes work together that `torchrun` starts; one alone is not concerned."""

    timeout: Positive = Field(
        10.0, description="minutes after which a process that waits for another gives up"
    )


ExportFormat = Literal["onnx", "torch"]
"""What a student can be exported in beside safetensors; the formats are in `shipping.formats`."""


class ExportConfig(Section):
    """What is made of the student to ship, once its training has ended."""

    formats: tuple[ExportFormat, ...] = Field(
        ("onnx",), description="files beside safetensors: ONNX, and torch.export's"
    )
    int8: bool = Field(
        False, description="also quantize it after training, as ONNX, calibrated on training images"
    )

    @model_validator(mode="after")
    def _formats_once(self) -> Self:
        if len(set(self.formats)) != len(self.formats):
            raise ValueError("formats has a format twice")
        if self.int8 and "onnx" not in self.formats:
            raise ValueError("int8 is made of the ONNX file: add 'onnx' to formats")
        return self

    @property
    def options(self) -> tuple[str, ...]:
        """Whatever is asked for, as formats call themselves."""
        return (*self.formats, *(("int8",) if self.int8 else ()))


class LogConfig(Section):
    """What is written of a training beside its own log, ``metrics.jsonl``."""

    tensorboard: bool = Field(
        False, description="also write losses and scores for TensorBoard, in each run's folder"
    )


class CheckpointConfig(Section):
    """When a training is saved, so that it continues there after whatever stops it."""

    steps: int | None = Field(None, ge=1, description="save every so many optimizer steps")
    minutes: NotNegative = Field(
        10.0, description="save when so many minutes have passed since; 0 for none"
    )
    epochs: int = Field(1, ge=0, description="save at the end of every so many epochs; 0 for none")
    keep: int = Field(2, ge=1, description="so many of the newest are kept")
