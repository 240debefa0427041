"""Hashes of what a run's numbers depend on: weights, a model's code, a method's code, facts."""

import hashlib
import inspect
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from kdcore.devices import device_of
from kdcore.probe import evaluating
from kdcore.randomness import stream
from kdcore.taps import logits_of, run_model


def digest_of(weights: Mapping[str, Tensor]) -> str:
    """Return the hash of a state dict: names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in weights.items():
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def fingerprint_of(model: nn.Module, size: int) -> str:
    """Return the hash of a model: weights, modules, their source, what it makes of fixed images.

    Plain values that modules hold (a rate of dropout, a factor) count, and unsaved buffers.

    Args:
        model: the model; its mode is put back.
        size: side in pixels of its images.
    """
    images = torch.randn(2, 3, size, size, generator=stream(0, "fingerprint"))
    with evaluating(model):
        logits = logits_of(run_model(model, images.to(device_of(model))))
    given = {} if logits is None else {"output": logits}
    code = sorted({source_of(type(module)) for module in model.modules()})
    held = [
        (name, key, repr(value))
        for name, module in model.named_modules()
        for key, value in sorted(vars(module).items())
        if not key.startswith("_") and key != "training" and _is_plain(value)
    ]
    tensors = {**model.state_dict(), **dict(model.named_buffers())}
    parts = (digest_of(tensors), repr(model), digest_of(given), str(held), *code)
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


LIBRARIES = ("torch", "torchvision", "builtins", "abc", "typing")
"""Top-level modules whose source is known by their version."""


def source_of(plugin: object) -> str:
    """Return the hash of the files that a class and its bases, or a module, are in.

    Of an instance, those of its class.

    Of a package, all modules beside the class's own count. PyTorch's and Python's own classes do
    not: their versions do. Empty where there is no file.
    """
    files: set[Path] = set()
    cls = plugin if isinstance(plugin, type) else type(plugin)
    for base in (plugin,) if isinstance(plugin, ModuleType) else cls.__mro__:
        if isinstance(base, ModuleType) or base.__module__.partition(".")[0] not in LIBRARIES:
            files |= _files_of(base)
    if not files:
        return ""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _files_of(cls: type | ModuleType) -> set[Path]:
    try:
        found = inspect.getsourcefile(cls)
    except TypeError:  # written in C, or on a terminal
        return set()
    if not found or not Path(found).is_file():
        return set()
    file = Path(found)
    package = (file.parent / "__init__.py").exists()
    return set(file.parent.glob("*.py")) if package else {file}


ENVIRONMENT = frozenset(
    {"device", "processor", "threads", "torch", "torchvision", "pillow", "kdcore"}
)
"""Names of the facts that say where something is computed, not what."""

SHORT = 30
"""Longest value that is shown where two facts differ."""


def machine_facts(device: torch.device) -> dict[str, object]:
    """Return what the bits of a computation depend on beside its inputs."""
    return {
        "device": str(device),
        "processor": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "pillow": version("pillow"),
    }


def fingerprint_of_facts(facts: Mapping[str, object]) -> str:
    """Return the hash of values that JSON can hold, by name."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def difference(before: Mapping[str, object], now: Mapping[str, object]) -> str:
    """Name what differs between two lots of facts, with values where they are short."""
    told = []
    for name in sorted({*before, *now}):
        old, new = json.loads(json.dumps([before.get(name), now.get(name)]))
        if isinstance(old, dict) and isinstance(new, dict):
            told += [f"{name}.{key}" for key in {**old, **new} if old.get(key) != new.get(key)]
        elif old != new:
            short = max(len(str(old)), len(str(new))) <= SHORT
            told.append(f"{name} was {old}, is {new}" if short else name)
    return "; ".join(told)
