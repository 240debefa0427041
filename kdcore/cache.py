"""What the teachers say of every training sample, computed once and read by index.

A sample that is the same every epoch needs its teacher once. Nobody downstream knows whether
signals were computed just now or read here: they are the same, bit for bit.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kdcore.data.source import Source
from kdcore.distiller import Distiller
from kdcore.errors import ConfigError
from kdcore.experiment import TrainConfig
from kdcore.taps import TapAddress
from kdcore.teacher import Signals

BUDGET_BYTES = 2 * 2**30
"""Signals are kept where those of all samples take no more than this."""


@dataclass(frozen=True)
class TeacherCache:
    """The signals of all samples of one source, by teacher.

    Attributes:
        signals: each tensor is ``[samples, ...]``, on the CPU.
        device: where gathered signals are put.
    """

    signals: Mapping[str, Signals]
    device: torch.device

    def gather(self, indices: Tensor) -> dict[str, Signals]:
        """Return what the teachers say of some samples.

        Args:
            indices: ``int64 [batch]``, on the CPU.
        """
        return {
            name: stored.map(lambda tensor: tensor[indices].to(self.device))
            for name, stored in self.signals.items()
        }


def cache_for(
    distiller: Distiller, source: Source, config: TrainConfig, choice: str
) -> tuple[TeacherCache | None, str]:
    """Run the teachers once over all samples, where that is wanted and fits.

    Either way the teachers are given samples in batches of one size from here on.

    Args:
        distiller: the run.
        source: what it will learn from.
        config: its training.
        choice: ``"auto"``, ``"memory"`` or ``"off"``.

    Returns:
        The cache, or None where the teachers run every epoch; and a line that says why.

    Raises:
        ConfigError: ``"memory"`` for samples that are not the same every epoch.
    """
    distiller.teacher_batch = -(-config.batch_size // config.accumulate)
    if choice == "memory" and not source.same_every_epoch:
        raise ConfigError("teacher_cache = 'memory' needs samples that are the same every epoch")
    if choice == "off":
        return None, "the teacher runs every epoch, as asked"
    if not source.same_every_epoch:
        return None, "the teacher runs every epoch: samples may differ from epoch to epoch"
    needed = bytes_needed(distiller, source)
    size = f"{needed / 2**20:,.1f} MiB"
    if choice == "auto" and needed > BUDGET_BYTES:
        return None, f"the teacher runs every epoch: what it says takes {size}, more than is kept"
    return build_cache(distiller, source), f"the teacher runs once, what it says is kept: {size}"


def bytes_needed(distiller: Distiller, source: Source) -> int:
    """Return how many bytes the signals of all samples take, from those of one batch."""
    sample = source.batch(torch.arange(1))
    signals = distiller.teacher_signals(sample.to(distiller.device).teacher_inputs)
    one = sum(
        tensor.nbytes
        for heard in signals.values()
        for tensor in (heard.logits, *heard.activations.values())
        if tensor is not None
    )
    return one * len(source)


def build_cache(distiller: Distiller, source: Source) -> TeacherCache:
    """Run the teachers once over a source whose samples are the same every epoch."""
    stored: dict[str, dict[TapAddress | None, Tensor]] = {}
    for indices in torch.split(torch.arange(len(source)), distiller.teacher_batch or 128):
        batch = source.batch(indices).to(distiller.device)
        for name, heard in distiller.teacher_signals(batch.teacher_inputs).items():
            tensors = stored.setdefault(name, {})
            for key, tensor in ((None, heard.logits), *heard.activations.items()):
                if tensor is None:
                    continue
                if key not in tensors:
                    shape = (len(source), *tensor.shape[1:])
                    tensors[key] = torch.empty(shape, dtype=tensor.dtype)
                tensors[key][indices] = tensor.cpu()
    return TeacherCache(
        {
            name: Signals(
                tensors.get(None), {key: t for key, t in tensors.items() if key is not None}
            )
            for name, tensors in stored.items()
        },
        distiller.device,
    )
