"""Relations between samples: distances and angles (Park et al. 2019)."""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from kdcore import Features, Recommended, Strategy, StrategySettings, Tap, Taps, auto, hookimpl


class Relational(Strategy):
    """Park et al. 2019, arXiv:1904.05068: RKD, a scalar over the batch.

    Distance: ``mean over i < j of huber(d(t_i, t_j), d(s_i, s_j))`` with
    ``d(x, y) = |x - y| / mean over pairs of |x - y|``. Angle: the mean over all ``i, j, k`` of
    ``huber(a(t_i, t_j, t_k), a(s_i, s_j, s_k))`` with ``a(x, y, z)`` the cosine of the angle at
    ``y``. Both are zero where teacher and student differ by a rotation and a scale.
    """

    class Settings(StrategySettings):
        student_tap: Tap = Field(auto("embedding"), description="embedding of the student")
        teacher_tap: Tap = Field(auto("embedding"), description="embedding of the teacher")
        distance: float = Field(25.0, ge=0, description="weight of the distances")
        angle: float = Field(50.0, ge=0, description="weight of the angles")

    settings: Settings
    recommended = Recommended(1.0, 1.0, "Park et al. 2019, section 4.2")

    @hookimpl
    def extract_features(self) -> Taps:
        return Taps(
            {"embedding": self.settings.student_tap}, {"embedding": self.settings.teacher_tap}
        )

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> dict[str, Tensor]:
        s, t = student["embedding"].flatten(1), teacher["embedding"].flatten(1)
        distance = F.smooth_l1_loss(distances(s), distances(t), reduction="sum") / pairs(len(s))
        angle = F.smooth_l1_loss(angles(s), angles(t))
        return {"distance": self.settings.distance * distance, "angle": self.settings.angle * angle}


def pairs(samples: int) -> int:
    """Count the pairs; one where there is none, so that the mean over none is zero."""
    return max(1, samples * (samples - 1) // 2)


def distances(x: Tensor) -> Tensor:
    """``[batch, width]`` to ``[pairs]``, of mean one."""
    distance = torch.pdist(x)
    return distance / (distance.sum() / pairs(len(x))).clamp(min=1e-12)


def angles(x: Tensor) -> Tensor:
    """``[batch, width]`` to the cosines ``[batch, batch, batch]``, the vertex first."""
    towards = F.normalize(x[None] - x[:, None], dim=2)
    return towards @ towards.transpose(1, 2)
