"""Arrays on disk by key, whole or not there at all: the folders, their locks, and their limit.

It knows names and keys: what the arrays mean, and what makes a key, is known elsewhere, and the
files of the arrays are in `kdcore.arrays`. Nothing that it reads is run. An entry is used as
follows, by as many processes as like::

    with store.locked(key) as slot:
        opened = slot.open()
        if opened.arrays is None:
            with slot.building(specs, facts) as arrays:
                arrays["logits"][rows] = ...
            opened = slot.open()
"""

import errno
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor

from kdcore.arrays import (
    ArraySpec,
    DamagedError,
    allocate_arrays,
    bytes_in,
    finish_arrays,
    map_to_write,
    read_arrays,
    require_file,
)
from kdcore.errors import ConfigError, UserError
from kdcore.files import ASK_AGAIN, held_for_all, read_json, write_json

FORMAT = 1
"""The version of what lies on disk; entries of another are built again."""

_KEY = re.compile(r"[0-9a-f]{1,128}")
# A folder of the user's own may have a name of such letters, `2024` say: an entry's has more.
_ENTRY = re.compile(rf"({_KEY.pattern})\.arrays")
_TEMPORARY = re.compile(rf"\.({_KEY.pattern})\.temporary-[0-9a-f]{{32}}")
_MANIFEST = "manifest.json"
_LOCKS = ".locks"
_SPACE = "space"  # the lock of what is there at all; no key, for its letters


@dataclass(frozen=True)
class Opened:
    """What was found of a key.

    Args:
        arrays: tensors by name, or None where there is no entry. What is written to them stays in
            this process.
        facts: what was said of the entry when it was built.
        problem: why an entry that was there could not be used and has been removed.
    """

    arrays: Mapping[str, Tensor] | None
    facts: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True)
class Entry:
    """An entry as it is listed, its arrays not read.

    Args:
        key: its key.
        facts: what was said of it when it was built.
        nbytes: bytes that its arrays take on disk.
        last_used: when it was last built or opened, in UTC.
    """

    key: str
    facts: Mapping[str, Any]
    nbytes: int
    last_used: datetime


