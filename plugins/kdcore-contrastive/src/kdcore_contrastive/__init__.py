"""Contrast with remembered embeddings of other samples (Tian et al. 2020)."""

import math
from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from kdcore import (
    Adapters,
    Features,
    Recommended,
    Setup,
    Shapes,
    State,
    Strategy,
    StrategyError,
    StrategySettings,
    Tap,
    Taps,
    auto,
    hookimpl,
)

AT_ONCE = 2**24
"""Similarities that are held at a time: 64 MiB in float32."""


class Contrastive(Strategy):
    """Tian et al. 2020, arXiv:1910.10699: CRD.

    ``x`` is a sample's embedding, linear and of length one; ``y`` is what is remembered of the
    same sample in the other model, ``y'`` of ``N`` others of another class. Each sample gives

    ``-log h(x, y) - Σ log(1 - h(x, y'))`` with ``h(x, y) = e^(x·y/tau) / (e^(x·y/tau) + z N)``,

    for ``x`` of the student and ``y`` of the teacher, and the reverse, added.

    The paper writes ``z = 1 / M`` for ``M`` samples. Its published code, to which the weight
    belongs, takes for ``z`` the mean of ``e^(x·y/tau)`` over the random memory of the start.
    """

    class Settings(StrategySettings):
        """What can be set."""

        student_tap: Tap = Field(auto("embedding"), description="embedding of the student")
        teacher_tap: Tap = Field(auto("embedding"), description="embedding of the teacher")
        width: int = Field(128, ge=1, description="width of the common space")
        negatives: int = Field(16_384, ge=1, description="drawn a sample, with replacement")
        tau: float = Field(0.07, ge=0.01, description="temperature")
        momentum: float = Field(0.5, ge=0, lt=1, description="share of the old in the memory")
        normalised: bool = Field(
            True, description="take z from the memory of the start; false is the paper's 1 / M"
        )

    settings: Settings
    recommended = Recommended(0.8, 1.0, "Tian et al. 2020 and its published scripts")

    @hookimpl
    def extract_features(self) -> Taps:
        """Tap what the heads are given."""
        return Taps(
            {"embedding": self.settings.student_tap}, {"embedding": self.settings.teacher_tap}
        )

    @hookimpl
    def adapt_shapes(self, setup: Setup, student: Shapes, teacher: Shapes) -> Adapters:
        """Build both embeddings and the memory of each sample."""
        where = sorted_by_class(setup.targets)
        samples, width = len(setup.targets), self.settings.width
        own, other = (
            nn.Sequential(nn.Flatten(), nn.Linear(shapes["embedding"][1:].numel(), width))
            for shapes in (student, teacher)
        )
        memory = {who: F.normalize(torch.randn(samples, width)) for who in ("student", "teacher")}
        log_z = torch.tensor(-math.log(samples))
        if self.settings.normalised:
            some = memory["student"][:1024] @ memory["teacher"][:1024].T / self.settings.tau
            log_z = some.logsumexp((0, 1)) - math.log(some.numel())
        state = {**memory, **where, "log_z": log_z}
        return Adapters({"embedding": own}, {"embedding": other}, state=state)

    @hookimpl
    def compute_auxiliary_loss(
        self,
        student: Features,
        teacher: Features,
        state: State,
        indices: Tensor,
        generator: Generator,
    ) -> Tensor:
        """Return ``[batch]``."""
        s, t = F.normalize(student["embedding"]), F.normalize(teacher["embedding"])
        negatives = self._negatives(state, indices, generator)
        chosen = torch.cat([indices[:, None], negatives], dim=1)
        loss = self._loss(s, state["teacher"], chosen, state["log_z"])
        loss = loss + self._loss(t, state["student"], chosen, state["log_z"])
        for who, now in (("student", s), ("teacher", t)):
            mixed = torch.lerp(now.detach(), state[who][indices], self.settings.momentum)
            state.write(who, F.normalize(mixed), at=indices)
        return loss

    def _loss(self, x: Tensor, memory: Tensor, chosen: Tensor, log_z: Tensor) -> Tensor:
        """Return ``[batch]``; each of ``chosen`` has the sample's own index first."""
        rows = max(1, AT_ONCE // len(memory))
        similar = [
            (x @ memory.T).gather(1, places)
            for x, places in zip(torch.split(x, rows), torch.split(chosen, rows), strict=True)
        ]
        # The log of h / (1 - h).
        odds = torch.cat(similar) / self.settings.tau - log_z - math.log(self.settings.negatives)
        return F.softplus(-odds[:, 0]) + F.softplus(odds[:, 1:]).sum(1)

    def _negatives(
        self, where: Mapping[str, Tensor], indices: Tensor, generator: Generator
    ) -> Tensor:
        """Draw samples of other classes evenly, ``int64 [batch, negatives]``."""
        order, begin, end = where["order"], where["begin"][indices], where["end"][indices]
        shape = (len(indices), self.settings.negatives)
        # The remainder of a number so large is even, and needs no mask of all samples.
        drawn = torch.randint(2**48, shape, generator=generator, device=indices.device)
        others = len(order) - (end - begin)
        return order[(end[:, None] + drawn % others[:, None]) % len(order)]


def sorted_by_class(targets: Tensor) -> dict[str, Tensor]:
    """Return samples in the order of their class, and of each where its class begins and ends.

    A sample without label is a class of its own.

    Raises:
        StrategyError: samples have no class each, or all have the same.
    """
    if targets.ndim != 1 or targets.is_floating_point():
        raise StrategyError(
            "draws negatives of other classes, but a sample has no one class here: use a strategy "
            "that compares features"
        )
    order = targets.argsort(stable=True)
    place = order.argsort()
    first, last = (torch.searchsorted(targets[order], targets, right=r) for r in (False, True))
    begin, end = torch.where(targets < 0, place, first), torch.where(targets < 0, place + 1, last)
    if bool((end - begin == len(targets)).any()):
        raise StrategyError("all samples are of one class: there are no negatives to draw")
    return {"order": order, "begin": begin, "end": end}
