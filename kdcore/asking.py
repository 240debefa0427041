"""Asking teachers once for every sample and view, and holding what is kept against what they say.

Whether that is done, and where the arrays are, is decided in `cache`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

import torch
from torch import Tensor

from kdcore.arrays import ArraySpec
from kdcore.data.source import Batch, Source, gathered
from kdcore.listening import Arrays, LiveSignals, Teachers, array_name, stored
from kdcore.processes import here

CHECKED_SAMPLES = 8
"""So many samples are computed anew when a cache on disk is opened, and compared."""

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 5e-3, torch.bfloat16: 3e-2}
"""How far they may be from what is kept, as a share of its largest value: another processor's
rounding is allowed for, another teacher is not."""

ROUNDING = 1e-5
"""What a sample's place in a batch may change in a signal, as a share of its largest value."""


@dataclass(frozen=True)
class Identity:
    """Who a teacher is, and by what else its answers shall be found again.

    Attributes:
        fingerprint: hash of its weights and of what it computes.
        labels: facts beside it that are no part of the key of its answers.
        absent: whether its weights are missing, so that it cannot be asked.
    """

    fingerprint: str
    labels: Mapping[str, object] = field(default_factory=dict)
    absent: bool = False


@dataclass(frozen=True)
class Request:
    """What a training wants of its teachers.

    Attributes:
        teachers: the teachers by name, with what the training wants of each.
        source: what will be learned from.
        batch_size: samples that the teachers are given at a time, live or kept.
        device: of the training.
        facts: what else the signals of all teachers depend on; None where that is not known, so
            that nothing can be kept beyond this training.
        identities: who the teachers are, by name, as far as the facts do not say it.
    """

    teachers: Teachers
    source: Source
    batch_size: int
    device: torch.device
    facts: Mapping[str, object] | None = None
    identities: Mapping[str, Identity] = field(default_factory=dict)

    def of_one(self, name: str) -> "Request":
        """Return what it wants of one teacher."""
        identities = {each: who for each, who in self.identities.items() if each == name}
        source = self.source.for_teachers([name])
        one = {name: self.teachers[name]}
        return replace(self, teachers=one, source=source, identities=identities)

    @property
    def name(self) -> str:
        """The teacher's name, where it is of one."""
        (name,) = self.teachers
        return name

    @property
    def absent(self) -> bool:
        """Whether a teacher cannot be asked."""
        return any(identity.absent for identity in self.identities.values())

    @property
    def rows(self) -> int:
        """Samples times views: the rows that are kept of each signal."""
        return (self.source.views or 0) * len(self.source)

    def batches(self) -> Iterator[tuple[Tensor, int]]:
        """Go through all views of all samples: the samples of each batch, and its view."""
        for view in range(self.source.views or 0):
            for indices in torch.split(torch.arange(len(self.source)), self.batch_size):
                yield indices, view


def specs_of(live: LiveSignals, request: Request, dtype: str) -> Iterator[tuple[str, ArraySpec]]:
    """Say what the arrays of all rows are like, by name, from two samples."""
    # As when models are probed: some models refuse one.
    some = torch.arange(min(2, len(request.source)))
    first = request.source.batch(some).to(request.device)
    for name, heard in live.signals(first).items():
        for signal, tensor in heard.named():
            kept = tensor.dtype
            if tensor.is_floating_point() and dtype != "float32":
                kept = getattr(torch, dtype)
            shape = (request.rows, *stored(tensor).shape[1:])
            yield array_name(name, signal), ArraySpec(shape, kept)


def ask_all(
    arrays: Arrays, specs: Mapping[str, ArraySpec], live: LiveSignals, request: Request
) -> None:
    """Have the teachers say everything once, into arrays of all rows.

    Of processes that train together each asks for its share of the batches, and tells the others.

    Args:
        arrays: what is written; empty in a process that keeps nothing itself.
        specs: what the arrays are like, by name.
        live: the teachers.
        request: what is wanted of them.
    """
    processes, rest = here(), request.batches()
    while shared := list(islice(rest, processes.count)):
        # Also where there are fewer batches than processes: all ask equally often, which a teacher
        # that is spread over them needs.
        mine = shared[min(processes.rank, len(shared) - 1)]
        said = dict(_said(live, gathered(request.source, *mine), request))
        for owner, (indices, view) in enumerate(shared):
            first = int(indices[0]) + view * len(request.source)
            for name, spec in specs.items():
                values = said.get(name) if owner == processes.rank else None
                if values is None:
                    shape = (len(indices), *spec.shape[1:])
                    values = torch.empty(shape, dtype=spec.dtype, device=request.device)
                values = values.to(spec.dtype)
                processes.copy_from(owner, [values])
                if arrays:
                    arrays[name][first : first + len(indices)] = values.to(arrays[name].device)


def _said(live: LiveSignals, batch: Batch, request: Request) -> Iterator[tuple[str, Tensor]]:
    for name, heard in live.signals(batch.to(request.device)).items():
        for signal, tensor in heard.named():
            yield array_name(name, signal), stored(tensor)


def apart(arrays: Arrays, live: LiveSignals, request: Request) -> float:
    """Return by what share of its largest value a signal changes with place and neighbours.

    Of processes that train together the first finds that out, and all ask.
    """
    count = len(request.source)
    size = min(request.batch_size, count)
    if size < 2:
        return 0.0
    order = torch.arange(count)
    half = size // 2 + 1
    moved = torch.cat([order[:half].flip(0), order[half:].flip(0)])[:size]
    batch = gathered(request.source, moved, 0).to(request.device)
    worst = 0.0
    for name, heard in live.signals(batch).items():
        for signal, tensor in heard.named():
            array = arrays.get(array_name(name, signal))
            if array is None:  # this process keeps nothing itself
                continue
            kept = array[moved.to(array.device)].double().cpu()
            now = stored(tensor).double().cpu()
            largest = float(kept.abs().max())
            worst = max(worst, float((kept - now).abs().max()) / (largest or 1.0))
    return here().agreed(worst)


def agrees(arrays: Arrays, live: LiveSignals, request: Request) -> bool:
    """Return whether a few samples, computed anew, are what is kept of them.

    Of processes that train together the first finds that out, and all ask.
    """
    return here().agreed(_agrees(arrays, live, request))


def _agrees(arrays: Arrays, live: LiveSignals, request: Request) -> bool:
    count = len(request.source)
    indices = torch.linspace(0, count - 1, min(CHECKED_SAMPLES, count)).long()
    view = (request.source.views or 1) - 1
    batch = gathered(request.source, indices, view).to(request.device)
    for name, heard in live.signals(batch).items():
        for signal, tensor in heard.named():
            array = arrays.get(array_name(name, signal))
            if array is None or array.shape != (request.rows, *stored(tensor).shape[1:]):
                return False
            kept, now = array[indices + view * count].double(), stored(tensor).cpu().double()
            allowed = TOLERANCE.get(array.dtype, 0.0) * float(kept.abs().max())
            if not bool((kept - now).abs().le(allowed).all()):
                return False
    return True
