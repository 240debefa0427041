"""Stopped after any step and continued by new objects: the same bits as in one go."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from kdcore import Distiller, Setup
from kdcore.asking import Request
from kdcore.cache import SignalCache
from kdcore.data.augment import Augment
from kdcore.data.images import ArrayImages, LabelledImages
from kdcore.data.preprocess import Preprocess
from kdcore.data.source import DatasetSource, ImageSource
from kdcore.errors import Interrupted, ResumeError
from kdcore.execution import Execution, in_best_layout
from kdcore.history import History
from kdcore.interruption import Interruption
from kdcore.positions import Sequences
from kdcore.saving import Saver
from kdcore.sections import AugmentConfig, CacheConfig, CheckpointConfig, TrainConfig
from kdcore.testing import small_student, small_teacher
from kdcore.trainer import train
from kdcore_contrastive import Contrastive
from tests import shipped

CPU = torch.device("cpu")
SAMPLES, STEPS = 22, 6
EVERYTHING: list[Any] = [*shipped.SHIPPED]
SHIPPED: list[Any] = ["logits", "fitnets"]
TARGETS = torch.arange(SAMPLES) % 5


class StopAfter:
    """Behaves as a signal that comes while a step is taken."""

    def __init__(self, step: int | None, interruption: Interruption) -> None:
        self.step = step
        self.interruption = interruption
        self.totals: list[float] = []

    def on_step(self, record: Any) -> None:
        self.totals.append(record.losses["total"])
        if record.step + 1 == self.step:
            self.interruption.asked = signal.SIGTERM

    def on_epoch(self, record: Any) -> None: ...


class Outcome:
    """What a training gave that must not depend on whether it was interrupted."""

    def __init__(self, history: History, distiller: Distiller) -> None:
        self.epochs = [
            (each.loss, each.losses, each.scores, each.validation, each.lr, each.samples)
            for each in history.epochs
        ]
        self.best = (history.best_epoch, history.best_weights)
        self.weights = {
            name: tensor.clone()
            for name, tensor in distiller.state_dict().items()
            if isinstance(tensor, torch.Tensor)
        }
        self.memory = distiller.get_extra_state()

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Outcome)
        mine, theirs = (vars(each) for each in (self, other))
        return all(_same(mine[key], theirs[key]) for key in mine)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _source(augment: AugmentConfig, targets: torch.Tensor) -> ImageSource:
    torch.manual_seed(0)
    images = ArrayImages(torch.randint(256, (SAMPLES, 3, 16, 16), dtype=torch.uint8))
    data = LabelledImages(images, targets, tuple("abcde"))
    return ImageSource(data, Preprocess(16, (0.5,) * 3, (0.25,) * 3), augment=Augment(augment))


def _train(
    folder: Path | None,
    stop: int | None = None,
    *,
    entries: list[Any] = SHIPPED,
    augment: dict[str, Any] | None = None,
    targets: torch.Tensor = TARGETS,
    workers: int = 0,
    mode: str = "off",
    execution: Execution = Execution(),  # noqa: B008
    saves: dict[str, Any] | None = None,
    **training: Any,
) -> Outcome:
    source = _source(AugmentConfig.model_validate(augment or {}), targets)
    validation = _source(AugmentConfig(), TARGETS)
    torch.manual_seed(1)
    student = in_best_layout(nn.Sequential(small_student(), nn.Dropout(0.2)))
    teacher = in_best_layout(small_teacher())
    config = TrainConfig.model_validate({"epochs": 2, "batch_size": 8, **training})
    interruption = Interruption()
    listener = StopAfter(stop, interruption)
    with Distiller(
        teacher,
        student,
        [entry() if isinstance(entry, type) else entry for entry in entries],
        sample_input=source.batch(torch.arange(2)).inputs,
        setup=Setup(targets=source.targets),
        execution=execution,
    ) as distiller:
        kept = CacheConfig.model_validate({"mode": mode})
        request = Request(distiller.teachers, source, config.micro_batch, CPU, {"teacher": "one"})
        signals = SignalCache(kept, lambda _: None).source(request)
        saver = None
        if folder is not None:
            when = CheckpointConfig.model_validate(saves or {"epochs": 0})
            saver = Saver(folder, when, {"seed": 3}, interruption=interruption)
        # What was drawn before must not matter.
        torch.rand(7)
        history = train(
            distiller,
            source,
            config,
            3,
            signals=signals,
            workers=workers,
            test=validation,
            validation=validation,
            observers=[listener],
            saver=saver,
        )
        return Outcome(history, distiller)


def _interrupted(folder: Path, stops: list[int], **given: Any) -> Outcome:
    """Train with an interruption after each of some steps, every time with new objects."""
    for stop in stops:
        with pytest.raises(Interrupted, match=rf"SIGTERM; saved after optimizer step {stop} "):
            _train(folder, stop, **given)
    return _train(folder, **given)


@pytest.fixture(scope="module")
def everything() -> Outcome:
    return _train(None, entries=EVERYTHING)


@pytest.mark.parametrize("stop", range(1, STEPS + 1))
def test_every_method_continues_from_any_step(
    tmp_path: Path, everything: Outcome, stop: int
) -> None:
    assert _interrupted(tmp_path, [stop], entries=EVERYTHING) == everything


def test_an_interruption_after_every_step(tmp_path: Path, everything: Outcome) -> None:
    assert _interrupted(tmp_path, [1, 2, 3, 4, 5, 6], entries=EVERYTHING) == everything


def test_another_start_is_noticed(everything: Outcome) -> None:  # the control
    assert _train(None, entries=EVERYTHING, lr=1.1e-3) != everything


def test_a_training_that_is_saved_is_the_one_that_is_not(
    tmp_path: Path, everything: Outcome
) -> None:
    assert _train(tmp_path, entries=EVERYTHING, saves={"steps": 1, "keep": 1}) == everything
    assert _train(tmp_path, entries=EVERYTHING) == everything  # saved at its end, and read again


VIEWS = {"crop": 2, "flip": True, "views": 3}
SOME = torch.where(torch.arange(SAMPLES) % 3 > 0, TARGETS, -100)


@pytest.mark.parametrize(
    "given",
    [
        {"accumulate": 3},
        {"augment": VIEWS, "mode": "memory"},
        {"augment": {**VIEWS, "mixup": 0.4}},
        {"augment": VIEWS, "workers": 2},
        {"targets": SOME},
        {"schedule": "one-cycle"},
        {"schedule": "cosine", "warmup_epochs": 1},
        {"schedule": "step", "milestones": [1], "clip_norm": 0.5},
        {"optimizer": "sgd", "nesterov": True, "weight_decay": 0.1},
        {"optimizer": "adamw", "weight_average": 0.7},
        {"optimizer": "muon", "weight_decay": 0.1, "momentum": 0.8},
        {"precision": "bf16-mixed", "execution": Execution(torch.bfloat16)},
        {"entries": [Contrastive, "cosine"], "mode": "memory", "accumulate": 2},
    ],
    ids=str,
)
def test_everything_that_moves_with_the_steps_continues(
    tmp_path: Path, given: dict[str, Any]
) -> None:
    assert _interrupted(tmp_path, [2, 3], **given) == _train(None, **given)


def test_a_user_who_changes_nothing_but_the_seconds_between_saves_changes_nothing(
    tmp_path: Path, everything: Outcome
) -> None:
    often = {"minutes": 1e-9, "epochs": 1, "keep": 3}
    assert _interrupted(tmp_path, [4], entries=EVERYTHING, saves=often) == everything
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 3


class Odd(nn.Module):
    """Looks at its version when it is loaded, and holds a buffer that is not saved with it."""

    _version = 2

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(5))
        self.register_buffer("seen", torch.zeros(()), persistent=False)
        self.seen: torch.Tensor

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen += 1
        return logits * self.scale * (1 + 0.1 * self.seen)

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: Any, *rest: Any) -> None:
        if (metadata.get("version") or 1) < 2:  # as an old one would have to be mended
            state[f"{prefix}scale"] = state[f"{prefix}scale"] * 2
        super()._load_from_state_dict(state, prefix, metadata, *rest)


def test_modules_with_a_version_and_unsaved_buffers_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = small_student
    monkeypatch.setitem(globals(), "small_student", lambda: nn.Sequential(small(), Odd()))
    assert _interrupted(tmp_path, [2, 3], entries=["logits"]) == _train(None, entries=["logits"])


def test_other_parameters_that_learn_are_refused_before_moments_are_mixed_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = small_student

    def frozen(layer: int) -> nn.Module:
        model = small()
        [*model.parameters()][layer].requires_grad_(False)
        return model

    monkeypatch.setitem(globals(), "small_student", lambda: frozen(0))
    with pytest.raises(Interrupted):
        _train(tmp_path, 2)
    monkeypatch.setitem(globals(), "small_student", lambda: frozen(2))
    with pytest.raises(ResumeError, match="of other parameters"):
        _train(tmp_path)


class Tagger(nn.Module):
    """A class for each token of a sequence; the teacher is the wider."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, width)
        self.body = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Dropout(0.2))
        self.head = nn.Linear(width, 7)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tagged: torch.Tensor = self.head(self.body(self.embedding(tokens)))
        return tagged


