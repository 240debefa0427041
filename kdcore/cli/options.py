"""Options that several commands have, and what they change in an experiment."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

if TYPE_CHECKING:
    from kdcore.experiment import Experiment

OUT = Path("kdcore-runs")

Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY.PATH=VALUE",
        help="Set any key of the experiment; none removes it, so that its default holds.",
    ),
]
DataName = Annotated[
    str | None,
    typer.Option(
        "--data", help="digits, cifar10, cifar100, folder, csv or package.module:callable."
    ),
]
Root = Annotated[Path | None, typer.Option(help="Folder of the data; for csv the file.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, mps, ...")]
Epochs = Annotated[int | None, typer.Option(help="Passes over the training images.")]
BatchSize = Annotated[int | None, typer.Option(help="Images an optimizer step.")]
Lr = Annotated[float | None, typer.Option(help="Learning rate.")]
Labels = Annotated[int | None, typer.Option(help="Labels that the students may see.")]
Limit = Annotated[int | None, typer.Option(help="Use the first N images of each part.")]
Validation = Annotated[
    float | None, typer.Option(help="Share of the training images to choose weights on.")
]
GroupBy = Annotated[
    str | None, typer.Option(help="Regular expression on paths; equal groups stay together.")
]
SkipUnreadable = Annotated[
    bool, typer.Option("--skip-unreadable", help="Leave out images that cannot be read.")
]
TeacherFile = Annotated[
    Path | None, typer.Option("--teacher", help="Weights of a trained teacher.")
]
MODELS = (
    "deepnn, lightnn, quickcnn, a CIFAR network (resnet20, resnet8x4, wrn_16_2, ...), "
    "torchvision/NAME, timm/NAME, hf/NAME (or hf/FOLDER), or package.module:callable"
)
"""As `kdcore.sections` has it, whose import would take too long for help."""
TeacherModel = Annotated[str | None, typer.Option(help=f"{MODELS}.")]
TeacherPretrained = Annotated[
    bool, typer.Option("--teacher-pretrained", help="Take the weights that come with the model.")
]
TeacherFit = Annotated[
    str | None,
    typer.Option(
        metavar="head|full", help="Train a head for the data first: it alone, or all layers."
    ),
]
StudentModel = Annotated[str | None, typer.Option(help=f"{MODELS}.")]
StudentPretrained = Annotated[
    bool, typer.Option("--student-pretrained", help="The same for the student, in every run.")
]
Select = Annotated[
    str | None,
    typer.Option(
        metavar="accuracy|macro-f1", help="Score that chooses weights on the validation split."
    ),
]
Export = Annotated[
    str | None,
    typer.Option(help="Export the student to ship, and verify it: onnx, torch, int8, with commas."),
]
ImageSize = Annotated[int | None, typer.Option(help="Side in pixels for both models.")]
TeacherCache = Annotated[
    str | None,
    typer.Option(help="Keep what the teacher says: auto, memory, disk or off."),
]
TeacherCacheDtype = Annotated[
    str | None, typer.Option(help="Number format of what is kept: float32, float16 or bfloat16.")
]
AugmentViews = Annotated[
    int | None,
    typer.Option(help="Views of each augmented image that epochs go through in turn."),
]
Precision = Annotated[str | None, typer.Option(help="32, bf16-mixed or fp16-mixed.")]
Compile = Annotated[bool, typer.Option("--compile", help="Compile student and teacher.")]
Workers = Annotated[int | None, typer.Option(help="Processes that read images ahead.")]
NoStrategy = Annotated[
    list[str] | None,
    typer.Option(
        "--no-strategy", metavar="NAME", help="Never import this strategy; may be given repeatedly."
    ),
]
Tensorboard = Annotated[
    bool, typer.Option("--tensorboard", help="Also write losses and scores for TensorBoard.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result alone.")]
Json = Annotated[
    Path | None, typer.Option("--json", help="Also write the result here, for programs.")
]


def folder_name(name: str, config: "Experiment") -> str:
    """Return the name of an experiment's folder: its own, and that of the data it names."""
    data = config.data
    return name if data.root is None else f"{name}-{data.root.stem or data.name}"


def data_name(config: "Experiment") -> str:
    """Return what an experiment's data are called: their folder or table, or else their name."""
    data = config.data
    if data.root is not None and data.name in ("folder", "csv"):
        root = data.root.resolve()
        return (root.stem if data.name == "csv" else root.name) or data.name
    return data.name.rpartition(":")[2]


def assign(tree: dict[str, Any], values: dict[str, Any]) -> None:
    """Set the keys whose options were given, in place.

    Args:
        tree: the experiment.
        values: by dotted key; None for an option that was not given.
    """
    from kdcore.configfile import set_key

    for key, value in values.items():
        if value is not None:
            set_key(tree, key.split("."), str(value) if isinstance(value, Path) else value)


def engine(
    device: str | None,
    precision: str | None,
    compiled: bool,
    augment_views: int | None,
    teacher_cache: str | None,
    teacher_cache_dtype: str | None,
    workers: int | None,
) -> dict[str, Any]:
    """Return the keys of the options that say how, not what, is computed."""
    return {
        "device": device,
        "train.precision": precision,
        "train.compile": compiled or None,
        "augment.views": augment_views,
        "cache.mode": teacher_cache,
        "cache.dtype": teacher_cache_dtype,
        "data.workers": workers,
    }


def export_keys(text: str | None) -> dict[str, Any]:
    """Return the keys of ``--export onnx,int8``.

    Raises:
        ConfigError: a format is unknown.
    """
    from kdcore.errors import ConfigError, unknown
    from kdcore.sections import ExportFormat

    known = (*get_args(ExportFormat), "int8")
    formats = [] if text is None else [name.strip() for name in text.split(",")]
    for name in formats:
        if name not in known:
            raise ConfigError(f"--export {text}: {unknown('format', name, known)}")
    return {
        "export.formats": [name for name in formats if name != "int8"] or None,
        "export.int8": True if "int8" in formats else None,
    }


def seed_list(text: str) -> list[int]:
    """Return the seeds of ``--seeds 42,43,44``.

    Raises:
        ConfigError: one is no whole number.
    """
    from kdcore.errors import ConfigError

    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise ConfigError(f"--seeds {text}: expected whole numbers with commas") from None


def check_json(path: Path | None) -> None:
    """Refuse a file of results that could not be written when the work is done."""
    check_file("--json", path)


def check_file(option: str, path: Path | None) -> None:
    """Refuse a file that could not be written when the work is done."""
    from kdcore.errors import UserError

    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise UserError(
            f"{option} {path}: cannot be written: it is a folder, or its folder is missing"
        )


def refuse_where_several_teach(tree: dict[str, Any], values: dict[str, Any]) -> None:
    """Refuse options that are about the one teacher in an experiment that names several.

    Args:
        tree: the experiment.
        values: by option and the teacher's key, such as ``"--teacher": ("weights", FILE)``.
    """
    from kdcore.errors import ConfigError

    named = tree.get("teachers")
    for option, (key, value) in values.items():
        if value is not None and isinstance(named, dict):
            raise ConfigError(
                f"{option} {value}: the experiment names its teachers ({', '.join(named)}); say "
                f"whose: --set teachers.{next(iter(named), 'NAME')}.{key}={value}"
            )


def announce_imports(*names: str) -> None:
    """Print what a name of an experiment would import, before it is imported."""
    from kdcore.imports import where_from

    for name in dict.fromkeys(names):
        if found := where_from(name):
            typer.echo(f"importing {found}", err=True)
