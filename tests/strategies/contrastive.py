"""Contrast with remembered embeddings of other samples (Tian et al. 2020)."""

import math

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from kdcore import Adapters, Features, Recommended, Setup, Shapes, State, Strategy
from kdcore import StrategySettings, Tap, Taps, auto, hookimpl


class Contrastive(Strategy):
    """After Tian et al. 2020, arXiv:1910.10699: CRD.

    ``-log h(x, y) - sum over N negatives of log(1 - h(x, y'))`` with
    ``h(x, y) = e^(x·y/tau) / (e^(x·y/tau) + N / M)`` for ``M`` samples: the student's embedding
    against what is remembered of the teacher's, and the other way round. Negatives are of another
    class, or of another sample where the class is not known.
    """

    class Settings(StrategySettings):
        student_tap: Tap = Field(auto("embedding"), description="embedding of the student")
        teacher_tap: Tap = Field(auto("embedding"), description="embedding of the teacher")
        width: int = Field(128, ge=1, description="width of the common space")
        negatives: int = Field(64, ge=1, description="negatives a sample, drawn with replacement")
        tau: float = Field(0.07, gt=0, description="temperature")
        momentum: float = Field(0.5, ge=0, lt=1, description="share of the old in the memory")

    settings: Settings
    recommended = Recommended(0.8, 1.0, "Tian et al. 2020")

    @hookimpl
    def extract_features(self) -> Taps:
        return Taps({"embedding": self.settings.student_tap}, {"embedding": self.settings.teacher_tap})

    @hookimpl
    def adapt_shapes(self, setup: Setup, student: Shapes, teacher: Shapes) -> Adapters:
        samples, width = setup.sample_count, self.settings.width
        own, other = (
            nn.Sequential(nn.Flatten(), nn.Linear(shape[1:].numel(), width))
            for shape in (student["embedding"], teacher["embedding"])
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
        s, t = (F.normalize(features["embedding"]) for features in (student, teacher))
        others = self._negatives(setup.targets, indices, generator)
        chosen = torch.cat([indices[:, None], others], dim=1)
        loss = self._contrast(s, state["teacher"][chosen]) + self._contrast(t, state["student"][chosen])
        for who, now in (("student", s), ("teacher", t)):
            mixed = torch.lerp(now.detach(), state[who][indices], self.settings.momentum)
            state.write(who, F.normalize(mixed), at=indices)
        return loss

    def _negatives(self, targets: Tensor, indices: Tensor, generator: Generator) -> Tensor:
        """Draw indices ``[batch, negatives]``."""
        own = targets[indices][:, None]
        allowed = (targets != own) | (own < 0)
        allowed[torch.arange(len(indices)), indices] = False
        return torch.multinomial(
            allowed.float(), self.settings.negatives, replacement=True, generator=generator
        )

    def _contrast(self, x: Tensor, remembered: Tensor) -> Tensor:
        """``[batch, width]`` with ``[batch, 1 + negatives, width]``, the positive first."""
        n, m = self.settings.negatives, self.settings.tau
        raise NotImplementedError
