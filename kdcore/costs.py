"""What a model costs where it is used: parameters, multiply-accumulates, latency, size."""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kdcore.devices import device_of
from kdcore.nested import map_tensors, to_device
from kdcore.probe import evaluating
from kdcore.taps import run_model

WARM_UP = 5
MOST_RUNS = 50
FEWEST_RUNS = 5
SECONDS = 1.0
"""For so long latency is measured, if it takes no longer to run often enough."""


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


def costs_of(model: nn.Module, sample: Any) -> Costs:
    """Measure a model.

    Args:
        model: where it is, in the number format that it has.
        sample: inputs of one sample or more, of which the first is taken.
    """
    one = to_device(map_tensors(sample, lambda tensor: tensor[:1]), device_of(model))
    times: list[float] = []
    with evaluating(model):
        macs = _macs(model, one)
        for _ in range(WARM_UP):
            _timed(model, one)
        while len(times) < FEWEST_RUNS or (len(times) < MOST_RUNS and sum(times) < SECONDS):
            times.append(_timed(model, one))
    median, high = torch.tensor(times, dtype=torch.float64).quantile(
        torch.tensor([0.5, 0.95], dtype=torch.float64)
    )
    return Costs(
        sum(parameter.numel() for parameter in model.parameters()),
        macs,
        1000 * float(median),
        1000 * float(high),
        sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values()),
    )


def _macs(model: nn.Module, one: Any) -> int | None:
    counter = FlopCounterMode(display=False)
    try:
        with counter:
            run_model(model, one)
    except Exception:  # a module may do what the counter's mode does not support
        return None
    return counter.get_total_flops() // 2


def _timed(model: nn.Module, one: Any) -> float:
    device = device_of(model)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run_model(model, one)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
