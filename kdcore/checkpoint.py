"""Checkpoints: folders that appear whole or not at all, and are held against their manifest.

A checkpoint is a folder of JSON and safetensors files beside others of its kind. It is written
beside its final name, flushed to disk, and then renamed; its manifest has the size and the hash of
each file. Reading it runs nothing. What is in it is the trainer's to say, when one is made in
`saving`.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch

from kdcore.errors import FULL, ModelError, ResumeError, RunError
from kdcore.files import size_text, write_bytes
from kdcore.snapshot import join, split

FORMAT = 1
MANIFEST = "manifest.json"
LATEST = "LATEST"
UNFINISHED = ".unfinished-"

_NAME = re.compile(r"(\d{6,})-step-\d+")
_MEMBER = re.compile(r"[a-z]+\.(json|safetensors)")


class DamagedError(Exception):
    """A checkpoint is not what was saved; the message says in what."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        folder: where it is.
        parts: by name, as they were handed over.
    """

    folder: Path
    parts: Mapping[str, Any]


class Checkpoints:
    """The checkpoints of one training, the newest of which are kept.

    Args:
        folder: where they are; made when the first is saved.
        keep: how many.
        note: hears, in a line, of what is damaged.
    """

    def __init__(
        self, folder: Path, keep: int = 2, note: Callable[[str], None] = lambda _: None
    ) -> None:
        self.folder = folder
        self._keep = keep
        self._note = note

    def save(self, step: int, parts: Mapping[str, object]) -> Path:
        """Write a checkpoint, then forget the oldest ones.

        Args:
            step: optimizer steps taken; names it.
            parts: values as `snapshot.split` takes them, by lower-case names.

        Raises:
            RunError: it cannot be written; those before it are as they were.
            ModelError: a part holds what is no value, such as a module's extra state.
        """
        free = 0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            final = self.folder / self._next_name(step)
            unfinished = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=self.folder))
            try:
                listed = dict(_written(unfinished, parts))
                write_bytes(unfinished / MANIFEST, _manifest(listed))
                _flush(unfinished)
                unfinished.rename(final)
                _flush(self.folder)
            except BaseException:
                free = shutil.disk_usage(unfinished).free
                shutil.rmtree(unfinished, ignore_errors=True)
                raise
            write_bytes(self.folder / LATEST, f"{final.name}\n".encode())
        except OSError as error:
            raise RunError(_unwritten(self.folder, parts, error, free)) from None
        except TypeError as error:
            raise ModelError(f"a checkpoint cannot hold all of the training: {error}") from error
        for old in self._saved()[self._keep :]:
            shutil.rmtree(old, ignore_errors=True)
        return final

    def load(self) -> Checkpoint | None:
        """Return the newest checkpoint that is whole; None where there is none.

        Those that are newer and damaged are named.

        Raises:
            ResumeError: the newest is of a newer kdcore.
        """
        self._sweep()
        for folder in self._saved():
            try:
                return Checkpoint(folder, _read(folder))
            except DamagedError as error:
                self._note(f"checkpoint {folder} is damaged ({error}): it is not used")
        return None

    def clear(self) -> None:
        """Remove all of them."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _next_name(self, step: int) -> str:
        """Return a name after all that are there, so that none of them has to make room first."""
        newest = next(iter(self._saved()), None)
        serial = 0 if newest is None else _serial(newest) + 1
        return f"{serial:06d}-step-{step}"

    def _saved(self) -> list[Path]:
        """Return the folders that have a checkpoint's name, the newest first."""
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        named = [path for path in found if _NAME.fullmatch(path.name) and not path.is_symlink()]
        return sorted(named, key=_serial, reverse=True)

    def _sweep(self) -> None:
        """Remove what was being written when its process died."""
        for path in self.folder.glob(f"{UNFINISHED}*"):
            shutil.rmtree(path, ignore_errors=True)


def _serial(folder: Path) -> int:
    return int(folder.name.partition("-")[0])


