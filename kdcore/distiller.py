"""The one module that holds student, adapters and strategies, and computes all losses.

It knows the hooks through their caller, and nothing of batches, optimizers or epochs beyond what
strategies are told. Methods are elsewhere: the core knows none.
"""

import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from kdcore.assembly import Assembly, arm, discover
from kdcore.auxiliary import AuxiliaryLosses, Told
from kdcore.catalog import Catalog
from kdcore.contract import Setup
from kdcore.devices import device_of
from kdcore.errors import ConfigError, ModelError, StrategyError
from kdcore.execution import PLAIN, Execution
from kdcore.freezing import Frozen
from kdcore.frozen_teacher import AnyTeacher, FrozenTeacher, named
from kdcore.hooks import HookCaller, Member
from kdcore.loss_rules import mean
from kdcore.moving import MovingTeacher
from kdcore.nested import in_precision, inputs_of
from kdcore.part import Part
from kdcore.selection import Entry, agreed_task_weight, select
from kdcore.signals import Signals
from kdcore.taps import logits_of
from kdcore.tasks import Classification, Counts, Mixed, Task
from kdcore.teachers import TeacherEnsemble, check_teachers, ensembles_of, needed
from kdcore.weights import Moving, weight_at


@dataclass(frozen=True)
class Losses:
    """All losses of one forward pass, each a tensor without dimensions.

    Attributes:
        total: the task's weight times `task` plus the weighted sum of `auxiliary`; call
            ``backward`` on it.
        task: the task's loss, unweighted.
        auxiliary: by label, unweighted; ``label.part`` where a strategy returns several.
        weights: by label, what each of `auxiliary` is weighted with in this epoch.
        logits: the student's, ``[batch, classes]`` or as the task has them, without gradient.
    """

    total: Tensor
    task: Tensor
    auxiliary: Mapping[str, Tensor]
    weights: Mapping[str, float]
    logits: Tensor


