"""The life of a run until it can learn, in the one order that works.

`discover`: place the models, ask for taps, probe, build adapters. `arm`: freeze the teachers and
set the taps; every stage of a run begins again there. What comes after, the optimizer, is the
trainer's: it needs every parameter that was built here.
"""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kdcore.adapters import FixedAdapter
from kdcore.contract import Setup
from kdcore.ensemble import Ensemble, Member
from kdcore.errors import ModelError, TapError
from kdcore.execution import PLAIN, Execution
from kdcore.nested import to_device
from kdcore.part import Part
from kdcore.processes import here
from kdcore.randomness import isolated, stream
from kdcore.signals import SignalKey
from kdcore.survey import Roles, Survey
from kdcore.taps import TapRecorder
from kdcore.teacher import FrozenTeacher


@dataclass
class Assembly:
    """A run that can compute losses.

    Attributes:
        parts: what each strategy owns, in the order of the configuration.
        student: the student with its taps set.
        teachers: the frozen teachers by name.
        setup: what strategies are told.
        precision: floating-point type of adapters, features and losses.
        automatic: by ``"student"``, and each teacher's name, the taps that were found by kind.
    """

    parts: tuple[Part, ...]
    student: TapRecorder
    teachers: Mapping[str, FrozenTeacher]
    setup: Setup
    precision: torch.dtype
    automatic: Mapping[str, Mapping[str, tuple[str, ...]]]

    def move(self, device: torch.device) -> None:
        """Place what PyTorch does not move with the distiller: teachers, memory, streams."""
        for teacher in self.teachers.values():
            teacher.model.to(device)
        for part in self.parts:
            part.state.move(device, self.precision)
            if part.generator.device != device:
                part.generator = stream(part.generator.initial_seed(), "moved", device=device)
        self.setup = self.setup.to(device)


@dataclass(frozen=True)
class Discovery:
    """What is known of a run once its models were seen: where its taps are, and its adapters.

    Attributes:
        student: what was found out about the student.
        teachers: the same of the teachers, by name.
        parts: what each strategy owns, in the order of the configuration.
        setup: what strategies are told.
        precision: floating-point type of adapters, features and losses.
    """

    student: Survey
    teachers: Mapping[str, Survey]
    parts: tuple[Part, ...]
    setup: Setup
    precision: torch.dtype


def discover(
    student: nn.Module,
    teachers: Mapping[str, nn.Module],
    ensemble: Ensemble,
    samples: tuple[Any, Any],
    setup: Setup,
    seed: int,
    device: torch.device,
) -> Discovery:
    """Place the models, ask strategies for taps, probe, and have them build their adapters.

    Args:
        student: the model to train.
        teachers: the models to learn from, by name.
        ensemble: the strategies.
        samples: a few samples as the student, and as the teachers, are given them.
        setup: what strategies are told.
        seed: of adapters' weights and strategies' streams.
        device: where all of it runs.

    Raises:
        ModelError: models share weights, or a probe is needed and there is no sample.
        TapError: a tap does not exist, did not run, or cannot be found automatically.
        StrategyError: a strategy broke its contract.
    """
    _check_apart(student, teachers)
    for model in (student, *teachers.values()):
        model.to(device)
    learner = Survey(student, to_device(samples[0], device), "student")
    surveys = {
        name: Survey(teacher, to_device(samples[1], device), _where(name, teachers))
        for name, teacher in teachers.items()
    }
    taps: dict[Member, tuple[Roles, Roles]] = {}
    for member in ensemble.members:
        asked = ensemble.extract_features(member, setup)
        try:
            taps[member] = (
                learner.resolve(asked.student),
                surveys[member.teacher].resolve(asked.teacher),
            )
        except TapError as error:
            raise TapError(f"{member}: {error}") from None
    if taps:
        learner.shapes({})
        setup = setup.with_class_count(learner.class_count)
    precision = _precision(student)
    parts = []
    for member, (own, others) in taps.items():
        shapes = learner.shapes(own), surveys[member.teacher].shapes(others)
        with isolated(seed, member.label, "adapters"):
            adapters = ensemble.adapt_shapes(member, setup, *shapes)
        process = ("process", rank) if (rank := here().rank) else ()
        generator = stream(seed, member.label, "loss", *process, device=device)
        part = Part(member, own, others, shapes, adapters, generator, precision)
        part.to(device, precision)
        part.state.move(device, precision)
        parts.append(part)
    return Discovery(learner, surveys, tuple(parts), setup.to(device), precision)


def arm(discovery: Discovery, execution: Execution = PLAIN) -> Assembly:
    """Freeze the teachers and set all taps; where that fails, nothing is left behind."""
    learner, precision = discovery.student, discovery.precision
    execution.prepare()
    with ExitStack() as undo:
        recorder = TapRecorder(learner.model, learner.wanted, learner.where, learner.keep)
        undo.callback(recorder.remove)
        if execution.backend is not None:
            recorder.compile(execution.backend)
        frozen = {}
        for name, survey in discovery.teachers.items():
            wanted = _wanted(name, discovery.parts)
            teacher = FrozenTeacher(
                survey.model, wanted, survey.where, survey.keep, precision, execution
            )
            undo.callback(teacher.release)
            frozen[name] = teacher
        undo.pop_all()
    surveys = {"student": learner, **discovery.teachers}
    automatic = {
        name: {kind: tuple(map(str, found)) for kind, found in survey.automatic.items()}
        for name, survey in surveys.items()
    }
    return Assembly(discovery.parts, recorder, frozen, discovery.setup, precision, automatic)


def _wanted(teacher: str, parts: Iterable[Part]) -> dict[SignalKey, FixedAdapter | None]:
    """Return what strategies want of one teacher, each once."""
    return {
        key: adapter
        for part in parts
        if part.member.teacher == teacher
        for key, adapter in part.wanted().items()
    }


def _check_apart(student: nn.Module, teachers: Mapping[str, nn.Module]) -> None:
    """Refuse models that share modules or memory: training one would change the other."""
    own = _memory(student) | {id(module) for module in student.modules()}
    for name, teacher in teachers.items():
        if own & (_memory(teacher) | {id(module) for module in teacher.modules()}):
            raise ModelError(
                f"student and {_where(name, teachers)} share weights or modules: training one "
                "would change the other; hand over a copy (copy.deepcopy)"
            )


def _memory(model: nn.Module) -> set[int]:
    tensors = (*model.parameters(), *model.buffers())
    return {address for t in tensors if (address := t.untyped_storage().data_ptr())}


def _where(name: str, teachers: Mapping[str, nn.Module]) -> str:
    return "teacher" if len(teachers) == 1 else f"teacher {name}"


def _precision(student: nn.Module) -> torch.dtype:
    """Return the precision of adapters and losses: float32, or float64 for such a student."""
    first = next((p for p in student.parameters() if p.is_floating_point()), None)
    return torch.float64 if first is not None and first.dtype == torch.float64 else torch.float32
