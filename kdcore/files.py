"""Files that appear whole or not at all, and weights that import nothing when they are read."""

import json
import os
import tempfile
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from filelock import BaseFileLock, FileLock, Timeout
from safetensors import SafetensorError
from torch import Tensor, nn

from kdcore.errors import ModelError, UserError, unknown
from kdcore.processes import here

HEADER = 8
"""Bytes at the beginning of a safetensors file, which say how long its description is."""

ASK_AGAIN = 10.0
"""Seconds between two tries of one of several processes to get a lock."""


def make_folder(path: Path) -> Path:
    """Create a folder for results.

    Raises:
        UserError: it cannot be created or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise _unwritable(path, error) from None
    return path


def check_folder(path: Path) -> None:
    """Refuse a folder for results that could not be made or written to, and make nothing yet.

    Raises:
        UserError: says which folder.
    """
    whole = path.absolute()
    there = next(each for each in (whole, *whole.parents) if os.path.lexists(each))
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write to the output folder {path}: {error.strerror}; choose another with --out"
    )


@contextmanager
def locked(folder: Path, busy: Callable[[], None]) -> Iterator[None]:
    """Keep other processes, and other users of this one, from a folder inside the block.

    The lock is the system's, which releases it when its holder dies. Of processes that train
    together the first holds it for all.

    Args:
        folder: the folder; made if it is not there.
        busy: called where somebody else holds it, who is waited for unless it raises.
    """
    lock = FileLock(make_folder(folder) / ".lock")
    if not held_for_all(lock, 0):
        busy()
        while not held_for_all(lock, ASK_AGAIN):
            pass
    try:
        yield
    finally:
        lock.release()


def held_for_all(lock: BaseFileLock, seconds: float) -> bool:
    """Try to get a lock for so long; return whether the first process, and so all, has it.

    Where it has to be waited for longer, try again: the others would give up one that is silent.
    """
    processes = here()
    return processes.agreed(processes.first and _acquired(lock, seconds))


def _acquired(lock: BaseFileLock, seconds: float) -> bool:
    try:
        lock.acquire(seconds)
    except Timeout:
        return False
    return True


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file beside its final name, flush it to disk, then rename it.

    Of processes that train together the first alone writes.
    """
    if not here().first:
        return
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: object) -> None:
    """Write a value as JSON, indented; not-a-number and infinity are refused."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file that kdcore wrote; None where it is not there or not whole."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def save_weights(
    path: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a state dict as safetensors; tensors that share memory are written each.

    Args:
        path: of the file.
        weights: by name.
        metadata: what the file shall hold beside them.
    """
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    write_bytes(path, packed(tensors, {"format": "pt", **(metadata or {})}))


