"""The distiller as one unit of PyTorch's distributed engine, and the proof that it is whole.

What the processes are is in `processes`; what a step computes, in `trainer`.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Self

import torch
from torch import nn, optim
from torch.distributed import GradBucket  # type: ignore[attr-defined]  # exported nowhere
from torch.nn.parallel import DistributedDataParallel

from kdcore.distiller import Distiller
from kdcore.errors import ConfigError, ModelError, UserError
from kdcore.fingerprint import difference
from kdcore.processes import Processes, here
from kdcore.sharding import Shards, blocks_of


class Unit:
    """A distiller that is called in each process on its share of a batch.

    It is used as a context, at whose end it lets go of the parameters. Gradients are summed over
    processes after the last micro-batch of a step: losses are divided by what the whole step holds
    already.

    Args:
        distiller: the distiller; what is not trained must be frozen already.
        shard: whether its weights are spread over the processes, instead of each having all.

    Raises:
        ConfigError: its weights cannot be spread.
    """

    def __init__(self, distiller: Distiller, *, shard: bool = False) -> None:
        self.processes = here()
        self._distiller = distiller
        self._shards = _shards(distiller, self.processes) if shard else None
        self._wrapped = None if shard else _wrapped(distiller, self.processes)
        self.module: nn.Module = self._wrapped or distiller
        self._learning = list(_learning(distiller))

    def micro_batch(self, last: bool) -> AbstractContextManager[None]:
        """Take care, inside the block, that gradients are summed with the last micro-batch."""
        if self._shards is not None:
            self._shards.sum_gradients(now=last)
        if self._wrapped is None or last:
            return nullcontext()
        waiting: AbstractContextManager[None] = self._wrapped.no_sync()
        return waiting

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._release(failed=kind is not None)

    def _release(self, *, failed: bool) -> None:
        """Let go of the parameters, which another unit may hold next.

        Args:
            failed: whether this process failed, so that the others may not answer: a student in
                pieces stays in pieces then.
        """
        if self._wrapped is not None:
            self._wrapped.reducer._remove_autograd_hooks()
        if self._shards is not None and not failed:
            self._shards.restore()

    def check(self) -> None:
        """Refuse parameters that were frozen or unfrozen since it was made.

        Raises:
            ModelError: names one.
        """
        now = list(_learning(self._distiller))
        if self.processes.count == 1 or now == self._learning:
            return
        name = min(set(now) ^ set(self._learning))
        raise ModelError(
            f"{name} was frozen or unfrozen after training had begun: the processes' gradients of "
            "it would differ; what is trained is settled before (trainable, stages)"
        )

    def same_buffers(self) -> None:
        """Give every process the first one's running statistics, which is what counts."""
        self.processes.copy_from(0, list(self._distiller.buffers()))


def _wrapped(distiller: Distiller, processes: Processes) -> DistributedDataParallel | None:
    if processes.count == 1 or not list(_learning(distiller)):  # whose optimizer is refused
        return None
    wrapped = DistributedDataParallel(distiller)
    wrapped.register_comm_hook(None, _summed)
    return wrapped


def _shards(distiller: Distiller, processes: Processes) -> Shards:
    check_several(processes, "train.shard")
    if distiller.moving:
        raise ConfigError(
            "train.shard does not go with a moving average of the student as a teacher: leave one "
            "of them out"
        )
    student = distiller.student
    return Shards(distiller, [*blocks_of(student), student], processes.count)


def check_several(processes: Processes, key: str) -> None:
    """Refuse to spread weights, as a setting asks, where there is one process.

    Raises:
        ConfigError: there is one.
    """
    if processes.count == 1:
        raise ConfigError(
            f"{key} spreads weights over processes, and there is one: start several with "
            "torchrun, or leave it out"
        )


def _summed(_: object, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Sum gradients, where PyTorch would take the mean of means."""
    reduced = torch.distributed.all_reduce(bucket.buffer(), async_op=True)
    return reduced.get_future().then(lambda done: done.value()[0])


def check_inside(distiller: nn.Module, optimizer: optim.Optimizer) -> None:
    """Refuse an optimizer that holds parameters which are no part of the distiller.

    Their gradients would be those of this process's samples alone.

    Raises:
        ModelError: says how many, and their shapes.
    """
    inside = {id(parameter) for parameter in distiller.parameters()}
    outside = [
        list(parameter.shape)
        for group in optimizer.param_groups
        for parameter in group["params"]
        if id(parameter) not in inside
    ]
    if outside:
        raise ModelError(
            f"the optimizer holds {len(outside)} parameters that are no part of the distiller "
            f"(the first is {outside[0]}): their gradients would not be shared between processes; "
            "return modules from adapt_shapes (Adapters.modules)"
        )


def check_alike(facts: Mapping[str, object]) -> None:
    """Refuse processes that were given something else than the first.

    Args:
        facts: what must be the same in all, by name, as JSON has it.

    Raises:
        UserError: names what differs, and where.
    """
    first, *others = here().all(dict(facts))
    for rank, other in enumerate(others, start=1):
        if found := difference(first, other):
            raise UserError(
                f"process {rank} has something else than process 0: {found}; all need the same "
                "files and data (seed whatever draws random numbers)"
            )


def _learning(distiller: Distiller) -> Iterator[str]:
    return (name for name, each in distiller.named_parameters() if each.requires_grad)
