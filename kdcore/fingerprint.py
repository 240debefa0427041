"""Hashes of what a run's numbers depend on: weights, a model's code, a method's code, facts."""

import ast
import hashlib
import inspect
import json
from collections.abc import Mapping
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.devices import device_of
from kdcore.nested import to_device
from kdcore.probe import evaluating
from kdcore.processes import here
from kdcore.randomness import stream
from kdcore.sharding import whole
from kdcore.taps import logits_of, run_model


def digest_of(weights: Mapping[str, object]) -> str:
    """Return the hash of a state dict: names, types, shapes and values.

    Where weights are spread over processes, all of them must ask.
    """
    digest = hashlib.sha256()
    for name, tensor in weights.items():
        if not isinstance(tensor, Tensor):  # what a module's get_extra_state returned
            digest.update(f"{name}{tensor!r}".encode())
            continue
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        values = whole(tensor.detach()).cpu().contiguous()
        digest.update(values.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def fingerprint_of(model: nn.Module, given: Any) -> str:
    """Return the hash of a model: what it is, and what it makes of fixed images or samples.

    The latter to about one per cent, so that it is the same on another processor.

    Args:
        model: the model; its mode is put back.
        given: side in pixels of its images; or some samples as it is given them.
    """
    if isinstance(given, int):
        given = torch.randn(2, 3, given, given, generator=stream(0, "fingerprint"))
    with evaluating(model):
        logits = logits_of(run_model(model, to_device(given, device_of(model))))
    given = {}
    if logits is not None:
        largest = logits.float().abs().max().clamp(min=1e-30)
        coarse = (logits.float() / largest * LEVELS).round()
        given["output"] = coarse + 0.0  # no negative zeros
        given["largest"] = (largest.log2() * LEVELS).round()
    return hashlib.sha256((structure_of(model) + digest_of(given)).encode()).hexdigest()


def structure_of(model: nn.Module) -> str:
    """Return the hash of what a model is: weights, modules, their source, what they hold.

    Plain values that modules hold (a rate of dropout, a factor) count, unsaved buffers, which
    parameters learn, and others' hooks by their names. What a module holds else, and files that
    its own imports, are not seen.
    """
    code = sorted({source_of(type(module)) for module in model.modules()})
    held = [
        (name, key, repr(value))
        for name, module in model.named_modules()
        for key, value in sorted(vars(module).items())
        if key not in _MODULES_OWN and key != "training" and _is_plain(value)
    ]
    hooks = [
        (name, getattr(hook, "__module__", ""), getattr(hook, "__qualname__", repr(type(hook))))
        for name, module in model.named_modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        if not getattr(hook, "__module__", "").startswith("kdcore.")  # taps come and go
    ]
    learning = [name for name, each in model.named_parameters() if each.requires_grad]
    tensors = {**model.state_dict(), **dict(model.named_buffers())}
    parts = (digest_of(tensors), repr(model), str(held), str(hooks), str(learning), *code)
    return hashlib.sha256("".join(parts).encode()).hexdigest()


_MODULES_OWN = frozenset(vars(nn.Module()))


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(_is_plain(key) and _is_plain(each) for key, each in value.items())
    return value is None or isinstance(value, bool | int | float | str)


LEVELS = 64
"""Into so many steps, either side of zero, a model's outputs are rounded for its hash."""

MOST_FILES = 500
"""Packages of more files are not read whole."""

LIBRARIES = ("torch", "torchvision", "builtins", "abc", "typing")
"""Top-level modules whose source is known by their version."""


def source_of(plugin: object) -> str:
    """Return the hash of the files that a class and its bases, or a module, are in.

    Of an instance, those of its class.

    Of a package, all modules count; of a very large one, those beside the class's own and below.
    Of a file in no package, those beside it that it imports.
    PyTorch's and Python's own classes do not: their versions do. Empty where there is no file.
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
    package = file.parent
    if not (package / "__init__.py").exists():
        return _with_neighbours(file)
    while (package.parent / "__init__.py").exists():
        package = package.parent
    files = set(islice(package.rglob("*.py"), MOST_FILES + 1))
    return files if len(files) <= MOST_FILES else set(file.parent.rglob("*.py"))


def _with_neighbours(file: Path) -> set[Path]:
    """Return a file that is in no package, with those beside it that it imports by their names."""
    found, rest = set[Path](), [file]
    while rest:
        now = rest.pop()
        if now in found:
            continue
        found.add(now)
        try:
            tree = ast.parse(now.read_bytes())
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.append(node.module)
            beside = [file.parent / f"{name.partition('.')[0]}.py" for name in names]
            rest += [each for each in beside if each.is_file()]
    return found


CONTINUED = "continued"
"""Name of the fact that a run was continued elsewhere than it began, and where."""

ENVIRONMENT = frozenset(
    {
        "device",
        "processor",
        "threads",
        "processes",
        "torch",
        "torchvision",
        "pillow",
        "kdcore",
        CONTINUED,
    }
)
"""Names of the facts that say where something is computed, not what."""

SHORT = 30
"""Longest value that is shown where two facts differ."""


def machine_facts(device: torch.device) -> dict[str, object]:
    """Return what the bits of a computation depend on beside its inputs."""
    count = here().count
    return {
        **({"processes": count} if count > 1 else {}),
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
