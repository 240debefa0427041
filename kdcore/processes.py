"""The processes that train one student together, as PyTorch's `torchrun` starts them.

Each has a share of every batch; `torch.distributed` carries what they tell each other. A process
that is alone asks nobody: everything here then returns what it was given.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from kdcore.errors import RunError, UserError
from kdcore.meeting import meet

T = TypeVar("T")

LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Timed out waiting",
    "pair closure",
)
"""How PyTorch's gloo says that another process is gone."""

_idle: ContextVar[bool] = ContextVar("idle", default=False)


@dataclass(frozen=True)
class Processes:
    """What this process is among those that train together.

    Attributes:
        rank: its number, from 0.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether it is the one that writes files and talks."""
        return self.rank == 0

    def largest_share(self, samples: int) -> int:
        """Return how many of so many samples a process has at most."""
        return -(-samples // self.count)

    def parts(self, samples: Tensor, accumulate: int) -> tuple[list[Tensor], bool]:
        """Share the samples of an optimizer step out to processes and micro-batches.

        All processes get equally many micro-batches, none of them empty; every so many-th sample
        each, so that those that come first are everybody's.

        Args:
            samples: of the whole step, ``int64 [samples]``.
            accumulate: micro-batches that are wanted.

        Returns:
            Its micro-batches, and whether it is idle: there are fewer samples than processes, and
            it was given one that is another's and must not count.
        """
        if self.rank >= len(samples):
            return [samples[self.rank % len(samples)].reshape(1)], True
        micro = min(accumulate, max(1, len(samples) // self.count))
        stride = micro * self.count
        return [samples[part * self.count + self.rank :: stride] for part in range(micro)], False

    def summed(self, tensor: Tensor) -> Tensor:
        """Return the sum over processes of a tensor of equal shape in each."""
        if self.count == 1:
            return tensor
        total = tensor.detach().clone()
        dist.all_reduce(total)
        return total

    def any(self, flag: bool) -> bool:
        """Return whether a flag is set in any process."""
        if self.count == 1:
            return flag
        return bool(self.summed(torch.tensor(int(flag))))

    def agreed(self, value: T) -> T:
        """Return what the first process has; it must be something that can be pickled."""
        if self.count == 1:
            return value
        told: list[Any] = [value]
        dist.broadcast_object_list(told, src=0)
        answer: T = told[0]
        return answer

    def all(self, value: T) -> list[T]:
        """Return what each process has, in their order."""
        if self.count == 1:
            return [value]
        told: list[Any] = [None] * self.count
        dist.all_gather_object(told, value)
        return told

    def copy_from(self, owner: int, tensors: Sequence[Tensor]) -> None:
        """Overwrite tensors with those of one process; their shapes must be equal."""
        if self.count > 1:
            for tensor in tensors:
                own = tensor.contiguous()  # what is strided cannot be received into
                dist.broadcast(own, src=owner)
                if own is not tensor:
                    tensor.copy_(own)

    def rows(self, tensor: Tensor) -> Tensor:
        """Return the rows of all processes, in their order, where each may have another number.

        Args:
            tensor: ``[rows, ...]``, alike in all but the number of rows.
        """
        return tensor if self.count == 1 else torch.cat(_gather(tensor, self.count))


def here() -> Processes:
    """Return this process among those of `torch.distributed`'s default group."""
    if not (dist.is_available() and dist.is_initialized()):
        return Processes()
    return Processes(dist.get_rank(), dist.get_world_size())


def started_together(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether `torchrun`, or something like it, started this process among others."""
    return int(environment.get("WORLD_SIZE", "1")) > 1


@contextmanager
def joined(timeout: float) -> Iterator[Processes]:
    """Join the processes that were started together with this one, inside the block.

    Args:
        timeout: minutes after which one that waits for another gives up.

    Raises:
        UserError: there is no accelerator for each.
        RunError: another process was lost, or did not answer in time.
    """
    if not started_together() or dist.is_initialized():
        yield here()
        return
    backend = "gloo"
    if torch.cuda.is_available():
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise UserError(
                f"process {local} of this machine has no GPU of its own, there are "
                f"{torch.cuda.device_count()}: start fewer (torchrun --nproc-per-node)"
            )
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    waiting = timedelta(minutes=timeout)
    try:
        store, rank, count = meet(waiting)
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=waiting)
        yield here()
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not any(w in str(error) for w in LOST):
            raise
        raise RunError(
            f"another process ended, or did not answer within {timeout:g} minutes "
            f"({_first_line(error)}); started again, training continues where it was saved "
            "(torchrun --max-restarts does that by itself)"
        ) from error
    # Not after a failure: the others may wait for this process, and it must not wait for them.
    dist.destroy_process_group()


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].partition(". This is typically")[0][:200]


@contextmanager
def idling(idle: bool) -> Iterator[None]:
    """Say that the samples which are computed inside the block are another process's."""
    before = _idle.set(idle)
    try:
        yield
    finally:
        _idle.reset(before)


def gathered(samples: Tensor) -> Tensor:
    """Return what all processes have of a batch, for losses that relate samples to each other.

    Gradients flow back to each process's own. A process that is alone gets back what it gave.

    Args:
        samples: ``[batch, ...]``, of this process's share of the batch; shares may differ in size.

    Returns:
        ``[all processes' batch, ...]``, equal and in equal order in each.
    """
    processes = here()
    if processes.count == 1:
        return samples
    rows: Tensor = _Gathered.apply(samples, processes, _idle.get())
    return rows


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, samples: Tensor, processes: Processes, idle: bool) -> Tensor:
        parts = _gather(samples[:0] if idle else samples, processes.count)
        ctx.first = sum(map(len, parts[: processes.rank]))
        ctx.own, ctx.idle, ctx.processes = len(samples), idle, processes
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        total = ctx.processes.summed(gradient.contiguous())
        if ctx.idle:
            return total.new_zeros(ctx.own, *total.shape[1:]), None, None
        return total[ctx.first : ctx.first + ctx.own], None, None


def _gather(tensor: Tensor, count: int) -> list[Tensor]:
    """Return the rows of each of so many processes."""
    tensor = tensor.detach().contiguous()
    sizes = [torch.zeros(1, dtype=torch.int64, device=tensor.device) for _ in range(count)]
    dist.all_gather(sizes, torch.tensor([len(tensor)], device=tensor.device))
    rows = [int(size) for size in sizes]
    padded = tensor.new_zeros(max(rows), *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    found = [torch.empty_like(padded) for _ in range(count)]
    dist.all_gather(found, padded)
    return [part[:size] for part, size in zip(found, rows, strict=True)]
