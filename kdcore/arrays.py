"""Arrays as files of one folder: their space, their hashes, and their mapping into memory.

What the arrays mean, what their folder is called and who may use it is known elsewhere. A file
holds the values of one array and nothing else, as this computer has them in memory.
"""

import hashlib
import math
import mmap
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdcore.errors import UserError

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.int64, torch.uint8),
    )
}

_MOST_DIMENSIONS = 64
# Linux's number, for a Python whose mmap has no name for it.
_NO_RESERVE: int = getattr(mmap, "MAP_NORESERVE", 0x4000)


class DamagedError(Exception):
    """Arrays are not as they were written; no user sees it, as who reads them mends it."""


@dataclass(frozen=True)
class ArraySpec:
    """What an array is, without its values.

    Args:
        shape: elements along each dimension, one or more; no dimension is a single number.
        dtype: one of `DTYPES`.

    Raises:
        ValueError: no array that can be kept is like that.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype

    def __post_init__(self) -> None:
        # A bool is an int too, and what is read from a disk may be anything.
        if not all(type(length) is int and length > 0 for length in self.shape):
            raise ValueError(f"the shape {self.shape} is not one of positive whole numbers")
        if len(self.shape) > _MOST_DIMENSIONS:
            raise ValueError(f"{len(self.shape)} dimensions are more than {_MOST_DIMENSIONS}")
        if self.dtype not in DTYPES.values():
            raise ValueError(f"{self.dtype} is not one of {', '.join(DTYPES)}")

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


def allocate_arrays(folder: Path, specs: Mapping[str, ArraySpec]) -> None:
    """Create a folder with a file of zeros for each array, its space on the disk its own.

    On a full disk, writing to the mapping of a file without its space would kill the process.

    Raises:
        OSError: there is no space, or the folder cannot be created.
    """
    folder.mkdir()
    for index, spec in enumerate(specs.values()):
        with _file(folder, index).open("wb") as file:
            if hasattr(os, "posix_fallocate"):  # macOS has none
                os.posix_fallocate(file.fileno(), 0, spec.nbytes)
            else:
                _write_zeros(file.fileno(), spec.nbytes)


def map_to_write(folder: Path, specs: Mapping[str, ArraySpec]) -> dict[str, Tensor]:
    """Map allocated arrays so that what is written to the tensors reaches the files.

    Raises:
        UserError: they are more than can be mapped into memory.
        OSError: a file cannot be opened.
    """
    return {
        name: map_array(_file(folder, index), spec, shared=True)
        for index, (name, spec) in enumerate(specs.items())
    }


def finish_arrays(folder: Path, specs: Mapping[str, ArraySpec]) -> dict[str, dict[str, object]]:
    """Flush arrays to the disk.

    Returns:
        What `read_arrays` has to know of each, as JSON has it.

    Raises:
        OSError: a file cannot be written.
    """
    records: dict[str, dict[str, object]] = {}
    for index, (name, spec) in enumerate(specs.items()):
        path = _file(folder, index)
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        dtype = str(spec.dtype).removeprefix("torch.")
        records[name] = {"shape": list(spec.shape), "dtype": dtype, "sha256": _hash(path)}
    return records


def read_arrays(folder: Path, records: Any, *, verify: bool) -> dict[str, Tensor]:
    """Map arrays so that what is written to the tensors stays in this process.

    Args:
        folder: where their files lie.
        records: what `finish_arrays` returned, or whatever else was found in its place.
        verify: whether every byte is read and compared with its hash.

    Raises:
        DamagedError: the arrays, or what is said of them, are not as they were written.
        UserError: they are more than can be mapped into memory.
        OSError: a file cannot be read.
    """
    arrays = {}
    for index, (name, (spec, sha256)) in enumerate(_parse(records).items()):
        path = _file(folder, index)
        require_file(path)
        if (found := path.stat().st_size) != spec.nbytes:
            raise DamagedError(f"{name!r} has {found:,} bytes, not {spec.nbytes:,}")
        if verify and _hash(path) != sha256:
            raise DamagedError(f"{name!r} does not hold what was written")
        arrays[name] = map_array(path, spec, shared=False)
    return arrays


def map_array(path: Path, spec: ArraySpec, *, shared: bool) -> Tensor:
    """Map the file of one array, which may be larger than the memory is.

    Args:
        path: the file.
        spec: what it holds.
        shared: whether what is written to the tensor reaches the file.

    Raises:
        UserError: it is more than can be mapped into memory, or more than the file holds.
        OSError: the file cannot be opened.
    """
    with path.open("rb+" if shared else "rb") as file:
        try:
            memory = _map(file.fileno(), spec.nbytes, shared)
        except (OSError, ValueError) as error:
            raise UserError(
                f"cannot map {path} into memory: {error}; keep less, or free some memory"
            ) from None
    return torch.frombuffer(memory, dtype=spec.dtype).reshape(spec.shape)


def require_file(path: Path) -> None:
    """Refuse what is no file, or a link to one.

    Raises:
        DamagedError: it is none.
    """
    if path.is_symlink() or not path.is_file():
        raise DamagedError(f"its {path.name} is no file of its own")


def bytes_in(folder: Path) -> int:
    """Return the bytes that the arrays of a folder take."""
    total = 0
    for file in folder.glob("*.bin"):
        with suppress(OSError):  # removed since by another process
            total += file.lstat().st_size
    return total


def _file(folder: Path, index: int) -> Path:
    # A number, as an array's name may hold what a file's may not, or lead out of the folder.
    return folder / f"{index}.bin"


def _write_zeros(handle: int, nbytes: int) -> None:
    block = bytes(min(nbytes, 2**20))
    while nbytes:
        nbytes -= os.write(handle, block[:nbytes])


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parse(records: Any) -> dict[str, tuple[ArraySpec, object]]:
    try:
        return {
            name: (ArraySpec(tuple(record["shape"]), DTYPES[record["dtype"]]), record["sha256"])
            for name, record in records.items()
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DamagedError("its list of arrays is none, or is not whole") from None


def _map(handle: int, nbytes: int, shared: bool) -> mmap.mmap:
    if shared:
        return mmap.mmap(handle, nbytes)
    if sys.platform == "linux":
        # Without the flag, Linux refuses more than its memory, as every page might be written to.
        flags = mmap.MAP_PRIVATE | _NO_RESERVE
        memory = mmap.mmap(handle, nbytes, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    else:
        memory = mmap.mmap(handle, nbytes, access=mmap.ACCESS_COPY)
    return memory
