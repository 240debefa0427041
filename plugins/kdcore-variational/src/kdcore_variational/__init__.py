"""Mutual information between feature maps, by Gaussians of trained variances (Ahn et al. 2019)."""

import math
from collections.abc import Iterable, Mapping

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from kdcore import (
    Adapters,
    AveragePool,
    Features,
    Recommended,
    Resize,
    SeveralTaps,
    Shapes,
    Strategy,
    StrategySettings,
    Taps,
    auto,
    hookimpl,
    require_maps,
)

SMALLEST = 1e-5
"""What a variance never falls below."""


class Variational(Strategy):
    """Ahn et al. 2019, arXiv:1904.05835: VID, ``-log q(t | s)`` of a Gaussian ``q``.

    Of each pair of maps, ``mean over c, h, w of (log v_c + (t - mu(s))² / v_c) / 2``, without the
    constant; the pairs' values are added. ``mu`` is three 1x1 convolutions with ReLU between them,
    ``v_c = log(1 + exp(alpha_c)) + 1e-5`` one trained variance for each of the teacher's channels.
    Where height and width differ, the larger map is averaged to the smaller.

    The paper sums over places, the published code takes their mean, to which the weight belongs.
    """

    class Settings(StrategySettings):
        """What can be set."""

        student_taps: SeveralTaps = Field(
            auto("stages"), description="feature maps of the student; the last are paired"
        )
        teacher_taps: SeveralTaps = Field(
            auto("stages"), description="feature maps of the teacher; the last are paired"
        )
        variance: float = Field(5.0, gt=SMALLEST, le=1e6, description="variance to begin with")

    settings: Settings
    recommended = Recommended(1.0, 1.0, "scripts published with Tian et al. 2020, CIFAR-100")

    @hookimpl
    def extract_features(self) -> Taps:
        """Tap the maps of both models."""
        return Taps({"maps": self.settings.student_taps}, {"maps": self.settings.teacher_taps})

    @hookimpl
    def adapt_shapes(self, student: Shapes, teacher: Shapes) -> Adapters:
        """Build a mean and variances for each pair; a map in none of them becomes one value."""
        own, other = student.all("maps"), teacher.all("maps")
        means: list[nn.Module] = [AveragePool(1) for _ in own]
        resized: list[nn.Module] = [AveragePool(1) for _ in other]
        channels = []
        for place in range(-1, -1 - min(len(own), len(other)), -1):
            s, t = own[place], other[place]
            require_maps(s, t)
            height, width = min(s[2], t[2]), min(s[3], t[3])
            means[place] = nn.Sequential(Resize(height, width), mean(s[1], t[1]))
            resized[place] = Resize(height, width)
            channels.append(t[1])
        variances = Variances(channels, self.settings.variance)
        return Adapters({"maps": means}, {"maps": resized}, {"variance": variances})

    @hookimpl
    def compute_auxiliary_loss(
        self, student: Features, teacher: Features, modules: Mapping[str, nn.Module]
    ) -> Tensor:
        """Return ``[batch]``."""
        means, maps = reversed(student.all("maps")), reversed(teacher.all("maps"))
        losses = [
            ((v.log() + (t - mu).square() / v) / 2).flatten(1).mean(1)
            for v, t, mu in zip(modules["variance"](), maps, means, strict=False)
        ]
        return torch.stack(losses).sum(0)


def mean(given: int, wanted: int) -> nn.Module:
    """Build ``mu``, as wide inside as the teacher's map."""
    first, second, third = (nn.Conv2d(n, wanted, 1) for n in (given, wanted, wanted))
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)


class Variances(nn.Module):
    """``v_c = log(1 + exp(alpha_c)) + 1e-5`` of each pair, the deepest first."""

    def __init__(self, channels: Iterable[int], initial: float) -> None:
        super().__init__()
        value = initial - SMALLEST
        alpha = value + math.log(-math.expm1(-value))  # log(exp(value) - 1), which may overflow
        self.alpha = nn.ParameterList(torch.full((count, 1, 1), alpha) for count in channels)

    def forward(self) -> list[Tensor]:
        """Return ``[channels, 1, 1]`` of each pair."""
        return [F.softplus(alpha) + SMALLEST for alpha in self.alpha]
