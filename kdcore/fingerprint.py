"""Hashes of what a run's numbers depend on: weights, a model's code, a method's code, facts."""

import hashlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path

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

    Args:
        model: the model; its mode is put back.
        size: side in pixels of its images.
    """
    images = torch.randn(2, 3, size, size, generator=stream(0, "fingerprint"))
    with evaluating(model):
        logits = logits_of(run_model(model, images.to(device_of(model))))
    given = {} if logits is None else {"output": logits}
    code = sorted({source_of(type(module)) for module in model.modules()})
    parts = (digest_of(model.state_dict()), repr(model), digest_of(given), *code)
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def source_of(cls: type) -> str:
    """Return the hash of the file that a class is written in; empty where there is none."""
    try:
        file = inspect.getsourcefile(cls)
    except TypeError:
        return ""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""


def fingerprint_of_facts(facts: Mapping[str, object]) -> str:
    """Return the hash of values that JSON can hold, by name."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