def _sequences(folder: Path | None, stop: int | None = None) -> Outcome:
    """Train on sequences: some shorter than others, some without any target."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(7, (SAMPLES, 5), generator=generator)
    targets = tokens.roll(-1, 1)
    targets[torch.rand(targets.shape, generator=generator) < 0.3] = -100
    targets[::6] = -100
    source = DatasetSource(TensorDataset(tokens, targets), "lines", same_every_epoch=True)
    torch.manual_seed(1)
    student, teacher = Tagger(4), Tagger(8)
    config = TrainConfig(epochs=2, batch_size=8, accumulate=3, lr=0.01, labelled_share=0.6)
    interruption = Interruption()
    saver = None
    if folder is not None:
        saver = Saver(folder, CheckpointConfig(epochs=0), {"seed": 3}, interruption=interruption)
    with Distiller(
        teacher,
        student,
        ["logits", "fitnets", "cosine"],
        sample_input=tokens[:2],
        setup=Setup(targets=targets),
        task=Sequences(),
    ) as distiller:
        observers = [StopAfter(stop, interruption)]
        given: dict[str, Any] = {"test": source, "validation": source, "saver": saver}
        history = train(distiller, source, config, 3, observers=observers, **given)
        return Outcome(history, distiller)


def test_sequences_continue_from_any_step(tmp_path: Path) -> None:
    whole = _sequences(None)
    assert set(whole.memory["per"].values()) == {"row", "sample"}
    for stop in (1, 2, 4):
        with pytest.raises(Interrupted, match=f"step {stop} "):
            _sequences(tmp_path / str(stop), stop)
        assert _sequences(tmp_path / str(stop)) == whole
