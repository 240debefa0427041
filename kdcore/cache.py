"""What teachers said of every sample, kept in memory or on disk for all runs that ask it.

Whether it is kept at all, and where, is decided here. How teachers are asked is in `asking`, how
signals are read in `listening`; the files are in `store`.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdcore.adapters import FixedAdapter
from kdcore.arrays import ArraySpec
from kdcore.asking import ROUNDING, Request, agrees, apart, ask_all, specs_of
from kdcore.catalog import own_version
from kdcore.errors import ConfigError, UserError
from kdcore.files import size_text
from kdcore.fingerprint import fingerprint_of_facts, machine_facts
from kdcore.frozen_teacher import FrozenTeacher
from kdcore.listening import (
    Arrays,
    JoinedSignals,
    KeptSignals,
    LiveSignals,
    SignalSource,
    Teachers,
    array_name,
    renamed,
)
from kdcore.processes import here
from kdcore.sections import CacheConfig
from kdcore.sharding import is_spread
from kdcore.signals import SignalKey
from kdcore.store import Slot, Store
from kdcore.taps import TapAddress
from kdcore.teachers import TEACHER, title_of


class _NeighboursError(Exception):
    """A teacher says something else of a sample when others stand beside it."""


def default_folder() -> Path:
    """Return where caches on disk are: ``$KDCORE_CACHE``, or in the user's cache folder."""
    if own := os.environ.get("KDCORE_CACHE"):
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "kdcore" / "teachers"


def open_store(config: CacheConfig) -> Store:
    """Return the store of caches on disk."""
    return Store(config.folder or default_folder(), config.disk)


@dataclass(frozen=True)
class _Held:
    """What is kept of one teacher."""

    key: str
    arrays: Arrays
    place: str
    nbytes: int


