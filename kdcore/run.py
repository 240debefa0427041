"""One run: a teacher or a student from its seed to its files.

What several runs share is made once, in `RunContext`. How runs are compared is in `comparison`.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from kdcore.cache import BUDGET_BYTES, TeacherCache, build_cache, bytes_needed
from kdcore.catalog import WRAPPERS, Catalog, own_version
from kdcore.configfile import as_toml
from kdcore.data.prepared import PreparedData, prepare_data
from kdcore.data.source import Source
from kdcore.distiller import Distiller
from kdcore.errors import UserError
from kdcore.evaluation import evaluate
from kdcore.experiment import Experiment, RunConfig, StrategyConfig, TrainConfig
from kdcore.files import (
    load_weights,
    make_folder,
    read_json,
    save_weights,
    write_bytes,
    write_json,
)
from kdcore.models.build import build_model
from kdcore.progress import MetricsLog, TrainingDisplay
from kdcore.signals import Setup
from kdcore.tasks import Classification, Task
from kdcore.trainer import History, train

RESULT = "result.json"
STUDENT = "student.safetensors"
TEACHER = "teacher.safetensors"
BEST = "best.safetensors"
CONFIG = "config.toml"
METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class RunResult:
    """What one run came to.

    Attributes:
        name: ``"teacher"``, ``"student"`` for the student alone, or the candidate's label.
        seed: its seed.
        accuracy: of the last weights on the test samples, in per cent.
        loss: mean total loss of the last epoch; None of a teacher that came trained.
        seconds: from the first step to the last evaluation; 0 of a teacher that came trained.
        epochs: the records of all epochs, as dictionaries.
        best_epoch: of the highest validation accuracy, from 1; None without validation.
        best_accuracy: of the weights after it, on the test samples.
        folder: where its files are.
        kept: whether it was finished before and not repeated.
    """

    name: str
    seed: int
    accuracy: float
    loss: float | None
    seconds: float
    epochs: tuple[dict[str, Any], ...]
    best_epoch: int | None
    best_accuracy: float | None
    folder: str
    kept: bool = False


@dataclass(frozen=True)
class Teacher:
    """A teacher that is ready to teach.

    Attributes:
        model: the model with its weights.
        digest: hash of its weights.
        weights: the file that they are in.
        result: how it came about.
    """

    model: nn.Module
    digest: str
    weights: Path
    result: RunResult


class RunContext:
    """What all runs of an experiment share: data, device, folder and display.

    Args:
        experiment: the experiment.
        out: folder for all files.
        console: where progress is printed.
        catalog: where strategies are looked up.

    Raises:
        UserError: the data, the device or the folder cannot be used.
    """

    def __init__(
        self, experiment: Experiment, out: Path, console: Console, catalog: Catalog | None = None
    ) -> None:
        self.experiment = experiment
        self.console = console
        self.catalog = catalog or Catalog()
        self.device = find_device(experiment.device)
        self.out = make_folder(out)
        wrappers = Catalog(WRAPPERS)
        self.wrappers = {name: wrappers.load(name)[0] for name in experiment.wrappers}
        self.data: PreparedData = prepare_data(experiment)

    @property
    def classes(self) -> int:
        """How many classes the data has."""
        return len(self.data.classes)

    def task(self, config: TrainConfig) -> Task:
        """Return the task of a training."""
        return Classification(config.label_smoothing)

    def new_student(self, seed: int) -> nn.Module:
        """Build the student with the initial weights of a seed, the same for every run."""
        torch.manual_seed(seed)
        size = self.data.student_preprocess.size
        return build_model(self.experiment.student, self.classes, size, "student")

    def new_teacher(self, seed: int) -> nn.Module:
        """Build the teacher, with its weights where the experiment names a file."""
        torch.manual_seed(seed)
        size = self.data.teacher_preprocess.size
        return build_model(self.experiment.teacher, self.classes, size, "teacher")

    def distiller(
        self,
        seed: int,
        student: nn.Module,
        teacher: nn.Module | None,
        strategies: Sequence[StrategyConfig],
        task_weight: float | None,
    ) -> Distiller:
        """Set up one run of the student."""
        sample = self.data.student.batch(torch.arange(min(2, len(self.data.student))))
        return Distiller(
            teacher,
            student,
            strategies,
            task_weight=task_weight,
            sample_input=sample.inputs,
            teacher_sample_input=sample.teacher_inputs,
            setup=Setup(class_count=self.classes, targets=self.data.student.targets),
            task=self.task(self.experiment.train),
            seed=seed,
            device=self.device,
            catalog=self.catalog,
            wrappers=self.wrappers,
        )


def run_teacher(context: RunContext, seed: int) -> Teacher:
    """Load the experiment's teacher, take the one trained before, or train it."""
    experiment = context.experiment
    model = context.new_teacher(seed).to(context.device)
    config = experiment.teacher_train
    task = context.task(config)
    if experiment.teacher.weights is not None:
        accuracy = evaluate(model, context.data.teacher_test, task).accuracy
        context.console.print(
            f"[bold]teacher[/] from {experiment.teacher.weights}: accuracy {accuracy:.2f} %",
            highlight=False,
        )
        weights = experiment.teacher.weights.absolute()
        given = RunResult("teacher", seed, accuracy, None, 0.0, (), None, None, str(weights.parent))
        return Teacher(model, digest_of(model.state_dict()), weights, given)
    key = _key(context, "teacher", seed, config, digest_of(model.state_dict()), [])
    folder = _folder(context, "teacher", seed, key)
    result = _finished(context, folder, key)
    if result is None:
        with Distiller(None, model, task=task, device=context.device) as distiller:
            history, seconds = _train(context, distiller, config, seed, "teacher", folder)
        save_weights(folder / TEACHER, model.state_dict())
        result = _finish(folder, key, "teacher", seed, history, seconds, None)
    else:
        load_weights(model, folder / TEACHER, "teacher")
    return Teacher(model, digest_of(model.state_dict()), (folder / TEACHER).absolute(), result)


