"""Losses on their way from the device: read at a bounded rate, and watched for what is no number.

A device that computes ahead of the host would have to wait for each loss that is looked at. So
they stay where they are for some steps, and a flag beside them stops the optimizer at once.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor

from kdcore.errors import NonFiniteLossError, samples_text
from kdcore.processes import here

READ_EVERY = 50
"""Steps between two readings, on a device that computes ahead of the host."""


@dataclass(frozen=True)
class StepRecord:
    """What one optimizer step gave.

    Attributes:
        epoch: from 0.
        step: optimizer steps taken before, from 0.
        steps: optimizer steps of the whole training.
        samples: samples of the step.
        losses: ``"total"``, ``"task"`` and the auxiliary losses by label, unweighted.
        shares: of each weighted loss in the student's gradient, by label; empty where that was
            not measured.
    """

    epoch: int
    step: int
    steps: int
    samples: int
    losses: Mapping[str, float]
    shares: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Waiting:
    epoch: int
    step: int
    indices: Tensor
    labels: tuple[str, ...]
    values: Tensor
    shares: Mapping[str, Tensor]


class Readings:
    """The losses of a training's steps.

    Args:
        steps: optimizer steps of the whole training.
        device: where losses are.
        every: steps between two readings; as fits the device if not given.

    Attributes:
        stopped: 1 on the device from the first loss on that was infinite or not a number, else 0;
            for optimizers that look at it before they step, as PyTorch's fused ones do.
    """

    def __init__(self, steps: int, device: torch.device, every: int | None = None) -> None:
        self._steps = steps
        # On a CPU everything is computed already: looking at it costs nothing.
        self._every = every or (1 if device.type == "cpu" else READ_EVERY)
        self._waiting: list[_Waiting] = []
        self.stopped = torch.zeros((), device=device)

    def add(
        self,
        epoch: int,
        step: int,
        indices: Tensor,
        losses: Mapping[str, Tensor],
        shares: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        """Take the losses of one optimizer step, before it is taken.

        Args:
            epoch: from 0.
            step: optimizer steps taken before.
            indices: of its samples, ``int64 [samples]``, those of other processes included.
            losses: by label, each without dimensions; this process's share of them.
            shares: in the student's gradient, by label, each without dimensions.
        """
        values = here().summed(torch.stack([value.detach() for value in losses.values()]))
        stops = torch.isfinite(values).all().logical_not_().to(self.stopped.dtype)
        self.stopped = torch.maximum(self.stopped, stops)
        self._waiting.append(_Waiting(epoch, step, indices, tuple(losses), values, shares))

    @property
    def due(self) -> bool:
        """Whether it is time to read."""
        return len(self._waiting) >= self._every

    def read(self) -> Iterator[StepRecord]:
        """Go through the steps since the last reading; waits for the device.

        Raises:
            NonFiniteLossError: a loss is no number; no step was taken from that one on.
        """
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        numbers = iter(torch.cat([each.values for each in waiting]).tolist())
        for each in waiting:
            losses = {label: next(numbers) for label in each.labels}
            _check(each, losses)
            shares = {label: float(value) for label, value in each.shares.items()}
            count = len(each.indices)
            yield StepRecord(each.epoch, each.step, self._steps, count, losses, shares)


def _check(step: _Waiting, losses: Mapping[str, float]) -> None:
    # A term says more than the sum that it spoils.
    for label in sorted(losses, key=lambda label: label == "total"):
        if not abs(losses[label]) < float("inf"):
            indices = step.indices.tolist()
            raise NonFiniteLossError(
                f"the loss {label!r} is {losses[label]} in epoch {step.epoch}, step {step.step} "
                f"(samples {samples_text(indices, len(indices))}); the step was not taken: try "
                "a lower lr, clip_norm, or a smaller weight",
                indices=tuple(indices),
            )
