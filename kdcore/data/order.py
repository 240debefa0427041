"""In which order a training sees its samples: a function of seed and epoch alone."""

import torch
from torch import Tensor

from kdcore.randomness import stream
from kdcore.tasks import labelled_samples


class Order:
    """The batches of each epoch.

    Where all samples have a label, or none has: all samples, shuffled, the last batch kept
    though it may be smaller. Where some have: each batch holds a fixed share of labelled
    samples, drawn in shuffled rounds, and the epoch ends when all others were seen once.

    Args:
        targets: every sample's target, ``[samples, ...]``; one that has any is labelled.
        batch_size: samples a batch.
        labelled_share: share of each batch that is labelled, where others are not.
        seed: of the order.
    """

    def __init__(self, targets: Tensor, batch_size: int, labelled_share: float, seed: int) -> None:
        has_label = labelled_samples(targets)
        self._labelled = has_label.nonzero().flatten()
        self._others = (~has_label).nonzero().flatten()
        self._seed = seed
        self._batch_size = batch_size
        self.mixes = bool(len(self._labelled)) and bool(len(self._others)) and batch_size > 1
        share = round(batch_size * labelled_share)
        self._labelled_a_batch = min(max(share, 1), batch_size - 1) if self.mixes else 0

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        if self.mixes:
            return -(-len(self._others) // (self._batch_size - self._labelled_a_batch))
        return -(-(len(self._labelled) + len(self._others)) // self._batch_size)

    def epoch(self, epoch: int) -> list[Tensor]:
        """Return the sample indices of each batch of one epoch, from 0."""
        generator = stream(self._seed, "order", epoch)
        if not self.mixes:
            everything = torch.cat([self._labelled, self._others]).sort().values
            return list(torch.split(_shuffled(everything, generator), self._batch_size))
        rest = self._batch_size - self._labelled_a_batch
        others = torch.split(_shuffled(self._others, generator), rest)
        needed = self._labelled_a_batch * len(others)
        rounds = -(-needed // len(self._labelled))
        labelled = torch.cat([_shuffled(self._labelled, generator) for _ in range(rounds)])
        mine = torch.split(labelled[:needed], self._labelled_a_batch)
        return [torch.cat(pair) for pair in zip(mine, others, strict=True)]


def _shuffled(indices: Tensor, generator: torch.Generator) -> Tensor:
    return indices[torch.randperm(len(indices), generator=generator)]