class Store:
    """A folder of entries, each some arrays under a key.

    Args:
        folder: where they lie; it is created when it is first needed.
        limit_bytes: what the arrays of all entries may take together.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes

    @contextmanager
    def locked(self, key: str) -> Iterator["Slot"]:
        """Keep a key to oneself, waiting for whoever has it; one who died has it no more.

        Of processes that train together the first has it for all.

        Args:
            key: hexadecimal digits, in lower case, at most 128.

        Raises:
            UserError: the key is no key, or the folder cannot be used.
        """
        with _in_one_line(f"cannot use {self.folder} to keep arrays"):
            lock = self._lock(_checked(key))
            while not held_for_all(lock, ASK_AGAIN):
                pass
        try:
            yield Slot(self, key)
        finally:
            lock.release()

    def entries(self) -> list[Entry]:
        """List the entries, the one used longest ago first; what is no entry is left out.

        Raises:
            UserError: the folder cannot be used.
        """
        found = []
        for key, path in self._stored():
            with suppress(DamagedError, OSError):  # OSError: removed since by another process
                facts, _ = _read_manifest(path, key)
                used = datetime.fromtimestamp(path.stat().st_mtime, UTC)
                found.append(Entry(key, facts, bytes_in(path), used))
        return found

    def clear(self, keys: Collection[str] | None = None) -> int:
        """Remove entries, and what builders that were killed have left.

        Args:
            keys: whose; None for all. Keys without an entry are passed over.

        Returns:
            Bytes of arrays that were freed.

        Raises:
            UserError: a key is no key, or the folder cannot be used.
        """
        chosen = None if keys is None else {_checked(key) for key in keys}
        with _in_one_line(f"cannot clear {self.folder}"):
            if not self.folder.exists():
                return 0
        with self._holding(_SPACE), _in_one_line(f"cannot clear {self.folder}"):
            freed = self._sweep()
            for key, path in self._stored():
                if chosen is None or key in chosen:
                    freed += _remove(path, key)
        return freed

    @contextmanager
    def _holding(self, name: str, timeout: float = -1) -> Iterator[None]:
        """Hold a lock; its file stays, as removing it could leave two holders."""
        with _in_one_line(f"cannot use {self.folder} to keep arrays"):
            lock = self._lock(name)
            lock.acquire(timeout)
        try:
            yield
        finally:
            lock.release()

    def _lock(self, name: str) -> FileLock:
        (self.folder / _LOCKS).mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / _LOCKS / name)

    def _named(self, pattern: re.Pattern[str]) -> list[tuple[str, Path]]:
        """Return the keys and paths whose name is of a form."""
        with _in_one_line(f"cannot list {self.folder}"):
            paths = list(self.folder.iterdir()) if self.folder.exists() else []
        return [(match[1], path) for path in paths if (match := pattern.fullmatch(path.name))]

    def _stored(self) -> list[tuple[str, Path]]:
        """Return keys and paths of what has an entry's name, the one used longest ago first."""
        times = {}
        for key, path in self._named(_ENTRY):
            with suppress(OSError):  # removed since by another process
                times[key, path] = path.lstat().st_mtime_ns
        return sorted(times, key=lambda pair: (times[pair], pair))

    def _sweep(self, own: str | None = None) -> int:
        """Remove the temporary folders that nobody works in; the lock of space is held."""
        freed = 0
        for key, path in self._named(_TEMPORARY):
            unused = nullcontext() if key == own else self._holding(key, timeout=0)
            with suppress(Timeout), unused:
                freed += bytes_in(path)
                _delete(path)
        return freed

    def _reserve(self, temporary: Path, key: str, specs: Mapping[str, ArraySpec]) -> None:
        """Make a temporary folder that has the files of the arrays, their space theirs."""
        needed = sum(spec.nbytes for spec in specs.values())
        with self._holding(_SPACE):
            self._sweep(own=key)
            self._make_room(needed)
            with _in_one_line(f"cannot write {needed:,} bytes to {self.folder}"):
                allocate_arrays(temporary, specs)

    def _make_room(self, needed: int) -> None:
        """Remove the entries used longest ago; those being built, which nothing may remove, count.

        Raises:
            ConfigError: the limit, or what is being built, leaves too little.
        """
        building = sum(bytes_in(path) for _, path in self._named(_TEMPORARY))
        if building + needed > self.limit_bytes:
            others = f", and other processes are writing {building:,} of them now"
            raise ConfigError(
                f"{needed:,} bytes of arrays do not fit in {self.folder}: its limit is "
                f"{self.limit_bytes:,} bytes{others if building else ''}; raise the limit, or "
                "keep less"
            )
        stored = self._stored()
        total = building + needed + sum(bytes_in(path) for _, path in stored)
        for key, path in stored:
            if total <= self.limit_bytes:
                return
            with _in_one_line(f"cannot make room in {self.folder}"):
                total -= _remove(path, key)


