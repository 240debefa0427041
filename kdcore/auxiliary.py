"""The losses of a run's strategies in one forward pass: each asked for its own, and watched.

What a loss may be, and by what it is divided, is in `loss_rules`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kdcore.contract import AuxiliaryLoss, Setup
from kdcore.errors import UserError
from kdcore.hooks import HookCaller
from kdcore.loss_rules import PerWhat, labelled, nothing_changed, nothing_remembered
from kdcore.part import Part
from kdcore.signals import Signals
from kdcore.taps import Observation
from kdcore.tasks import Counts, Task


@dataclass(frozen=True)
class Told:
    """What strategies are told of one forward pass.

    Attributes:
        setup: what is known before training.
        seen: what the student gave, its output by row.
        signals: what each teacher said.
        targets: of the batch.
        indices: ``int64 [batch]``, each sample's in the training set; None where not known.
        epoch: from 0.
        step: optimizer steps taken.
    """

    setup: Setup
    seen: Observation
    signals: Mapping[str, Signals]
    targets: Tensor
    indices: Tensor | None
    epoch: int
    step: int


class AuxiliaryLosses:
    """Asks strategies for their losses.

    Args:
        hooks: the strategies.
        task: the student's.

    Attributes:
        per: whether each loss is by sample or by row, as far as it is known.
    """

    def __init__(self, hooks: HookCaller, task: Task) -> None:
        self.per = PerWhat()
        self._hooks = hooks
        self._task = task

    def of(self, part: Part, told: Told, here: Counts) -> Iterator[tuple[str, Tensor]]:
        """Return the losses of one strategy by label, as it gave them.

        Args:
            part: what it owns.
            told: what it is told.
            here: what the batch holds.

        Raises:
            StrategyError: it failed, or touched what is not its own.
        """
        heard = told.signals[part.member.teacher]
        heard.check_rows(len(told.targets), part.member.teacher)
        if heard.logits is not None:
            heard = replace(heard, logits=self._task.rows(heard.logits, told.targets))
        with nothing_remembered(part):
            if self._unsure(part, here):
                self._find_out(part, told, heard)
            loss = self._asked(part, told, heard)
        return labelled(part.member, loss)

    def _unsure(self, part: Part, here: Counts) -> bool:
        """Return whether a vector of a strategy might be one value a sample as well as a row."""
        ambiguous = here.samples == here.rows and not self._task.rows_are_samples
        return ambiguous and not self.per.settled(part.member.label)

    def _find_out(self, part: Part, told: Told, heard: Signals) -> None:
        """See which of a strategy's losses are longer where there is one row more."""
        stream = part.generator.get_state()
        more = replace(told, seen=replace(told.seen, output=_one_more(told.seen.output)))
        if heard.logits is not None:
            heard = replace(heard, logits=_one_more(heard.logits))
        with torch.no_grad():
            loss = self._asked(part, more, heard)
        part.generator.set_state(stream)
        for label, value in labelled(part.member, loss):
            self.per.note(label, value, rows=len(more.seen.output))

    def _asked(self, part: Part, told: Told, heard: Signals) -> AuxiliaryLoss:
        member, indices = part.member, told.indices
        if indices is None:
            if self._hooks.wants(member, "indices"):
                raise UserError(
                    f"strategy {member.label!r} asks for indices: pass indices=, each "
                    "sample's index in the training set"
                )
            indices = torch.arange(len(told.targets), device=told.targets.device)
        student = part.student_features(told.seen.activations, told.seen.output)
        teacher = part.teacher_features(heard)
        with nothing_changed(member, student, teacher, part.state, told.targets, indices):
            return self._hooks.compute_auxiliary_loss(
                member,
                setup=told.setup,
                student=student,
                teacher=teacher,
                modules=part.own_modules,
                state=part.state,
                targets=told.targets,
                indices=indices,
                epoch=told.epoch,
                step=told.step,
                generator=part.generator,
            )


def _one_more(rows: Tensor) -> Tensor:
    return torch.cat([rows, rows[-1:]])
