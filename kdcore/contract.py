"""What hooks receive and what they return; `hookspecs` says when.

These are the words in which a method and the core talk; memory alone does something, when its
writes take effect.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from kdcore.errors import NoLogitsError, StrategyError, unknown
from kdcore.processes import Processes, here

T = TypeVar("T")


class ByRole(Mapping[str, T], Generic[T]):
    """Something of one model for each role that a strategy tapped, and for the logits.

    ``features["hint"]`` is the value of a role that looks at one tap, ``features.all("maps")``
    the values of one that looks at several, in their order.
    """

    def __init__(self, roles: Mapping[str, tuple[T, ...]], logits: T | None) -> None:
        self._roles = dict(roles)
        self._logits = logits

    def __getitem__(self, role: str) -> T:
        values = self.all(role)
        if len(values) != 1:
            raise StrategyError(
                f"role {role!r} has {len(values)} taps; read them with .all({role!r})"
            )
        return values[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._roles)

    def __len__(self) -> int:
        return len(self._roles)

    def all(self, role: str) -> tuple[T, ...]:
        """Return the values of every tap of one role."""
        if role not in self._roles:
            remedy = "; return its tap from extract_features" if not self._roles else ""
            raise StrategyError(unknown("role", role, self._roles) + remedy)
        return self._roles[role]

    def tensors(self) -> list[T]:
        """Return every value, that of the logits included where there is one."""
        values = [value for role in self._roles.values() for value in role]
        return values if self._logits is None else [*values, self._logits]

    @property
    def logits(self) -> T:
        """The model's predictions before softmax, ``[rows, classes]``."""
        if self._logits is None:
            raise NoLogitsError(
                "this model's output holds no logits (a tensor, a tuple that begins with one, "
                "or an object with .logits)"
            )
        return self._logits


Features = ByRole[Tensor]
"""Adapted activations of one batch, float32 (float64 for a float64 student), by role."""

Shapes = ByRole[torch.Size]
"""Shapes of the activations of one small batch, batch dimension first, by role."""


AuxiliaryLoss = Tensor | Mapping[str, Tensor]
"""What a strategy's loss may be: a vector, a scalar, or either by name."""

TapLike = str | Sequence[str]
"""The address of one tap, or those of several: see `kdcore.taps`."""


@dataclass(frozen=True)
class Taps:
    """The places whose activations a strategy needs, by role; what `extract_features` returns.

    A role of several taps holds a sequence of addresses, or ``auto("stages")``.
    """

    student: Mapping[str, TapLike] = field(default_factory=dict)
    teacher: Mapping[str, TapLike] = field(default_factory=dict)


ModuleLike = nn.Module | Sequence[nn.Module]


@dataclass(frozen=True)
class Adapters:
    """What a strategy puts between activations and its loss; what `adapt_shapes` returns.

    Attributes:
        student: by role, the module (or one a tap) that the student's activation goes through.
        teacher: the same for the teacher's.
        modules: the loss's own trained parts, by name.
        state: memory that is saved and resumed, but is no parameter, by name.
    """

    student: Mapping[str, ModuleLike] = field(default_factory=dict)
    teacher: Mapping[str, ModuleLike] = field(default_factory=dict)
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    state: Mapping[str, Tensor] = field(default_factory=dict)


class Setup:
    """What is known before training. Reading what is not known is an error that says so.

    Args:
        sample_count: how many samples there are to train on; their indices are below it.
        class_count: how many classes the task has.
        targets: the training targets by sample index, ``int64 [samples]``, -100 for no label; of
            other tasks than classification as the task has them.
        task: what the student is for: ``"classification"``, ``"regression"``, ...
    """

    def __init__(
        self,
        *,
        sample_count: int | None = None,
        class_count: int | None = None,
        targets: Tensor | None = None,
        task: str | None = None,
    ) -> None:
        self._sample_count = len(targets) if sample_count is None and targets is not None else None
        if sample_count is not None:
            self._sample_count = sample_count
        self._class_count = class_count
        self._targets = targets
        self._task = task

    @property
    def task(self) -> str:
        """What the student is for, by the name that experiment files have for it."""
        return self._known("task", self._task)

    @property
    def sample_count(self) -> int:
        """How many samples there are to train on."""
        return self._known("sample_count", self._sample_count)

    @property
    def class_count(self) -> int:
        """How many classes the task has."""
        return self._known("class_count", self._class_count)

    @property
    def targets(self) -> Tensor:
        """The training targets by sample index, as the task has them."""
        return self._known("targets", self._targets)

    def with_class_count(self, class_count: int | None) -> "Setup":
        """Return the same, with a class count where none was known."""
        known = self._class_count
        return self._but(class_count=class_count if known is None else known)

    def with_task(self, task: str) -> "Setup":
        """Return the same, of a task."""
        return self._but(task=task)

    def to(self, device: torch.device) -> "Setup":
        """Return the same, with the targets on a device."""
        return self._but(targets=None if self._targets is None else self._targets.to(device))

    def _but(self, **changed: Any) -> "Setup":
        known = {
            "sample_count": self._sample_count,
            "class_count": self._class_count,
            "targets": self._targets,
            "task": self._task,
        }
        return Setup(**{**known, **changed})

    @staticmethod
    def _known(name: str, value: T | None) -> T:
        if value is None:
            raise StrategyError(
                f"needs setup.{name}, which is not known: "
                f"pass setup=kdcore.Setup({name}=...) to the distiller"
            )
        return value