def run_student(
    context: RunContext,
    seed: int,
    name: str,
    strategies: Sequence[StrategyConfig],
    task_weight: float | None,
    teacher: Teacher | None,
) -> RunResult:
    """Train one student from the initial weights of its seed, or take what was trained before.

    Args:
        context: what it shares with others.
        seed: of weights, order and dropout.
        name: of its row; also of its folder.
        strategies: what it learns by, beside its task.
        task_weight: weight of its task's loss.
        teacher: whom it learns from.
    """
    config = context.experiment.train
    student = context.new_student(seed)
    with context.distiller(
        seed, student, teacher.model if teacher else None, strategies, task_weight
    ) as distiller:
        resolved = resolve(context, distiller, seed, strategies, teacher)
        key = _key(
            context,
            name,
            seed,
            config,
            digest_of(student.state_dict()),
            [
                teacher.digest if teacher and strategies else None,
                [str(member.origin) for member in distiller.members],
                resolved.model_dump(mode="json", include={"task_weight", "strategies"}),
            ],
        )
        folder = _folder(context, name, seed, key)
        kept = _finished(context, folder, key)
        if kept is not None:
            return kept
        write_bytes(folder / CONFIG, as_toml(resolved).encode())
        history, seconds = _train(context, distiller, config, seed, name, folder)
    best_accuracy = None
    save_weights(folder / STUDENT, student.state_dict())
    if history.best_weights is not None:
        save_weights(folder / BEST, history.best_weights)
        student.load_state_dict(history.best_weights)
        best_accuracy = evaluate(student, context.data.test, distiller.task).accuracy
    return _finish(folder, key, name, seed, history, seconds, best_accuracy)