def _written(folder: Path, parts: Mapping[str, object]) -> Iterator[tuple[str, dict[str, object]]]:
    """Write the files of each part, one in memory at a time; say what each is."""
    for name, value in parts.items():
        tree, tensors = split(value)
        kept = {key: tensor.cpu().contiguous().clone() for key, tensor in tensors.items()}
        for file, encode in (
            (f"{name}.json", lambda tree=tree: json.dumps(tree, allow_nan=False).encode()),
            (f"{name}.safetensors", lambda kept=kept: safetensors.torch.save(kept)),
        ):
            data = encode()  # type: ignore[no-untyped-call]  # a lambda with a default
            write_bytes(folder / file, data)
            yield file, _facts(data)


def _facts(data: bytes) -> dict[str, object]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _manifest(listed: Mapping[str, object]) -> bytes:
    whole = {"format": FORMAT, "files": listed, "sha256": _digest(listed)}
    return json.dumps(whole, indent=2).encode()


def _digest(listed: object) -> str:
    return hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()


def _read(folder: Path) -> dict[str, Any]:
    """Read a checkpoint's parts.

    Raises:
        DamagedError: it is not what was saved.
    """
    listed = _listed(folder)
    found = {path.name for path in folder.iterdir()} - {MANIFEST}
    if found != set(listed):
        raise DamagedError(f"{', '.join(sorted(found ^ set(listed)))} missing or not its own")
    names = sorted(Path(file).stem for file in listed if file.endswith(".json"))
    return {name: _part(folder, name, listed) for name in names}


def _part(folder: Path, name: str, listed: Mapping[str, object]) -> Any:
    raw, packed = (
        _checked(folder / file, listed.get(file))
        for file in (f"{name}.json", f"{name}.safetensors")
    )
    try:
        return join(_json(raw), safetensors.torch.load(packed))
    except (KeyError, TypeError, ValueError, RecursionError, safetensors.SafetensorError) as error:
        raise DamagedError(f"{name} is unreadable: {error}") from None


def _listed(folder: Path) -> dict[str, Any]:
    """Return the manifest's files, each with its size and hash.

    Raises:
        DamagedError: it is not what was saved.
        ResumeError: it is of a newer kdcore.
    """
    try:
        manifest = _json(_bytes(folder / MANIFEST))
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{MANIFEST} is unreadable: {error}") from None
    form = manifest.get("format") if isinstance(manifest, dict) else None
    if type(form) is int and form > FORMAT:
        raise ResumeError(
            f"checkpoint {folder} has format {form}, this kdcore knows up to {FORMAT}: continue "
            "with the kdcore that wrote it"
        )
    if type(form) is not int or form != FORMAT:
        raise DamagedError(f"{MANIFEST} has no format that kdcore knows")
    listed = manifest.get("files")
    if not isinstance(listed, dict) or manifest.get("sha256") != _digest(listed):
        raise DamagedError(f"{MANIFEST} was changed")
    for name in listed:
        if not _MEMBER.fullmatch(name):
            raise DamagedError(f"{MANIFEST} names {name!r}, which is no file of a checkpoint")
    return listed


def _bytes(path: Path) -> bytes:
    if path.is_symlink() or not path.is_file():
        raise DamagedError(f"{path.name} is no file of its own")
    try:
        return path.read_bytes()
    except OSError as error:
        raise DamagedError(f"{path.name}: {error.strerror}") from None


def _checked(path: Path, facts: object) -> bytes:
    # Read once: what was hashed is what is used.
    data = _bytes(path)
    if facts != _facts(data):
        raise DamagedError(f"{path.name} is not what was saved")
    return data


def _json(data: bytes) -> Any:
    """Parse JSON in which no key stands twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError("a key stands twice")
        return dict(pairs)

    return json.loads(data.decode("utf-8"), object_pairs_hook=once)


def _flush(folder: Path) -> None:
    """Have the names in a folder written to disk, where a system can be asked for that."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _unwritten(folder: Path, parts: Mapping[str, object], error: OSError, free: int) -> str:
    tensors = split(dict(parts))[1]
    needed = size_text(sum(tensor.nbytes for tensor in tensors.values()))
    if error.errno in FULL:
        return (
            f"no space for a checkpoint in {folder}: its tensors need {needed}, {size_text(free)} "
            "were free when it failed; those "
            "before it are whole: make room, and the same command continues"
        )
    return (
        f"a checkpoint of {needed} cannot be written in {folder}: {error.strerror}; those before "
        "it are whole"
    )