def packed(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return a safetensors file of some tensors and metadata, the same bytes for the same content.

    The library writes several metadata in an order that differs each time.
    """
    plain = safetensors.torch.save(dict(tensors))
    length = int.from_bytes(plain[:HEADER], "little")
    header = {"__metadata__": dict(metadata), **json.loads(plain[HEADER : HEADER + length])}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % HEADER)  # tensors begin at a multiple of eight
    return len(text).to_bytes(HEADER, "little") + text + plain[HEADER + length :]


def load_weights(
    model: nn.Module, path: Path, where: str, own_name: Callable[[str], str] = str
) -> None:
    """Load a file of weights into a model, every name and shape as it is.

    Args:
        model: the model.
        path: ``.safetensors``, or PyTorch's own format, of which only tensors are read.
        where: whose weights they are, for errors.
        own_name: returns what the model calls a tensor of the file.

    Raises:
        ModelError: the file is missing, no file of weights, does not fit, or has values that
            are not finite.
    """
    prefix = f"{where}: {path}"
    weights = renamed(read_weights(path, where), own_name, prefix)
    expected = model.state_dict()
    strange, missing = set(weights) - set(expected), set(expected) - set(weights)
    if len(strange) + len(missing) > len(expected) // 2:
        raise ModelError(
            f"{prefix}: these are weights of another model: {len(missing)} of {len(expected)} "
            f"tensors are missing, {len(strange)} are unknown{_examples(strange, missing)}"
        )
    for name in weights:
        if name not in expected:
            raise ModelError(f"{prefix}: {unknown('tensor', name, expected)}")
    for name, tensor in expected.items():
        if name not in weights:
            raise ModelError(f"{prefix}: the tensor {name!r} is missing")
        if weights[name].shape != tensor.shape:
            raise ModelError(
                f"{prefix}: the tensor {name!r} is {list(weights[name].shape)}, the model's is "
                f"{list(tensor.shape)}; was it trained for other classes or another image size?"
            )
        if weights[name].is_floating_point() != tensor.is_floating_point():
            raise ModelError(
                f"{prefix}: the tensor {name!r} is of {_type(weights[name])}, the model's of "
                f"{_type(tensor)}: are these quantized weights?"
            )
        # A mask may be made of infinities, which the model itself has in the same places.
        own, found = tensor.double().cpu(), weights[name].double()
        if not bool((torch.isfinite(found) | (found == own)).all()):
            raise ModelError(f"{prefix}: the tensor {name!r} has values that are not finite")
    # Modules that look at their version would take weights without one for an old one's.
    whole = OrderedDict(weights)
    whole._metadata = expected._metadata  # type: ignore[attr-defined]  # PyTorch's
    model.load_state_dict(whole)


def _examples(strange: set[str], missing: set[str]) -> str:
    """Return one name of each side, where both have some that the other has not."""
    if not strange or not missing:
        return ""
    return f" ({min(strange)!r} in the file, {min(missing)!r} in the model)"


def renamed(
    weights: Mapping[str, Tensor], own_name: Callable[[str], str], prefix: str
) -> dict[str, Tensor]:
    """Return weights by the names that a model has for them.

    Raises:
        ModelError: two of them would have one name.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if own_name(name) in found:
            raise ModelError(f"{prefix}: two tensors would be {own_name(name)!r}; one is {name!r}")
        found[own_name(name)] = tensor
    return found


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def read_weights(path: Path, where: str) -> dict[str, Tensor]:
    """Read a file of weights onto the CPU, without running anything that it holds.

    A state dict may be wrapped (``{"state_dict": ..., "epoch": ...}``), and its names may have the
    prefixes of DistributedDataParallel and torch.compile.

    Raises:
        ModelError: the file is missing or no file of weights.
    """
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise ModelError(f"{where}: {path} {found}; give a file of weights")
    try:
        if path.suffix == ".safetensors":
            return _without_prefixes(safetensors.torch.load_file(path))
        with torch.serialization.safe_globals([Namespace]):  # options beside the weights
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{where}: {path} cannot be read: {_first_line(error)}; it is damaged or "
            "incomplete: copy it again"
        ) from None
    except Exception:  # what torch.load raises on a file that is something else is not documented
        raise ModelError(
            f"{where}: {path} is damaged, or no file of weights alone; if it is safetensors, "
            "name it so, otherwise save the model with torch.save(model.state_dict(), ...)"
        ) from None
    weights = _state_dict(loaded)
    if weights is None:
        raise ModelError(f"{where}: {path} holds no state dict of tensors")
    return _without_prefixes(weights)


WRAPPING = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts keep a model's weights beside other things."""

PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before the name of every tensor."""


def _state_dict(loaded: object) -> dict[str, Tensor] | None:
    """Return the state dict that a loaded file is, or wraps; None where it is none."""
    if not isinstance(loaded, Mapping) or not loaded:
        return None
    if all(isinstance(tensor, Tensor) for tensor in loaded.values()):
        return {str(name): tensor for name, tensor in loaded.items()}
    found = [_state_dict(loaded[key]) for key in WRAPPING if key in loaded]
    return found[0] if len(found) == 1 else None


def _without_prefixes(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES:
        if weights and all(name.startswith(prefix) for name in weights):
            return _without_prefixes(
                {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
            )
    return weights


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def size_text(nbytes: int) -> str:
    """Return a number of bytes as people read it."""
    return f"{nbytes / 2**20:,.1f} MiB" if nbytes >= 2**20 else f"{nbytes / 2**10:,.1f} KiB"