class State(Mapping[str, Tensor]):
    """A strategy's memory: read as it was after the last optimizer step, written for the next.

    Writes are collected and take effect together when the optimizer has stepped, so that all
    micro-batches of a step read the same memory.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        self._versions = self._current_versions()
        self._writes: list[tuple[str, Tensor, Tensor | None]] = []
        self._rows = dict.fromkeys(self._tensors, 0)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._tensors:
            raise StrategyError(unknown("state", name, self._tensors))
        return self._tensors[name]

    def __setitem__(self, name: str, value: Tensor) -> None:
        raise StrategyError(f"state is handed back: state.write({name!r}, value), at=rows for some")

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def write(self, name: str, value: Tensor, at: Tensor | None = None) -> None:
        """Hand back a new value, of the whole tensor or of some of its rows.

        Args:
            name: which tensor of `Adapters.state`.
            value: the whole tensor's shape, or ``[rows, ...]`` with `at`.
            at: ``int64 [rows]``; of a row that is written twice in a step the last value stays.
        """
        current = self[name]
        expected = current.shape if at is None else (len(at), *current.shape[1:])
        if tuple(value.shape) != tuple(expected):
            raise StrategyError(
                f"state {name!r} takes {list(expected)} here, was given {list(value.shape)}"
            )
        self._writes.append((name, value.detach().to(current.dtype, copy=True), at))
        self._rows[name] += 0 if at is None else len(at)
        if current.ndim and self._rows[name] > max(2 * len(current), 1_000_000):
            raise StrategyError(
                f"state {name!r} has {self._rows[name]} rows waiting to be written: call "
                "distiller.advance() after each optimizer step"
            )

    def commit(self) -> None:
        """Make the writes that were handed back since the last commit the memory.

        Where several processes train together, the writes of all, so that the memory is the same
        in each.

        Raises:
            StrategyError: a tensor was changed in place, which micro-batches would have seen; or
                processes wrote a whole tensor each in its own way.
        """
        for name, version in self._current_versions().items():
            if version != self._versions[name]:
                raise StrategyError(
                    f"state {name!r} was changed in place; hand it back: state.write({name!r}, ...)"
                )
        for name, value, at in self._of_all(here()):
            if at is None:
                self._tensors[name] = value
            else:
                self._tensors[name][at] = value[_last(at, len(self._tensors[name]))]
        self._versions = self._current_versions()
        self.discard()

    def _of_all(self, processes: Processes) -> list[tuple[str, Tensor, Tensor | None]]:
        """Return the writes of all processes, those of this one where it is alone."""
        if processes.count == 1:
            return self._writes
        written: list[tuple[str, Tensor, Tensor | None]] = []
        for name, tensor in self._tensors.items():
            own = [(value, at) for each, value, at in self._writes if each == name]
            whole = [value for value, at in own if at is None]
            if processes.any(bool(whole)):
                written.append((name, _the_same(name, whole, processes), None))
            if tensor.ndim:
                rows = [(value, at) for value, at in own if at is not None]
                nowhere = torch.zeros(0, dtype=torch.int64, device=tensor.device)
                values = torch.cat([tensor[:0], *(value for value, _ in rows)])
                at = processes.rows(torch.cat([nowhere, *(place for _, place in rows)]))
                written.append((name, processes.rows(values), at))
        return written

    def _current_versions(self) -> dict[str, int]:
        return {name: tensor._version for name, tensor in self._tensors.items()}

    @property
    def waiting(self) -> int:
        """How many writes wait to be committed."""
        return len(self._writes)

    def discard(self, since: int = 0) -> None:
        """Forget the writes that wait, but for the first so many: their step is not taken."""
        del self._writes[since:]
        self._rows = dict.fromkeys(self._tensors, 0)
        for name, _, at in self._writes:
            self._rows[name] += 0 if at is None else len(at)

    def discard_rows(self) -> None:
        """Forget the rows that wait to be written; whole tensors, which all write alike, stay."""
        self._writes = [write for write in self._writes if write[2] is None]
        self._rows = dict.fromkeys(self._tensors, 0)

    def move(self, device: torch.device, precision: torch.dtype = torch.float32) -> None:
        """Place the memory on a device, floating-point numbers in the precision of features."""
        self._tensors = {
            name: tensor.to(device, precision if tensor.is_floating_point() else None)
            for name, tensor in self._tensors.items()
        }
        self._versions = self._current_versions()

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace the memory by what was saved from one of the same names and shapes."""
        if set(tensors) != set(self._tensors):
            raise StrategyError(
                f"saved state holds {sorted(tensors)}, expected {sorted(self._tensors)}"
            )
        for name, tensor in tensors.items():
            if tensor.shape != self._tensors[name].shape:
                raise StrategyError(
                    f"saved state {name!r} is {list(tensor.shape)}, "
                    f"expected {list(self._tensors[name].shape)}"
                )
        self._tensors = {
            name: tensor.detach().to(self._tensors[name], copy=True)
            for name, tensor in tensors.items()
        }
        self._versions = self._current_versions()
        self.discard()


def _the_same(name: str, whole: Sequence[Tensor], processes: Processes) -> Tensor:
    """Return the last value of a whole tensor, which every process must have written alike."""
    first, *others = processes.all(whole[-1].cpu() if whole else None)
    if first is None or any(each is None or not torch.equal(each, first) for each in others):
        raise StrategyError(
            f"state {name!r} was written as a whole by {processes.count} processes, each from its "
            "own share of the batch: write rows (at=...), or make the value of all samples "
            "(kdcore.gathered)"
        )
    return whole[-1]


def _last(at: Tensor, rows: int) -> Tensor:
    """Return, for each entry of ``int64 [entries]``, the last one that writes to the same row."""
    positions = torch.arange(len(at), device=at.device)
    # Without a round trip to the host: a row that is written twice is written twice alike.
    winner = torch.zeros(rows, dtype=torch.int64, device=at.device)
    return winner.scatter_reduce(0, at, positions, "amax")[at]