class SignalCache:
    """The signals that one process keeps for its runs, and those that others left on disk.

    Of each teacher they are kept apart: what is kept of one serves whoever asks it, beside others
    or alone.

    Args:
        config: how they are kept.
        note: told in one line what was chosen, before it is done, and what went wrong.
        shared: whether others will want the same, in processes of their own: on disk it serves
            them, too.
    """

    def __init__(
        self, config: CacheConfig, note: Callable[[str], None], *, shared: bool = False
    ) -> None:
        self._config = config
        self._shared = shared
        self._tell = note
        self._said: set[str] | None = None
        self._held: dict[str, _Held] = {}
        self._not_kept: set[str] = set()
        self._expected: dict[str, dict[SignalKey, FixedAdapter | None]] = {}
        self._copied: dict[str, set[TapAddress]] = {}
        self.asking_seconds = 0.0
        """What asking teachers for all that is kept has taken; what others asked is not in it."""

    @contextmanager
    def _asking(self) -> Iterator[None]:
        started = time.perf_counter()
        yield  # what fails is kept of nothing, and its time is nobody's
        self.asking_seconds += time.perf_counter() - started

    def say_lines_once(self) -> None:
        """Say no line again from now on: of runs that are alike, the first says it for all."""
        self._said = set()

    def _note(self, text: str) -> None:
        if self._said is not None and text in self._said:
            return
        if self._said is not None:
            self._said.add(text)
        self._tell(text)

    def expect(self, teachers: Teachers) -> None:
        """Take note of what a run that is yet to come will want, to compute it in the same pass."""
        for name, teacher in teachers.items():
            self._expected.setdefault(name, {}).update(teacher.wanted)
            self._copied.setdefault(name, set()).update(teacher.keep)

    def source(self, request: Request) -> SignalSource:
        """Decide how a training hears its teachers, and run them once where that is kept.

        Raises:
            ConfigError: keeping was asked for and cannot be done.
        """
        asked, read = dict[str, FrozenTeacher](), dict[str, FrozenTeacher]()
        arrays: dict[str, torch.Tensor] = {}
        for name, teacher in request.teachers.items():
            found = self._decided(request.of_one(name))
            (asked if found is None else read)[name] = teacher
            arrays |= found or {}
        live = LiveSignals(asked, request.batch_size, self._config.dtype)
        if not read:
            return live
        kept = KeptSignals(arrays, read, len(request.source), request.device)
        return JoinedSignals(live, kept) if asked else kept

    def _decided(self, request: Request) -> Arrays | None:
        """Return the arrays that answer a request of one teacher; None to ask it live."""
        mode, who = self._config.mode, _who(request)
        if request.absent and (mode == "off" or request.source.views is None):
            raise ConfigError(
                f"{who}'s weights are missing, so that it cannot be asked; its kept answers "
                "serve samples that are the same every epoch, and cache.mode other than 'off'"
            )
        if mode == "off":
            self._note(f"{who} runs every epoch, as asked")
            return None
        if request.source.views is None:
            if mode != "auto":
                raise ConfigError(
                    f"cache.mode = {mode!r} needs samples that are the same every epoch, or views "
                    "that come again (augment.views)"
                )
            self._note(f"{who} runs every epoch: its images are not the same every epoch")
            return None
        return self._kept(request)

    def _kept(self, request: Request) -> Arrays | None:
        """Return the arrays that answer a request, found or computed now; None to ask live."""
        facts = self._facts(request)
        key, name, who = fingerprint_of_facts(facts) if facts else "", request.name, _who(request)
        depends = f"{who} runs every epoch: what it says depends on the samples beside"
        wanted = {array_name(name, f"tap {each}") for each in request.teachers[name].wanted}
        held = self._held.get(name)
        if facts and held and held.key == key and wanted <= set(held.arrays):
            self._note(f"{who} does not run: what it says is kept already")
            return held.arrays
        if key in self._not_kept:
            self._note(depends)
            return None
        # One lot of answers a teacher: those of another seed are not asked for again.
        self._held.pop(name, None)
        widest = {name: self._widest(name, request.teachers[name])}
        live = LiveSignals(widest, request.batch_size, self._config.dtype)
        try:
            # As they are: filled up to a batch, two samples would cost a whole one.
            specs = dict(specs_of(LiveSignals(widest), request, self._config.dtype))
            nbytes = sum(spec.nbytes for spec in specs.values())
            where = "disk" if request.absent else self._where(nbytes, facts, who)
            if where == "disk":
                assert facts is not None
                arrays = self._on_disk(request, live, specs, {**facts, "base": key})
                self._held[name] = _Held(key, arrays, where, nbytes)
                return arrays
            if where == "memory":
                self._note(_said(request, nbytes, "memory"))
                place = _place(request.device, nbytes)
                arrays = {
                    each: torch.empty(spec.shape, dtype=spec.dtype, device=place)
                    for each, spec in specs.items()
                }
                with self._asking():
                    ask_all(arrays, specs, live, request)
                    self._check_place(arrays, live, request)
                self._held[name] = _Held(key, arrays if facts else {}, where, nbytes)
                return arrays
            return None
        except _NeighboursError:
            if self._config.mode != "auto":
                raise ConfigError(
                    f"what {who} says of a sample depends on the samples beside it, so that it "
                    "cannot be kept; leave cache.mode out, or set it to 'off'"
                ) from None
            self._note(depends)
            if facts:
                self._not_kept.add(key)
            return None
        finally:
            for teacher in widest.values():
                teacher.release()

    def _on_disk(
        self,
        request: Request,
        live: LiveSignals,
        specs: Mapping[str, ArraySpec],
        facts: Mapping[str, object],
    ) -> Arrays:
        # On disk a teacher has no name: whoever asks the same one may call it otherwise.
        store, specs = open_store(self._config), renamed(specs, request.name, TEACHER)
        names = sorted(specs)
        key = here().agreed(_entry_with(store, str(facts["base"]), names))
        with store.locked(key) as slot:
            arrays = self._read(slot, live, request)
            if arrays is None:
                if request.absent:
                    raise ConfigError(
                        f"{_who(request)}'s weights are missing, and what is kept of it does not "
                        f"hold all that this run wants: {', '.join(names)}"
                    )
                nbytes = sum(spec.nbytes for spec in specs.values())
                self._note(_said(request, nbytes, str(store.folder)))
                about = {**_labels(request), **facts, "arrays": names}
                nobodys: AbstractContextManager[Arrays] = nullcontext({})  # the first one writes
                building_here = slot.building(specs, about) if here().first else nobodys
                with self._asking(), building_here as building:
                    made = renamed(building, TEACHER, request.name)
                    ask_all(made, renamed(specs, TEACHER, request.name), live, request)
                    self._check_place(made, live, request)
                here().agreed(None)  # once it is written, all read it
                arrays = _opened(slot, request.name)
        return arrays

    def _read(self, slot: Slot, live: LiveSignals, request: Request) -> Arrays | None:
        """Open an entry on disk and hold it against the teachers; None where it does not serve.

        Of processes that train together the first does so for all.
        """
        processes, who = here(), _who(request)
        opened = slot.open() if processes.first else None
        there = processes.agreed(opened is not None and opened.arrays is not None)
        problem = opened.problem if opened else None
        if there:
            arrays = renamed((opened and opened.arrays) or {}, TEACHER, request.name)
            if request.absent or agrees(arrays, live, request):
                if processes.first:
                    self._note(f"{who} does not run: what it says was kept in {slot.folder}")
                return arrays if processes.first else _opened(slot, request.name)
            problem = f"{slot.folder} is not what {who} says"
            if processes.first:
                slot.remove()
        if problem:
            self._note(f"teacher cache: {problem}; {who} is asked again")
        return None

    def _facts(self, request: Request) -> dict[str, object] | None:
        """Return all that kept signals depend on, but for what is tapped; None if not known."""
        name = request.name
        fingerprint = None if request.facts is None else request.source.fingerprint_for(name)
        if fingerprint is None:
            return None
        identity = request.identities.get(name)
        return {
            **(request.facts or {}),
            "teacher": identity.fingerprint if identity else f"unknown but for its name: {name}",
            "data": fingerprint,
            "views": request.source.views,
            "batch_size": request.batch_size,
            "dtype": self._config.dtype,
            "kdcore": own_version(),
            "precision_of_signals": str(request.teachers[name].precision),
            **({"spread": True} if is_spread(request.teachers[name].model) else {}),
            **machine_facts(request.device),
        }

    def _check_place(self, arrays: Arrays, live: LiveSignals, request: Request) -> None:
        """Hold a few kept samples against what is said of them at other places of a batch.

        Raises:
            _NeighboursError: it is something else, by more than rounding.
        """
        share = apart(arrays, live, request)
        if share > ROUNDING:
            raise _NeighboursError
        if share:
            self._note(
                f"what {_who(request)} says of a sample depends on its place in the batch by "
                f"{share:.0e} of the largest: kept and live runs differ by that rounding"
            )

    def _where(self, nbytes: int, facts: Mapping[str, object] | None, who: str) -> str:
        mode = self._config.mode
        if mode == "disk" and facts is None:
            raise ConfigError("cache.mode = 'disk' needs data and teachers with a fingerprint")
        if mode != "auto":
            return mode
        taken = dict.fromkeys(("memory", "disk"), 0)
        for held in self._held.values():  # of the other teachers
            taken[held.place] += held.nbytes
        fits_on_disk = facts is not None and nbytes <= self._config.disk - taken["disk"]
        fits_in_memory = nbytes <= self._config.memory - taken["memory"]
        if fits_on_disk and (self._shared or not fits_in_memory):
            return "disk"
        if fits_in_memory:
            return "memory"
        self._note(
            f"{who} runs every epoch: what it says takes {size_text(nbytes)}, more than "
            "cache.memory and cache.disk allow"
        )
        return "live"

    def _widest(self, name: str, teacher: FrozenTeacher) -> FrozenTeacher:
        """Return the teacher again, asked for what other runs will want as well."""
        wanted = {**teacher.wanted, **self._expected.get(name, {})}
        copied = teacher.keep | self._copied.get(name, set())
        return FrozenTeacher(
            teacher.model, wanted, teacher.where, copied, teacher.precision, teacher.execution
        )


