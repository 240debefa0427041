"""Where two networks look, at several depths (Zagoruyko & Komodakis 2017)."""

from typing import TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from kdcore import (
    Adapters,
    Features,
    Recommended,
    Resize,
    Shapes,
    Strategy,
    StrategySettings,
    Tap,
    Taps,
    auto,
    hookimpl,
    squared_error,
)

T = TypeVar("T")


class Attention(Strategy):
    """Zagoruyko & Komodakis 2017, arXiv:1612.03928: AT on the last maps of both models.

    The sum over pairs of maps of ``mean((q(s) / |q(s)| - q(t) / |q(t)|)²)``, where ``q`` is the
    mean over channels of the squares, as a vector. Where height and width differ, both maps are
    resized to the smaller.
    """

    class Settings(StrategySettings):
        student_taps: Tap | tuple[Tap, ...] = Field(auto("stages"), description="student's maps")
        teacher_taps: Tap | tuple[Tap, ...] = Field(auto("stages"), description="teacher's maps")
        depth: int = Field(3, ge=1, description="how many of the last maps are compared")

    settings: Settings
    recommended = Recommended(1000.0, 1.0, "Zagoruyko & Komodakis 2017, section 4.1")

    @hookimpl
    def extract_features(self) -> Taps:
        return Taps({"maps": self.settings.student_taps}, {"maps": self.settings.teacher_taps})

    @hookimpl
    def adapt_shapes(self, student: Shapes, teacher: Shapes) -> Adapters:
        own, other = student.all("maps"), teacher.all("maps")
        sizes = [[min(s[2], t[2]), min(s[3], t[3])] for s, t in self._pairs(own, other)]

        def resized(taps: int) -> list[nn.Module]:
            unused: list[nn.Module] = [nn.Identity() for _ in range(taps - len(sizes))]
            return unused + [Resize(*size) for size in sizes]

        return Adapters({"maps": resized(len(own))}, {"maps": resized(len(other))})

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        pairs = self._pairs(student.all("maps"), teacher.all("maps"))
        return torch.stack([squared_error(_q(s), _q(t)) for s, t in pairs]).sum(0)

    def _pairs(self, own: tuple[T, ...], other: tuple[T, ...]) -> list[tuple[T, T]]:
        """Pair the last with the last, the one before with the one before."""
        depth = min(self.settings.depth, len(own), len(other))
        return list(zip(own[-depth:], other[-depth:], strict=True))


def _q(maps: Tensor) -> Tensor:
    """``[batch, channels, height, width]`` to ``[batch, height * width]``, of length one."""
    return F.normalize(maps.square().mean(1).flatten(1), dim=1)
