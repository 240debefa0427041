"""Mutual information between feature maps, by a Gaussian (Ahn et al. 2019)."""

import math
from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from kdcore import (
    Adapters,
    Features,
    Shapes,
    Strategy,
    StrategySettings,
    Tap,
    Taps,
    auto,
    hookimpl,
    regressor,
)

SMALLEST = 1e-5


class ChannelVariance(nn.Module):
    """``log(1 + exp(alpha_c))`` plus a constant, one trained ``alpha`` a channel."""

    def __init__(self, channels: int, initial: float) -> None:
        super().__init__()
        alpha = math.log(math.expm1(initial - SMALLEST))
        self.alpha = nn.Parameter(torch.full((channels, 1, 1), alpha))

    def forward(self) -> Tensor:
        return F.softplus(self.alpha) + SMALLEST


class Variational(Strategy):
    """Ahn et al. 2019, arXiv:1904.05835: VID, ``-log q(teacher | student)`` without its constant.

    ``mean over c, h, w of (log v_c + (t - mu(s))² / v_c) / 2``; the mean ``mu`` is a regressor from
    the student's map, the variance ``v_c`` of each of the teacher's channels is trained.
    """

    class Settings(StrategySettings):
        student_tap: Tap = Field(auto("feature_map"), description="feature map of the student")
        teacher_tap: Tap = Field(auto("feature_map"), description="feature map of the teacher")
        variance: float = Field(5.0, gt=SMALLEST, lt=80, description="variance to begin with")

    settings: Settings

    @hookimpl
    def extract_features(self) -> Taps:
        return Taps({"map": self.settings.student_tap}, {"map": self.settings.teacher_tap})

    @hookimpl
    def adapt_shapes(self, student: Shapes, teacher: Shapes) -> Adapters:
        variance = ChannelVariance(teacher["map"][1], self.settings.variance)
        mean = regressor(student["map"], teacher["map"], 1)
        return Adapters(student={"map": mean}, modules={"variance": variance})

    @hookimpl
    def compute_auxiliary_loss(
        self, student: Features, teacher: Features, modules: Mapping[str, nn.Module]
    ) -> Tensor:
        variance: Tensor = modules["variance"]()
        squared = (teacher["map"] - student["map"]).square()
        return ((variance.log() + squared / variance) / 2).flatten(1).mean(1)
