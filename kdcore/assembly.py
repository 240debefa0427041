"""The life of a run until it can learn, in the one order that works.

`discover`: place the models, ask for taps, probe, build adapters. `arm`: freeze the teachers and
set the taps; every stage of a run begins again there. What comes after, the optimizer, is the
trainer's: it needs every parameter that was built here.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kdcore.adapters import FixedAdapter
from kdcore.contract import Setup
from kdcore.errors import ModelError, TapError
from kdcore.execution import PLAIN, Execution
from kdcore.frozen_teacher import AnyTeacher, FrozenTeacher, mean_of, models_of
from kdcore.hooks import HookCaller, Member
from kdcore.moving import MovingTeacher, copy_of
from kdcore.nested import inputs_of, to_device
from kdcore.part import Part
from kdcore.processes import here
from kdcore.randomness import isolated, stream
from kdcore.sharding import local
from kdcore.signals import SignalKey, Signals
from kdcore.survey import EnsembleSurvey, Roles, Survey
from kdcore.taps import TapRecorder
from kdcore.teachers import MovingAverageTeacher, TeacherEnsemble, ensembles_of, title_of


@dataclass
class Assembly:
    """A run that can compute losses.

    Attributes:
        parts: what each strategy owns, in the order of the configuration.
        student: the student with its taps set.
        teachers: the frozen teachers by name.
        moving: those that follow the student, by name.
        ensembles: those that are the mean of others, by name.
        setup: what strategies are told.
        precision: floating-point type of adapters, features and losses.
        automatic: by ``"student"``, and each teacher's name, the taps that were found by kind.
    """

    parts: tuple[Part, ...]
    student: TapRecorder
    teachers: Mapping[str, FrozenTeacher]
    moving: Mapping[str, MovingTeacher]
    ensembles: Mapping[str, TeacherEnsemble]
    setup: Setup
    precision: torch.dtype
    automatic: Mapping[str, Mapping[str, tuple[str, ...]]]

    def hear(self, inputs: Any, signals: Mapping[str, Signals]) -> Mapping[str, Signals]:
        """Add what follows from the batch itself: what moving teachers and ensembles say.

        Args:
            inputs: what the student is given.
            signals: what the frozen teachers say, by name.
        """
        heard = {**signals}
        for name, moving in self.moving.items():
            heard[name] = moving.signals(inputs)
        for name, ensemble in self.ensembles.items():
            heard[name] = mean_of(ensemble, heard)
        return heard

    def release(self) -> None:
        """Take all hooks off the models and put the teachers' modes back."""
        self.student.remove()
        for moving in self.moving.values():
            moving.release()
        # In reverse: one module may be two teachers, and the first saw the mode it was in.
        for teacher in reversed(tuple(self.teachers.values())):
            teacher.release()

    def move(self, device: torch.device) -> None:
        """Place what PyTorch does not move with the distiller: teachers, memory, streams."""
        for teacher in self.teachers.values():
            teacher.model.to(device)
        for moving in self.moving.values():
            moving.move(device)
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
        given: the teachers themselves, by name.
        parts: what each strategy owns, in the order of the configuration.
        setup: what strategies are told.
        precision: floating-point type of adapters, features and losses.
    """

    student: Survey
    teachers: Mapping[str, Survey | EnsembleSurvey]
    given: Mapping[str, AnyTeacher]
    parts: tuple[Part, ...]
    setup: Setup
    precision: torch.dtype


def discover(
    student: nn.Module,
    teachers: Mapping[str, AnyTeacher],
    hooks: HookCaller,
    samples: tuple[Any, Any],
    setup: Setup,
    seed: int,
    device: torch.device,
    row_shape: Callable[[torch.Size], torch.Size] = torch.Size,
) -> Discovery:
    """Place the models, ask strategies for taps, probe, and have them build their adapters.

    Args:
        student: the model to train.
        teachers: what to learn from, by name.
        hooks: the strategies' hooks.
        samples: a few samples as the student, and as the teachers, are given them; see
            `kdcore.nested.inputs_of`.
        setup: what strategies are told.
        seed: of adapters' weights and strategies' streams.
        device: where all of it runs.
        row_shape: makes the shape of a model's rows of that of its logits.

    Raises:
        ModelError: models share weights, or a probe is needed and there is no sample.
        TapError: a tap does not exist, did not run, or cannot be found automatically.
        StrategyError: a strategy broke its contract.
    """
    models = models_of(teachers)
    _check_apart(student, models)
    for model in (student, *models.values()):
        model.to(device)
    own, others = to_device(samples[0], device), to_device(samples[1], device)
    learner = Survey(student, own, "student", row_shape)
    surveys = _surveys(student, teachers, own, others, row_shape)
    taps: dict[Member, tuple[Roles, Roles]] = {}
    # All are asked first: what `auto` means is found by running the models.
    asked_for = {member: hooks.extract_features(member, setup) for member in hooks.members}
    for member, wished in asked_for.items():
        try:
            taps[member] = (
                learner.resolve(wished.student),
                surveys[member.teacher].resolve(wished.teacher),
            )
        except TapError as error:
            raise TapError(f"{member}: {error}") from None
    if taps:
        learner.shapes({})
        setup = setup.with_class_count(learner.class_count)
    precision = _precision(student)
    parts = []
    for member, (asked, told) in taps.items():
        shapes = learner.shapes(asked), surveys[member.teacher].shapes(told)
        with isolated(seed, member.label, "adapters"):
            adapters = hooks.adapt_shapes(member, setup, *shapes)
        process = ("process", rank) if (rank := here().rank) else ()
        generator = stream(seed, member.label, "loss", *process, device=device)
        part = Part(member, asked, told, shapes, adapters, generator, precision)
        part.to(device, precision)
        part.state.move(device, precision)
        parts.append(part)
    return Discovery(learner, surveys, teachers, tuple(parts), setup.to(device), precision)


def _surveys(
    student: nn.Module,
    teachers: Mapping[str, AnyTeacher],
    own: Any,
    others: Any,
    row_shape: Callable[[torch.Size], torch.Size],
) -> dict[str, Survey | EnsembleSurvey]:
    """Return what will be found out about each teacher; averages begin here, as the student is."""
    models: dict[str, Survey] = {}
    for name, teacher in teachers.items():
        where = title_of(name)
        if isinstance(teacher, MovingAverageTeacher):
            models[name] = Survey(copy_of(student, where), own, where, row_shape)
        elif isinstance(teacher, nn.Module):
            models[name] = Survey(teacher, inputs_of(others, name), where, row_shape)
    surveys: dict[str, Survey | EnsembleSurvey] = {**models}
    for name, ensemble in ensembles_of(teachers).items():
        members = {member: models[member] for member in ensemble.members}
        surveys[name] = EnsembleSurvey(members, title_of(name))
    return surveys


def arm(discovery: Discovery, execution: Execution = PLAIN) -> Assembly:
    """Freeze the teachers and set all taps; where that fails, nothing is left behind."""
    learner, precision = discovery.student, discovery.precision
    execution.prepare()
    with ExitStack() as undo:
        recorder = TapRecorder(learner.model, learner.wanted, learner.where, learner.keep)
        undo.callback(recorder.remove)
        if execution.backend is not None:
            recorder.compile(execution.backend)
        frozen, moving = {}, {}
        for name, survey in discovery.teachers.items():
            if isinstance(survey, EnsembleSurvey):
                continue
            wanted = _wanted(name, discovery.parts)
            teacher = FrozenTeacher(
                survey.model, wanted, survey.where, survey.keep, precision, execution
            )
            undo.callback(teacher.release)
            given = discovery.given[name]
            if isinstance(given, MovingAverageTeacher):
                moving[name] = MovingTeacher(teacher, learner.model, given.decay)
            else:
                frozen[name] = teacher
        undo.pop_all()
    surveys = {"student": learner, **discovery.teachers}
    automatic = {
        name: {kind: tuple(map(str, found)) for kind, found in survey.automatic.items()}
        for name, survey in surveys.items()
    }
    ensembles = ensembles_of(discovery.given)
    return Assembly(
        discovery.parts,
        recorder,
        frozen,
        moving,
        ensembles,
        discovery.setup,
        precision,
        automatic,
    )


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
                f"student and {title_of(name)} share weights or modules: training one "
                "would change the other; hand over a copy (copy.deepcopy)"
            )


def _memory(model: nn.Module) -> set[int]:
    tensors = map(local, (*model.parameters(), *model.buffers()))
    return {address for t in tensors if (address := t.untyped_storage().data_ptr())}


def _precision(student: nn.Module) -> torch.dtype:
    """Return the precision of adapters and losses: float32, or float64 for such a student."""
    first = next((p for p in student.parameters() if p.is_floating_point()), None)
    return torch.float64 if first is not None and first.dtype == torch.float64 else torch.float32
