"""What a model costs where it is used: parameters, multiply-accumulates, latency, size."""

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kdcore.devices import device_of
from kdcore.latency import latencies
from kdcore.nested import map_tensors, to_device
from kdcore.probe import evaluating
from kdcore.taps import run_model


@dataclass(frozen=True)
class Costs:
    """What a model costs, one sample at a time.

    Attributes:
        parameters: how many it has.
        macs: multiply-accumulates of matrix products and convolutions; None where they could not
            be counted.
        latency_ms: median time of a forward pass of one sample, on the device that it is on, in
            milliseconds.
        latency_p95_ms: of 95 in 100 passes at most.
        bytes: of its weights and buffers as they are saved.
    """

    parameters: int
    macs: int | None
    latency_ms: float
    latency_p95_ms: float
    bytes: int


def costs_of(*models: tuple[nn.Module, Any]) -> list[Costs]:
    """Measure models, their latencies in turns.

    Args:
        models: each where it is, in the number format that it has, with inputs of one sample or
            more, of which the first is taken.
    """
    ones = [_one(model, sample) for model, sample in models]
    with ExitStack() as stack:
        for model, _ in ones:
            stack.enter_context(evaluating(model))
        macs = [_macs(model, one) for model, one in ones]
        found = latencies([partial(_run, model, one) for model, one in ones])
    return [
        Costs(
            sum(parameter.numel() for parameter in model.parameters()),
            products,
            latency.p50_ms,
            latency.p95_ms,
            sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values()),
        )
        for (model, _), products, latency in zip(ones, macs, found, strict=True)
    ]


def _one(model: nn.Module, sample: Any) -> tuple[nn.Module, Any]:
    return model, to_device(map_tensors(sample, lambda tensor: tensor[:1]), device_of(model))


def _macs(model: nn.Module, one: Any) -> int | None:
    counter = FlopCounterMode(display=False)
    try:
        with counter:
            run_model(model, one)
    except Exception:  # a module may do what the counter's mode does not support
        return None
    return counter.get_total_flops() // 2


def _run(model: nn.Module, one: Any) -> None:
    """Run a model, and wait for its device."""
    run_model(model, one)
    device = device_of(model)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