class Distiller(nn.Module):
    """Computes a student's task loss and its strategies' auxiliary losses in one call.

    Its parameters are those of student, adapters and losses, to be handed to one optimizer; its
    state dict holds them and the strategies' memory. The teachers are no part of either.

    Args:
        teacher: the model to learn from, a `MovingAverageTeacher`, or several by name, among them
            a `TeacherEnsemble` of others; None for a student alone.
        student: the model to train.
        strategies: names, mappings with ``name``, optionally ``weight``, ``label``, ``teacher``
            and the method's settings, or `Strategy` instances.
        task_weight: weight of the task's loss, a number or a `Moving` one; if not given, what the
            strategies' papers use where they agree, otherwise 1.
        sample_input: some input of the student, whose first two samples show the shapes.
        teacher_sample_input: the same samples as the teacher is given them, where that differs;
            `TeacherInputs` where teachers differ among themselves.
        setup: sample count, class count or targets, for methods that ask for them.
        task: the student's task; classification if not given.
        seed: of the adapters' weights and the strategies' random streams.
        device: where to place all models; the student's own device if not given.
        catalog: where strategies' names are looked up; what is installed if not given.
        wrappers: hook wrappers by name, see docs/hooks.md.
        execution: number format of both models' layers, and whether they are compiled.
        trainable: names of the student's modules that are trained; all of it if none is given. The
            others keep their weights and running statistics until the distiller is closed.

    Attributes:
        epoch: what strategies are told, from 0; set it where they, or weights, depend on it.
        step: optimizer steps taken; `advance` counts them.

    Raises:
        ConfigError, CatalogError: an entry of `strategies` is wrong, or not installed.
        ModelError: a model is not fit to take part.
        TapError: a tap does not exist, did not run, or cannot be found automatically.
        StrategyError: a strategy broke the contract of the hooks.
    """

    def __init__(
        self,
        teacher: AnyTeacher | Mapping[str, AnyTeacher] | None,
        student: nn.Module,
        strategies: Iterable[Entry] = (),
        *,
        task_weight: float | Moving | None = None,
        sample_input: Any = None,
        teacher_sample_input: Any = None,
        setup: Setup | None = None,
        task: Task | None = None,
        seed: int = 0,
        device: torch.device | str | None = None,
        catalog: Catalog | None = None,
        wrappers: Mapping[str, object] | None = None,
        execution: Execution = PLAIN,
        trainable: Collection[str] = (),
    ) -> None:
        super().__init__()
        teachers = named(teacher)
        check_teachers(teachers, ensembles_of(teachers))
        members = select(strategies, teachers, catalog)
        used = needed((member.teacher for member in members), ensembles_of(teachers))
        for name in teachers:
            if name not in used:
                raise ConfigError(f"no strategy learns from {name!r}: name one, or leave it out")
        if isinstance(task_weight, float | int) and not 0 <= task_weight < float("inf"):
            raise ConfigError(f"task_weight must be a number from 0, got {task_weight}")
        self.task = task or Classification()
        self.task_weight = agreed_task_weight(members) if task_weight is None else task_weight
        self.epoch = 0
        self.step = 0
        self._hooks = HookCaller(members, wrappers)
        self._auxiliary = AuxiliaryLosses(self._hooks, self.task)
        self._frozen = Frozen.but(student, trainable)
        if teacher_sample_input is None:
            teacher_sample_input = sample_input
        self._assembly = arm(
            discover(
                student,
                teachers,
                self._hooks,
                (sample_input, teacher_sample_input),
                (setup or Setup()).with_task(self.task.kind),
                seed,
                device_of(student) if device is None else torch.device(device),
                self.task.row_shape,
            ),
            execution,
        )
        self.execution = execution
        self.student = student
        self._frozen.learn(False)
        self.strategies = nn.ModuleDict({part.member.label: part for part in self._parts})
        self._release = weakref.finalize(self, _release, self._assembly, self._frozen)

    @property
    def _parts(self) -> tuple[Part, ...]:
        return self._assembly.parts

    @property
    def device(self) -> torch.device:
        """Where the student is, and with it everything else."""
        return device_of(self.student)

    @property
    def members(self) -> tuple[Member, ...]:
        """The strategies of this run, in their order."""
        return self._hooks.members

    @property
    def automatic_taps(self) -> Mapping[str, Mapping[str, tuple[str, ...]]]:
        """The taps that `auto` found, by ``"student"`` or teacher's name, and kind."""
        return self._assembly.automatic

    def tapped(self) -> Iterator[tuple[Member, list[str], list[str]]]:
        """Say what each strategy looks at, as the loss sees it, in student and teacher."""
        for part in self._parts:
            yield part.member, *part.describe()

    @property
    def teachers(self) -> Mapping[str, FrozenTeacher]:
        """The teachers of this run that are models of their own, by name."""
        return self._assembly.teachers

    @property
    def moving(self) -> Mapping[str, MovingTeacher]:
        """The teachers that are a moving average of the student, by name."""
        return self._assembly.moving

    @property
    def ensembles(self) -> Mapping[str, TeacherEnsemble]:
        """The teachers that are the mean of others, by name."""
        return self._assembly.ensembles

    def teacher_signals(self, inputs: Any, batch_size: int | None = None) -> dict[str, Signals]:
        """Run every model among the teachers on one batch, without gradients.

        Args:
            inputs: what they are given, the same or `TeacherInputs`.
            batch_size: samples at a time, see `FrozenTeacher.signals`.
        """
        return {
            name: each.signals(inputs_of(inputs, name), batch_size)
            for name, each in self.teachers.items()
        }

    def forward(
        self,
        inputs: Any,
        targets: Tensor | None = None,
        *,
        indices: Tensor | None = None,
        teacher_inputs: Any = None,
        signals: Mapping[str, Signals] | None = None,
        counts: Counts | None = None,
        mixed: Mixed | None = None,
    ) -> Losses:
        """Compute all losses of one batch.

        Args:
            inputs: what the student is given: a tensor ``[batch, ...]``, a tuple or a mapping.
            targets: ``int64 [batch]``, or as the task has them; -100, NaN among numbers, or None
                for all, where there is no label.
            indices: ``int64 [batch]``, each sample's index in the training set, for methods
                that remember samples.
            teacher_inputs: the same samples as the teacher is given them, where that differs;
                `TeacherInputs` where teachers differ among themselves.
            signals: what `teachers` say of the batch, where it is known already; the others are
                asked, or follow from it.
            counts: by what means are divided, for a batch that is a part of an optimizer step;
                see `Task.count`. If not given, the batch is the whole step.
            mixed: what the samples were mixed with, by mixup or CutMix.

        Returns:
            `Losses`; with gradients to the student, the adapters and the losses' own modules.

        Raises:
            TapError: a tapped module did not run, or ran more than once.
            StrategyError: a strategy failed, or returned what is no loss.
        """
        with self.execution.casting(self.device):
            observation = self._assembly.student(inputs)
        logits = logits_of(observation.output)
        if logits is None:
            raise ModelError(
                "the student's output holds no logits: expected a tensor, a tuple that begins "
                f"with one, or an object with .logits, got {type(observation.output).__name__}"
            )
        if targets is None:
            targets = self.task.unlabelled(logits)
        here = self.task.count(len(logits), targets)
        counts = counts or here
        if signals is None:
            signals = self.teacher_signals(inputs if teacher_inputs is None else teacher_inputs)
        signals = self._assembly.hear(inputs, signals)
        with torch.autocast(logits.device.type, enabled=False):
            logits = in_precision(logits, self._assembly.precision)
            task = self.task.mixed_loss(logits, targets, mixed).sum() / counts.labelled.clamp(min=1)
            total = weight_at(self.task_weight, self.epoch) * task
            auxiliary: dict[str, Tensor] = {}
            weights: dict[str, float] = {}
            seen = replace(observation, output=self.task.rows(logits, targets))
            setup = self._assembly.setup
            told = Told(setup, seen, signals, targets, indices, self.epoch, self.step)
            for part in self._parts:
                for label, value in self._auxiliary.of(part, told, here):
                    per = self._auxiliary.per
                    auxiliary[label] = mean(part.member, label, value, here, counts, per)
                    weights[label] = weight_at(part.member.weight, self.epoch)
                    total = total + weights[label] * auxiliary[label]
        return Losses(total, task, auxiliary, weights, logits.detach())

    def train(self, mode: bool = True) -> Self:
        """Set the mode of everything that is trained."""
        super().train(mode)
        for module in self._frozen.modules:
            module.eval()
        return self

    def carried(self) -> dict[str, Mapping[str, Any]]:
        """Return what a later stage of the same student takes over.

        Of strategies by label; of moving teachers by ``"teacher NAME"``, which is no label.
        """
        parts = {part.member.label: part.carried() for part in self._parts}
        return parts | {f"teacher {name}": _cloned(each) for name, each in self.moving.items()}

    def take_over(self, carried: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over adapters, memory and random streams of strategies of the same label.

        A moving teacher goes on as the one of the same name was.

        Raises:
            StrategyError: one of another method, or for other shapes, had the label.
        """
        for part in self._parts:
            if part.member.label in carried:
                part.take_over(carried[part.member.label])
        for name, teacher in self.moving.items():
            if (before := carried.get(f"teacher {name}")) is not None:
                teacher.load_state_dict(before)

    def advance(self) -> None:
        """Say that the optimizer has stepped: strategies' new memory counts, averages follow.

        Call it once after each ``optimizer.step()``; set `epoch` where strategies depend on it.
        """
        self.step += 1
        for part in self._parts:
            try:
                part.state.commit()
            except StrategyError as error:
                raise StrategyError(f"{part.member}: {error}") from None
        for teacher in self.moving.values():
            teacher.update()

    def forget_rows(self) -> None:
        """Forget the rows that strategies handed back: they are of another process's samples."""
        for part in self._parts:
            part.state.discard_rows()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move everything that a run holds when PyTorch moves the module.

        Raises:
            ModelError: the precision would change, which was settled when models were probed.
        """
        moved = fn(torch.empty(0, dtype=self._assembly.precision, device=self.device))
        if moved.dtype != self._assembly.precision:
            raise ModelError(
                f"a distiller stays {self._assembly.precision}: convert student and teacher first, "
                "then make the distiller"
            )
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # as PyTorch has it
        self._assembly.move(moved.device)
        return self

    def close(self) -> None:
        """Take all hooks off the models and put the teachers' modes back; repeatable."""
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get_extra_state(self) -> dict[str, Any]:
        """Return what is no parameter: steps, strategies' memory, random streams, averages."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "per": dict(self._auxiliary.per.known),
            "state": {part.member.label: dict(part.state) for part in self._parts},
            "generators": self.streams(),
            "moving": {name: each.state_dict() for name, each in self.moving.items()},
        }

    def streams(self) -> dict[str, Tensor]:
        """Return where each strategy's random stream is, by label."""
        return {part.member.label: part.generator.get_state() for part in self._parts}

    def set_streams(self, states: Mapping[str, Tensor]) -> None:
        """Put random streams where `streams` found them."""
        for part in self._parts:
            part.generator.set_state(states[part.member.label])

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take back what `get_extra_state` returned."""
        self.epoch = state["epoch"]
        self.step = state["step"]
        self._auxiliary.per.known = dict(state["per"])
        for part in self._parts:
            part.state.load(state["state"][part.member.label])
        self.set_streams(state["generators"])
        for name, teacher in self.moving.items():
            teacher.load_state_dict(state["moving"][name])


def _release(assembly: Assembly, frozen: Frozen) -> None:
    frozen.learn(True)
    assembly.release()


def _cloned(teacher: MovingTeacher) -> dict[str, Any]:
    return {
        key: [each.clone() for each in value] if isinstance(value, list) else value
        for key, value in teacher.state_dict().items()
    }