def answers_for(config: CacheConfig, wanted: Mapping[str, object]) -> Mapping[str, Any] | None:
    """Return the facts of the latest entry on disk that has these among them, if there is one.

    Raises:
        ConfigError: there are several, of different teachers.
    """
    if config.mode == "off":
        return None
    found: Mapping[str, Any] | None = None
    for entry in open_store(config).entries():
        if any(entry.facts.get(name) != value for name, value in wanted.items()):
            continue
        if found is not None and found.get("teacher") != entry.facts.get("teacher"):
            raise ConfigError(
                f"{wanted.get('weights')} is missing, and answers of several teachers that were "
                "there are kept; put the file back, or remove the others (kdcore cache clear)"
            )
        found = entry.facts
    return found


def _opened(slot: Slot, name: str) -> Arrays:
    """Open an entry that another process has checked, or has just written.

    Raises:
        UserError: it is not there.
    """
    opened = slot.open().arrays
    if opened is None:
        raise UserError(
            f"{slot.folder} is not there, or not whole: several processes need a folder of caches "
            "that all of them see (cache.folder)"
        )
    return renamed(opened, TEACHER, name)


def _entry_with(store: Store, base: str, names: Sequence[str]) -> str:
    """Return the key of an entry that holds these arrays, others beside them or not."""
    for entry in store.entries():
        arrays = entry.facts.get("arrays")
        if entry.facts.get("base") != base or not isinstance(arrays, list):
            continue
        if set(names) <= set(arrays):
            return entry.key
    return fingerprint_of_facts({"base": base, "arrays": list(names)})


def _place(device: torch.device, nbytes: int) -> torch.device:
    """Return the device itself where that leaves half of what is free there, else the CPU."""
    if device.type == "cuda" and nbytes <= torch.cuda.mem_get_info(device)[0] // 2:
        return device
    return torch.device("cpu")


def _who(request: Request) -> str:
    """Return what a request's one teacher is called in a sentence."""
    return "the teacher" if request.name == TEACHER else title_of(request.name)


def _labels(request: Request) -> Mapping[str, object]:
    identity = request.identities.get(request.name)
    return {"name": request.name, **(identity.labels if identity else {})}


def _said(request: Request, nbytes: int, place: str) -> str:
    views = request.source.views or 1
    passes = "runs once" if views == 1 else f"runs {views} times, once a view"
    return f"{_who(request)} {passes}; what it says is kept in {place}: {size_text(nbytes)}"
