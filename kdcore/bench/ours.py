"""The same work done by kdcore: what `kdcore compare` does with the recipe of the tutorial.

Data come as arrays and results stay in memory, which a command has no way to say; all else is what
the commands call, in the order in which `kdcore.run` and `kdcore.comparison` call it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.console import Console
from torch import nn

from kdcore import configfile
from kdcore.asking import Request
from kdcore.bench.work import CLASSES, DISTILLATIONS, SIDE, Method, Work
from kdcore.cache import SignalCache
from kdcore.contract import Setup
from kdcore.data.augment import Augment
from kdcore.data.images import ArrayImages, LabelledImages
from kdcore.data.pixels import PixelPool
from kdcore.data.preprocess import Preprocess
from kdcore.data.source import ImageSource
from kdcore.distiller import Distiller
from kdcore.execution import Execution, in_best_layout
from kdcore.experiment import CandidateConfig, ComparisonConfig, StrategyConfig
from kdcore.fingerprint import fingerprint_of
from kdcore.history import History, Observer
from kdcore.listening import LiveSignals, SignalSource
from kdcore.models.build import IMAGENET
from kdcore.progress import MetricsLog, TrainingDisplay
from kdcore.tasks import ACCURACY, Classification
from kdcore.trainer import train

RECIPE = "tutorial"


def read_recipe(work: Work) -> ComparisonConfig:
    """Return the tutorial's comparison with the work's budget.

    Raises:
        ConfigError: there is no such precision.
    """
    tree = configfile.read_recipe(RECIPE)
    tree["train"] |= {
        "epochs": work.epochs,
        "batch_size": work.batch_size,
        "precision": work.precision,
    }
    tree["cache"] = {"mode": "memory"}
    return configfile.as_comparison(tree, f"recipe {RECIPE}")


def candidates_of(config: ComparisonConfig) -> dict[Method, CandidateConfig]:
    """Say which candidate of the recipe learns by which of the tutorial's methods."""
    return dict(zip(DISTILLATIONS, config.candidates, strict=True))


@dataclass(frozen=True)
class Training:
    """A training that has yet to begin.

    Attributes:
        distiller: student, strategies and teacher.
        comparison: what it shares with others.
        signals: what the teacher says.
    """

    distiller: Distiller
    comparison: "Comparison"
    signals: SignalSource

    def run(self, observers: Sequence[Observer] = ()) -> History:
        """Train it."""
        shared = self.comparison
        return train(
            self.distiller,
            shared.source,
            shared.config.train,
            shared.work.seed,
            signals=self.signals,
            observers=observers,
        )

    def run_shown(self, folder: Path) -> History:
        """Train it as commands do, with a display that nobody sees and a log of its steps."""
        console, epochs = Console(file=StringIO()), self.comparison.config.train.epochs
        with (
            TrainingDisplay(console, "bench", epochs, ACCURACY) as display,
            MetricsLog(folder / "metrics.jsonl") as log,
        ):
            return self.run((display, log))


class Comparison:
    """What the runs of a comparison share, as `kdcore.context.RunContext` makes it.

    Args:
        work: images, teacher and budget.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self.config = read_recipe(work)
        self.source = new_source(work)
        self.cache = SignalCache(self.config.cache, lambda _: None)
        self.execution = Execution.of(work.precision, work.device, compiled=False)
        self._candidates = candidates_of(self.config)

    def train_teacher(self, folder: Path) -> nn.Module:
        """Train a teacher from its initial weights."""
        torch.manual_seed(self.work.seed)
        teacher = in_best_layout(type(self.work.teacher)())
        with Distiller(
            None,
            teacher,
            task=Classification(),
            device=self.work.device,
            execution=self.execution,
        ) as distiller:
            Training(distiller, self, LiveSignals({})).run_shown(folder)
        return teacher

    def label(self, method: Method) -> str:
        """Return what the recipe calls a method."""
        return "the student alone" if method is Method.ALONE else self._candidates[method].label

    @contextmanager
    def training(self, method: Method, teacher: nn.Module) -> Iterator[Training]:
        """Set up a student of one method; the teacher is asked where its answers are not kept."""
        with self.training_by(self._strategies(method), teacher) as training:
            yield training

    @contextmanager
    def training_by(
        self, strategies: Sequence[StrategyConfig], teacher: nn.Module
    ) -> Iterator[Training]:
        """Set up a student of some strategies, of none to have it alone; see `training`."""
        with self._distiller(strategies, teacher) as distiller:
            signals: SignalSource = LiveSignals({})
            if strategies:
                signals = self.cache.source(self._request(distiller, teacher))
            yield Training(distiller, self, signals)

    def _strategies(self, method: Method) -> Sequence[StrategyConfig]:
        return () if method is Method.ALONE else self._candidates[method].strategies

    def expect(self, methods: Sequence[Method], teacher: nn.Module) -> None:
        """Set up every student once without training it, so that the teacher runs once for all."""
        for method in methods:
            with self._distiller(self._strategies(method), teacher) as distiller:
                self.cache.expect(distiller.teachers)

    def _distiller(self, strategies: Sequence[StrategyConfig], teacher: nn.Module) -> Distiller:
        sample = self.source.batch(torch.arange(2))
        return Distiller(
            teacher if strategies else None,
            in_best_layout(self.work.new_student()),
            strategies,
            sample_input=sample.inputs,
            setup=Setup(class_count=CLASSES, targets=self.source.targets),
            task=Classification(),
            seed=self.work.seed,
            device=self.work.device,
            execution=self.execution,
        )

    def _request(self, distiller: Distiller, teacher: nn.Module) -> Request:
        facts = {
            "teachers": {"teacher": fingerprint_of(teacher, SIDE)},
            "precision": self.work.precision,
        }
        batch = self.config.train.micro_batch
        return Request(distiller.teachers, self.source, batch, self.work.device, facts)


def new_source(work: Work, augment: Augment | None = None) -> ImageSource:
    """Take an array of images as data sets are taken: decoded, kept where batches are made.

    Args:
        work: the images.
        augment: what is done to them; nothing if not given.
    """
    pixels = torch.from_numpy(work.images).permute(0, 3, 1, 2).contiguous()
    names = tuple(map(str, range(CLASSES)))
    preprocess = Preprocess(SIDE, *IMAGENET)
    pool = PixelPool(work.device)
    data = LabelledImages(ArrayImages(pixels), work.targets, names)
    source = ImageSource(data, preprocess, pool=pool, augment=augment)
    pool.keep()
    return source


def run_methods(
    comparison: Comparison, teacher: nn.Module, methods: Sequence[Method], folder: Path
) -> None:
    """Train a student by each method."""
    for method in methods:
        with comparison.training(method, teacher) as training:
            training.run_shown(folder)


def distil(work: Work) -> None:
    """Do the distillations from the given teacher, who is asked once."""
    with TemporaryDirectory() as folder:
        comparison = Comparison(work)
        teacher = in_best_layout(work.new_teacher())
        comparison.expect(DISTILLATIONS, teacher)
        run_methods(comparison, teacher, DISTILLATIONS, Path(folder))


def compare(work: Work) -> None:
    """Train a teacher, a student alone, and a student by each method."""
    with TemporaryDirectory() as folder:
        comparison = Comparison(work)
        # As a comparison does, which sets up all of its runs before it trains anything.
        comparison.expect(DISTILLATIONS, in_best_layout(work.new_teacher()))
        teacher = comparison.train_teacher(Path(folder))
        run_methods(comparison, teacher, tuple(Method), Path(folder))
