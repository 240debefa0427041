"""Which samples go where: splits that keep the classes' shares, and choices of labels.

Indices alone: what is split, and what a part is for, is in `load`.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from kdcore.errors import DataError
from kdcore.randomness import stream
from kdcore.tasks import UNLABELLED, labelled_samples

Item = TypeVar("Item")

ATTEMPTS = 16
NEAR_ENOUGH = 0.01

TEST_SHARE = 0.2
"""Share held out for testing where neither the data nor the experiment says."""


def strata(targets: Tensor) -> list[int]:
    """Return the classes whose shares a split keeps.

    Args:
        targets: ``int64 [samples]``; of any other task, which has no classes of samples, all
            samples that have a label are of one.
    """
    if targets.ndim == 1 and not targets.is_floating_point():
        found: list[int] = targets.tolist()
        return found
    return torch.where(labelled_samples(targets), 0, UNLABELLED).tolist()


def stratified_split(
    targets: Sequence[int],
    share: float,
    seed: int,
    groups: Sequence[str] | None = None,
    *,
    classes: Sequence[str] = (),
) -> tuple[list[int], list[int]]:
    """Hold out the same share of every class, as nearly as whole groups allow.

    Of every class with two samples or more, at least one is held out and one is kept.
    Unlabelled samples are kept, and their groups with them.

    Args:
        targets: the class of each sample, or `UNLABELLED`.
        share: how much of each class to hold out, above 0 and below 1.
        seed: with equal arguments the split is equal.
        groups: what each sample belongs to; no group is parted. None: each stands alone.
        classes: the classes' names, for messages.

    Returns:
        The indices that are kept and those that are held out, each ascending.

    Raises:
        DataError: no such split was found.
    """
    assert 0 < share < 1
    members = _by_class(targets)
    wanted = _wanted(members, share)
    if groups is None:
        generator = stream(seed, "split")
        held = []
        for target, indices in members.items():
            held += shuffled(indices, generator)[: wanted[target]]
    else:
        side = _nearest(targets, groups, wanted, seed)
        _refuse_lacking(side, members, groups, classes)
        held = [index for index, group in enumerate(groups) if group in side.groups]
    return sorted(set(range(len(targets))).difference(held)), sorted(held)


def _by_class(targets: Sequence[int]) -> dict[int, list[int]]:
    members: dict[int, list[int]] = {target: [] for target in sorted(set(targets) - {UNLABELLED})}
    for index, target in enumerate(targets):
        if target != UNLABELLED:
            members[target].append(index)
    return members


def shuffled(items: Sequence[Item], generator: torch.Generator) -> list[Item]:
    """Return the items in a random order."""
    return [items[place] for place in torch.randperm(len(items), generator=generator).tolist()]


def _wanted(members: dict[int, list[int]], share: float) -> dict[int, int]:
    wanted = {
        target: min(max(1, round(len(indices) * share)), len(indices) - 1)
        for target, indices in members.items()
    }
    if not any(wanted.values()):
        raise DataError("cannot split the data: no class has two labelled images; add some")
    return wanted


def _nearest(
    targets: Sequence[int], groups: Sequence[str], wanted: dict[int, int], seed: int
) -> "_Side":
    counts: dict[str, Counter[int]] = {group: Counter() for group in groups}
    for group, target in zip(groups, targets, strict=True):
        counts[group][target] += 1
    free = [group for group in counts if UNLABELLED not in counts[group]]
    best = _Side(Counter(targets), wanted)
    for attempt in range(ATTEMPTS):
        side = _Side(best.sizes, wanted)
        order = shuffled(free, stream(seed, "split", attempt))
        side.fill({group: counts[group] for group in order})
        best = min(best, side, key=_Side.total)
        if best.total() <= len(wanted) * NEAR_ENOUGH**2:
            break
    return best


class _Side:
    """The groups that are held out, and how far they are from what is wanted of each class."""

    def __init__(self, sizes: Counter[int], wanted: dict[int, int]) -> None:
        self.sizes = sizes
        self.wanted = wanted
        self.groups: set[str] = set()
        self.held: Counter[int] = Counter()

    def fill(self, candidates: dict[str, Counter[int]]) -> None:
        """Move whole groups in and out, in their order, until no move brings us nearer."""
        moved = True
        while moved:
            moved = False
            for group, counts in candidates.items():
                sign = -1 if group in self.groups else 1
                gain = sum(
                    self._distance(target, self.held[target])
                    - self._distance(target, self.held[target] + sign * count)
                    for target, count in counts.items()
                )
                # Rounding alone must not move a group back and forth for ever.
                if gain > 1e-12:
                    self.groups ^= {group}
                    for target, count in counts.items():
                        self.held[target] += sign * count
                    moved = True

    def total(self) -> float:
        """Return the distance of all classes; 0 where each has exactly what is wanted."""
        return sum(self._distance(target, self.held[target]) for target in self.wanted)

    def lacks(self, target: int, held: int) -> bool:
        """Return whether a class that could be on both sides is not, with so many held out."""
        return held == self.sizes[target] or (held == 0 and self.sizes[target] > 1)

    def _distance(self, target: int, held: int) -> float:
        # A class that is missing on a side outweighs any inequality of all classes together.
        lack = 2 * len(self.wanted) if self.lacks(target, held) else 0
        return lack + ((held - self.wanted[target]) / self.sizes[target]) ** 2


def _refuse_lacking(
    side: _Side, members: dict[int, list[int]], groups: Sequence[str], classes: Sequence[str]
) -> None:
    for target, indices in members.items():
        if side.lacks(target, side.held[target]):
            name = repr(classes[target]) if classes else str(target)
            within = len({groups[index] for index in indices})
            raise DataError(
                f"cannot split the data: class {name}, in {within} group(s), cannot be on both "
                "sides with each group on one; add images of it in other groups, or change "
                "data.group_by"
            )


def stratified_subset(targets: Sequence[int], count: int, seed: int) -> list[int]:
    """Choose labelled samples at random, of each class as nearly the same number as can be.

    Args:
        targets: the class of each sample, or `UNLABELLED`.
        count: how many samples to choose.
        seed: with equal arguments the choice is equal.

    Returns:
        The chosen indices, ascending.

    Raises:
        DataError: `count` is below the number of classes or above the number of labels.
    """
    members = list(_by_class(targets).values())
    labelled = sum(map(len, members))
    if not len(members) <= count <= labelled:
        raise DataError(
            f"cannot keep {count} labels: there are {labelled} labelled images in {len(members)} "
            f"classes; choose data.labels (--labels N) from {len(members)} to {labelled}, or keep "
            "all with --set data.labels=none"
        )
    generator = stream(seed, "subset")
    # Smallest first: what a small class cannot give, the classes after it share.
    queue = sorted(shuffled(members, generator), key=len)
    chosen: list[int] = []
    for place, indices in enumerate(queue):
        quota = min(len(indices), (count - len(chosen)) // (len(queue) - place))
        chosen += shuffled(indices, generator)[:quota]
    return sorted(chosen)
