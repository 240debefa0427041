"""Attention transfer: where in an image the two models look (Zagoruyko & Komodakis 2017)."""

from typing import TypeVar

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

T = TypeVar("T")


class Attention(Strategy):
    """Zagoruyko & Komodakis 2017, arXiv:1612.03928: activation-based AT, equation 2.

    A pair of maps gives ``|Q_S / |Q_S| - Q_T / |Q_T|| / (2 · height · width)``, and the pairs are
    added up. ``|·|`` is the Euclidean norm, the paper's ``p = 2``. ``Q`` is the attention map as a
    vector, the sum over channels of the squared activations. Attention maps of unequal size are
    both averaged down to the smaller height and width. The paper's ``beta`` is 1000 divided by the
    map's elements and the batch size: 1000 is the weight, and the core takes the mean over the
    batch. The published code takes the mean of the squared differences instead of the norm.
    """

    class Settings(StrategySettings):
        """What can be set."""

        student_taps: SeveralTaps = Field(
            auto("stages"), description="feature maps of the student, the finest first"
        )
        teacher_taps: SeveralTaps = Field(
            auto("stages"), description="feature maps of the teacher, the finest first"
        )
        depth: int = Field(3, ge=1, description="how many maps are compared, counted from the last")

    settings: Settings
    recommended = Recommended(1000.0, 1.0, "Zagoruyko & Komodakis 2017, section 4.1")
    where_equal = "zero"

    @hookimpl
    def extract_features(self) -> Taps:
        """Tap the maps of both models."""
        return Taps(
            student={"maps": self.settings.student_taps},
            teacher={"maps": self.settings.teacher_taps},
        )

    @hookimpl
    def adapt_shapes(self, student: Shapes, teacher: Shapes) -> Adapters:
        """Need maps; one of the teacher that is in no pair becomes one value, which is kept."""
        pairs = self._pairs(student.all("maps"), teacher.all("maps"))
        for pair in pairs:
            require_maps(*pair)
        unused = len(teacher.all("maps")) - len(pairs)
        kept: list[nn.Module] = [AveragePool(1) for _ in range(unused)]
        return Adapters(teacher={"maps": [*kept, *(nn.Identity() for _ in pairs)]})

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        """Return ``[batch]``."""
        pairs = self._pairs(student.all("maps"), teacher.all("maps"))
        return torch.stack([_distance(s, t) for s, t in pairs]).sum(0)

    def _pairs(self, student: tuple[T, ...], teacher: tuple[T, ...]) -> list[tuple[T, T]]:
        """Pair the last with the last, the one before with the one before."""
        depth = min(self.settings.depth, len(student), len(teacher))
        return list(zip(student[-depth:], teacher[-depth:], strict=True))


def _distance(student: Tensor, teacher: Tensor) -> Tensor:
    """``[batch, channels, height, width]``, of any channels and sizes, to ``[batch]``."""
    smaller = Resize(*map(min, zip(student.shape[2:], teacher.shape[2:], strict=True)))
    q_s, q_t = (smaller(x.square().sum(1, keepdim=True)).flatten(1) for x in (student, teacher))
    difference = F.normalize(q_s) - F.normalize(q_t)
    distance: Tensor = torch.linalg.vector_norm(difference, dim=1) / (2 * q_s.shape[1])
    return distance