def _train(
    context: RunContext,
    distiller: Distiller,
    config: TrainConfig,
    seed: int,
    name: str,
    folder: Path,
) -> tuple[History, float]:
    teaching = name == "teacher"
    started = time.perf_counter()
    source = context.data.teacher if teaching else context.data.student
    distiller.teacher_batch = -(-config.batch_size // config.accumulate)
    cache = _cache(context, distiller, source) if distiller.members else None
    with (
        TrainingDisplay(context.console, f"{name}, seed {seed}", config.epochs) as display,
        MetricsLog(folder / METRICS) as log,
    ):
        history = train(
            distiller,
            source,
            config,
            seed,
            test=context.data.teacher_test if teaching else context.data.test,
            validation=None if teaching else context.data.validation,
            cache=cache,
            observers=(display, log),
        )
    return history, time.perf_counter() - started


def _cache(context: RunContext, distiller: Distiller, source: Source) -> TeacherCache | None:
    """Run the teacher once over all samples where that is wanted and fits, and say so."""
    choice = context.experiment.teacher_cache
    needed = bytes_needed(distiller, source)
    size = f"{needed / 2**20:,.1f} MiB"
    if not source.same_every_epoch:
        if choice == "memory":
            raise UserError("teacher_cache = 'memory' needs samples that are the same every epoch")
        return None
    if choice == "off" or (choice == "auto" and needed > BUDGET_BYTES):
        reason = "as asked" if choice == "off" else f"{size} would not fit the budget"
        context.console.print(f"  teacher runs every epoch: {reason}")
        return None
    context.console.print(f"  teacher runs once, its signals are kept in memory: {size}")
    return build_cache(distiller, source)


def resolve(
    context: RunContext,
    distiller: Distiller,
    seed: int,
    strategies: Sequence[StrategyConfig],
    teacher: Teacher | None,
) -> RunConfig:
    """Return the experiment of one run with everything that was decided for it written out."""
    experiment = context.experiment
    by_label = {member.label: member for member in distiller.members}
    entries = []
    for entry in strategies:
        member = by_label[entry.label or entry.name]
        settings = member.strategy.settings.model_dump(mode="json")
        taps = {
            key: _resolved(distiller, "student" if key.startswith("student") else member.teacher, v)
            for key, v in settings.items()
        }
        entries.append(
            StrategyConfig.model_validate(
                {"name": entry.name, "weight": member.weight, "label": member.label, **taps}
            )
        )
    sizes = context.data.student_preprocess.size, context.data.teacher_preprocess.size
    return RunConfig(
        **{
            **{key: getattr(experiment, key) for key in Experiment.model_fields},
            "task_weight": distiller.task_weight,
            "student": experiment.student.model_copy(update={"image_size": sizes[0]}),
            "teacher": experiment.teacher.model_copy(
                update={
                    "image_size": sizes[1],
                    "weights": teacher.weights if teacher else experiment.teacher.weights,
                }
            ),
        },
        seed=seed,
        strategies=tuple(entries),
    )


def _resolved(distiller: Distiller, model: str, value: Any) -> Any:
    """Replace ``auto:KIND`` by what was found."""
    if isinstance(value, str) and value.startswith("auto:"):
        found = distiller.automatic_taps[model][value.removeprefix("auto:")]
        return found[0] if len(found) == 1 else list(found)
    return value


def _key(
    context: RunContext, name: str, seed: int, config: TrainConfig, start: str, more: list[Any]
) -> str:
    """Return the hash of everything that a run's result depends on."""
    facts = [
        name,
        seed,
        config.model_dump(mode="json"),
        start,
        context.data.teacher_fingerprint if name == "teacher" else context.data.fingerprint,
        str(context.device),
        torch.get_num_threads(),
        torch.__version__,
        own_version(),
        list(context.experiment.wrappers),
        *more,
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _folder(context: RunContext, name: str, seed: int, key: str) -> Path:
    return make_folder(context.out / f"{name}-seed{seed}-{key[:8]}")


def _finished(context: RunContext, folder: Path, key: str) -> RunResult | None:
    saved = read_json(folder / RESULT)
    if not isinstance(saved, dict) or saved.pop("key", None) != key:
        return None
    saved["epochs"] = tuple(saved["epochs"])
    result = RunResult(**{**saved, "kept": True})
    context.console.print(
        f"[bold]{result.name}, seed {result.seed}[/]: finished before, kept ({folder})",
        highlight=False,
        soft_wrap=True,
    )
    return result


def _finish(
    folder: Path,
    key: str,
    name: str,
    seed: int,
    history: History,
    seconds: float,
    best_accuracy: float | None,
) -> RunResult:
    last = history.epochs[-1]
    assert last.accuracy is not None
    result = RunResult(
        name,
        seed,
        last.accuracy,
        last.loss,
        seconds,
        tuple(asdict(record) for record in history.epochs),
        history.best_epoch,
        best_accuracy,
        str(folder),
    )
    # Written last: a run without it is not finished.
    write_json(folder / RESULT, {"key": key, **asdict(result)})
    return result


def digest_of(weights: dict[str, Tensor]) -> str:
    """Return the hash of a state dict: names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in weights.items():
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(
            tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
            if tensor.ndim
            else str(tensor.item()).encode()
        )
    return digest.hexdigest()


def find_device(name: str) -> torch.device:
    """Return the device of a name; ``auto`` is the accelerator where there is one.

    Raises:
        UserError: there is no such device here.
    """
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        count = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
        raise UserError(
            f"there is no device {name!r} here; this machine has cpu"
            + (f" and {count} of {torch.accelerator.current_accelerator()}" if count else " alone")
            + " (--device)"
        ) from None
    return device
