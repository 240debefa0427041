"""Contrast with remembered embeddings of other samples (Tian et al. 2020)."""

import math

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
    StrategySettings,
    Taps,
    auto,
    hookimpl,
)


class Contrastive(Strategy):
    """After Tian et al. 2020, arXiv:1910.10699: CRD.

    ``-log h(x, y) - sum over N negatives of log(1 - h(x, y'))`` with
    ``h(x, y) = e^(x·y/tau) / (e^(x·y/tau) + N / M)`` for ``M`` samples: the student's embedding
    against what is remembered of the teacher's, and the other way round. Negatives are of another
    class, or of another sample where the class is not known.
    """

    class Settings(StrategySettings):
        width: int = Field(128, ge=1, description="width of the common space")
        negatives: int = Field(64, ge=1, description="negatives a sample, drawn with replacement")
        tau: float = Field(0.07, gt=0, description="temperature")
        momentum: float = Field(0.5, ge=0, lt=1, description="share of the old in the memory")

    settings: Settings
    recommended = Recommended(0.8, 1.0, "Tian et al. 2020")

    @hookimpl
    def extract_features(self) -> Taps:
        return Taps({"embedding": auto("embedding")}, {"embedding": auto("embedding")})

    @hookimpl
    def adapt_shapes(self, setup: Setup, student: Shapes, teacher: Shapes) -> Adapters:
        samples, width = setup.sample_count, self.settings.width
        own, other = (
            nn.Sequential(nn.Flatten(), nn.Linear(shapes["embedding"][1:].numel(), width))
            for shapes in (student, teacher)
        )
        memory = {who: F.normalize(torch.randn(samples, width)) for who in ("student", "teacher")}
        return Adapters({"embedding": own}, {"embedding": other}, state=memory)

    @hookimpl
    def compute_auxiliary_loss(
        self,
        setup: Setup,
        student: Features,
        teacher: Features,
        state: State,
        indices: Tensor,
        generator: Generator,
    ) -> Tensor:
        s, t = F.normalize(student["embedding"]), F.normalize(teacher["embedding"])
        negatives = self._negatives(setup.targets, indices, generator)
        chosen = torch.cat([indices[:, None], negatives], dim=1)
        for who, now in (("student", s), ("teacher", t)):
            mixed = torch.lerp(now.detach(), state[who][indices], self.settings.momentum)
            state.write(who, F.normalize(mixed), at=indices)
        constant = math.log(self.settings.negatives / setup.sample_count)
        loss: Tensor = torch.zeros_like(s[:, 0])
        for x, remembered in ((s, state["teacher"][chosen]), (t, state["student"][chosen])):
            odds = torch.einsum("bw,bnw->bn", x, remembered) / self.settings.tau - constant
            loss = loss + F.softplus(-odds[:, 0]) + F.softplus(odds[:, 1:]).sum(1)
        return loss

    def _negatives(self, targets: Tensor, indices: Tensor, generator: Generator) -> Tensor:
        """Draw indices ``[batch, negatives]``."""
        own = targets[indices][:, None]
        allowed = ((targets != own) | (own < 0)).scatter(1, indices[:, None], False)
        return torch.multinomial(
            allowed.float(), self.settings.negatives, replacement=True, generator=generator
        )