class Slot:
    """The place of one key, for as long as `Store.locked` keeps it."""

    def __init__(self, store: Store, key: str) -> None:
        self._store = store
        self._key = key
        self._path = store.folder / f"{key}.arrays"
        self._built_here = False

    @property
    def folder(self) -> Path:
        """Where the entry is, or would be."""
        return self._path

    def remove(self) -> None:
        """Remove the entry, where there is one.

        Raises:
            UserError: it cannot be removed.
        """
        with _in_one_line(f"cannot remove {self._path}"):
            _remove(self._path, self._key)

    def open(self) -> Opened:
        """Read the entry and count it as used now.

        Every byte of it is verified, unless it was built in this slot, which took the hashes. An
        entry that is not as it was written is removed.

        Raises:
            UserError: it cannot be removed, or is more than can be mapped into memory.
        """
        if not os.path.lexists(self._path):
            return Opened(None)
        try:
            facts, records = _read_manifest(self._path, self._key)
            arrays = read_arrays(self._path, records, verify=not self._built_here)
        except (DamagedError, OSError) as error:
            if not os.path.lexists(self._path):  # another process made room
                return Opened(None)
            reason = str(error)
            if isinstance(error, OSError):
                reason = f"it cannot be read: {error.strerror}"
            with _in_one_line(f"cannot remove {self._path}, of which {reason}"):
                _remove(self._path, self._key)
            return Opened(None, problem=f"{self._path} was removed: {reason}")
        with suppress(OSError):  # another process made room, or it is another user's
            _mark_used(self._path)
        return Opened(arrays, facts)

    @contextmanager
    def building(
        self, specs: Mapping[str, ArraySpec], facts: Mapping[str, object]
    ) -> Iterator[Mapping[str, Tensor]]:
        """Fill a new entry: it is there when the block has ended, and not if the block raises.

        Where there is an entry already, that one stays.

        Args:
            specs: the arrays by name.
            facts: what is to be known of the entry, as JSON has it.

        Yields:
            Tensors by name, all zeros, to be written to within the block and not after it.

        Raises:
            ConfigError: the arrays are more than the limit allows.
            UserError: there is no space, or the folder cannot be used.
        """
        known = json.loads(json.dumps(dict(facts), allow_nan=False))
        temporary = self._store.folder / _temporary_name(self._key)
        try:
            self._store._reserve(temporary, self._key, specs)
            yield map_to_write(temporary, specs)
            with _in_one_line(f"cannot write to {self._store.folder}"):
                arrays = finish_arrays(temporary, specs)
                manifest = {"format": FORMAT, "key": self._key, "facts": known, "arrays": arrays}
                write_json(temporary / _MANIFEST, manifest | {"sha256": _digest(manifest)})
                _mark_used(temporary)
                self._built_here = _publish(temporary, self._path)
        finally:
            _delete(temporary)


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise UserError(f"{key!r} is no key: 1 to 128 of the letters 0-9 and a-f are one")
    return key


@contextmanager
def _in_one_line(failure: str) -> Iterator[None]:
    try:
        yield
    except Timeout:  # an OSError too, but no failure: the lock is another's
        raise
    except OSError as error:
        advice = "free some space, or choose another folder"
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            advice = "choose a folder that can be written to"
        raise UserError(f"{failure}: {error.strerror or error}; {advice}") from None


def _temporary_name(key: str) -> str:
    return f".{key}.temporary-{uuid.uuid4().hex}"


def _digest(manifest: Mapping[str, object]) -> str:
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest).encode()).hexdigest()


def _publish(temporary: Path, path: Path) -> bool:
    """Give an entry its name, unless there is one already; return whether it has it."""
    try:
        temporary.rename(path)
    except OSError as error:
        # As where a network's file system keeps no locks.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _read_manifest(path: Path, key: str) -> tuple[dict[str, Any], Any]:
    """Return an entry's facts, and what is said of its arrays."""
    if path.is_symlink() or not path.is_dir():
        raise DamagedError("it is no folder")
    require_file(path / _MANIFEST)
    try:
        manifest = read_json(path / _MANIFEST)
        if manifest["format"] != FORMAT:
            raise DamagedError(f"its format is {manifest['format']!r}, not {FORMAT}")
        if manifest["sha256"] != _digest(manifest) or manifest["key"] != key:
            raise DamagedError("its manifest is not as it was written")
        return dict(manifest["facts"]), manifest["arrays"]
    except (KeyError, TypeError, ValueError, RecursionError):
        raise DamagedError("its manifest is none, or is not whole") from None


def _mark_used(path: Path) -> None:
    # The clock of the file system itself is too coarse to order what follows at once.
    now = time.time_ns()
    os.utime(path, ns=(now, now))


def _remove(path: Path, key: str) -> int:
    """Take an entry's name away in one step, then its files; return the bytes of its arrays."""
    away = path.with_name(_temporary_name(key))
    try:
        path.rename(away)
    except FileNotFoundError:  # another process was faster
        return 0
    freed = 0 if away.is_symlink() else bytes_in(away)
    _delete(away)
    return freed


def _delete(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)
