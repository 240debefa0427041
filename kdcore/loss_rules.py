"""What a strategy's loss may be, what it may not touch, and by what it is divided.

How a strategy is called is in `hooks`; what is done with its loss in `distiller`.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from kdcore.contract import AuxiliaryLoss, Features, State
from kdcore.errors import StrategyError
from kdcore.hooks import Member
from kdcore.part import Part
from kdcore.tasks import Counts


@contextmanager
def nothing_remembered(part: Part) -> Iterator[None]:
    """Refuse modules of a strategy that keep memory of their own.

    What they write would be lost where several processes train, and seen by the next micro-batch.
    PyTorch's own modules may: their running statistics are meant to be each process's.

    Raises:
        StrategyError: a buffer was changed inside the block.
    """
    before = {name: (id(each), each._version) for name, each in part.memory()}
    yield
    for name, each in part.memory():
        if before.get(name) != (id(each), each._version):
            raise StrategyError(
                f"{part.member}: the buffer {name} was changed while losses were computed; memory "
                "goes into Adapters.state, and is handed back with state.write"
            )


@contextmanager
def nothing_changed(
    member: Member, student: Features, teacher: Features, state: State, *others: Tensor
) -> Iterator[None]:
    """Refuse a loss that changes in place what it was shown, targets and indices included.

    While gradients are off, as in evaluation, the memory that it hands back is forgotten.

    Raises:
        StrategyError: something was changed.
    """
    shown = (*student.tensors(), *teacher.tensors(), *state.values(), *others)
    before, waiting = _versions(shown), state.waiting
    yield
    if _versions(shown) != before:
        raise StrategyError(
            f"{member}: compute_auxiliary_loss changed features, logits, targets or state in "
            "place, which others read too; work on a copy, hand state back with state.write"
        )
    if not torch.is_grad_enabled():
        state.discard(since=waiting)


def _versions(shown: Iterable[Tensor]) -> list[int]:
    """Return how often each tensor that a strategy is shown was changed in place."""
    return [tensor._version for tensor in shown if not tensor.is_inference()]


def labelled(member: Member, loss: AuxiliaryLoss) -> Iterator[tuple[str, Tensor]]:
    """Go through the parts of a loss: one of the member's label, or ``label.part`` of each.

    Raises:
        StrategyError: there is none.
    """
    if not isinstance(loss, Mapping):
        yield member.label, loss
        return
    if not loss:
        raise StrategyError(f"{member}: compute_auxiliary_loss returned an empty mapping")
    for name, value in loss.items():
        yield f"{member.label}.{name}", value


class PerWhat:
    """Whether each loss has one value a sample or one a row, by label, as batches show.

    Where rows are not samples, a batch may by chance have as many of either. What an earlier one
    showed holds; before any did, the distiller finds it out.

    Attributes:
        known: ``"sample"``, ``"row"`` or ``"scalar"``, by label.
    """

    def __init__(self) -> None:
        self.known: dict[str, str] = {}

    def settled(self, strategy: str) -> bool:
        """Return whether it is known of a strategy's losses."""
        return any(label.partition(".")[0] == strategy for label in self.known)

    def note(self, label: str, value: object, rows: int) -> None:
        """Take note of a loss that was computed of so many rows, more than samples."""
        if isinstance(value, Tensor):
            by_row = value.shape == (rows,)
            self.known[label] = "row" if by_row else "sample" if value.ndim else "scalar"

    def rows(self, label: str, length: int, here: Counts) -> bool:
        """Return whether a vector of as many values as samples or rows has one a row."""
        if here.samples == here.rows:
            return self.known.get(label) != "sample"
        found = "row" if length == here.rows else "sample"
        self.known[label] = found
        return found == "row"


def mean(
    member: Member, label: str, value: Tensor, here: Counts, counts: Counts, per: PerWhat
) -> Tensor:
    """Divide a strategy's loss by what the whole optimizer step holds.

    Args:
        member: the strategy.
        label: of the loss.
        value: one value a sample, one a row, or a scalar.
        here: what this batch holds.
        counts: what the whole step holds.
        per: what earlier batches showed, and takes note of what this one shows.

    Returns:
        This batch's share of the step's mean, a scalar.

    Raises:
        StrategyError: the loss is no floating tensor, has no gradient, or another shape.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise StrategyError(
            f"{member}: the loss {label!r} is {kind}; return a floating tensor computed from "
            "the student's features"
        )
    if torch.is_grad_enabled() and member.weight and not value.requires_grad:
        raise StrategyError(
            f"{member}: the loss {label!r} has no gradient; it must depend on the student"
        )
    if value.ndim == 0:
        return value * (here.samples / counts.samples)
    if value.shape in ((here.samples,), (here.rows,)):
        by_row = per.rows(label, len(value), here)
        return value.sum() / max(counts.rows if by_row else counts.samples, 1)
    rows = "" if here.rows == here.samples else f", one a row [{here.rows}]"
    raise StrategyError(
        f"{member}: the loss {label!r} is {list(value.shape)}; return one value a sample "
        f"[{here.samples}]{rows}, or a scalar"
    )
