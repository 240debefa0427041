"""Relations: distances and angles between the samples of a batch (Park et al. 2019)."""

import math

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from kdcore import Features, Recommended, Strategy, StrategySettings, Tap, Taps, auto, hookimpl


class Relational(Strategy):
    """Park et al. 2019, arXiv:1904.05068: RKD, on embeddings ``s`` and ``t`` of a batch.

    Distance: the mean over pairs ``i ≠ j`` of ``huber(ψ_D(t_i, t_j), ψ_D(s_i, s_j))`` with
    ``ψ_D(x, y) = |x - y| / μ``, where ``μ`` is the mean of ``|x - y|`` over the pairs. Angle: the
    mean over triples of distinct samples of ``huber(ψ_A(t_i, t_j, t_k), ψ_A(s_i, s_j, s_k))`` with
    ``ψ_A(x, y, z)`` the cosine of the angle at ``y``. ``huber(a, b)`` is ``(a - b)² / 2`` up to
    differences of one, ``|a - b| - 1/2`` beyond.

    Pairs and triples are of distinct samples, as in the paper; its published code takes the mean
    over all, zeros included, and ``μ`` over distances above zero. The mean, where the paper writes
    a sum, is the code's. A point that coincides with the vertex has no direction: its cosine is
    zero, without a gradient.
    """

    class Settings(StrategySettings):
        """What can be set."""

        student_tap: Tap = Field(auto("embedding"), description="embedding of the student")
        teacher_tap: Tap = Field(auto("embedding"), description="embedding of the teacher")
        distance: float = Field(25.0, ge=0, description="weight of the distances")
        angle: float = Field(50.0, ge=0, description="weight of the angles")

    settings: Settings
    recommended = Recommended(1.0, 1.0, "Park et al. 2019, image classification")
    where_equal = "zero"

    @hookimpl
    def extract_features(self) -> Taps:
        """Tap what goes into the heads."""
        return Taps(
            student={"embedding": self.settings.student_tap},
            teacher={"embedding": self.settings.teacher_tap},
        )

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> dict[str, Tensor]:
        """Return two scalars, each with its own weight."""
        s, t = distances(student["embedding"]), distances(teacher["embedding"])
        pairs = len(s) * (len(s) - 1)
        triples = pairs * (len(s) - 2) // 2  # each angle once
        distance = F.huber_loss(s, t, reduction="sum") / max(1, pairs)
        angle = F.huber_loss(angles(s), angles(t), reduction="sum") / max(1, triples)
        return {"distance": self.settings.distance * distance, "angle": self.settings.angle * angle}


def distances(x: Tensor) -> Tensor:
    """``ψ_D``: ``[batch, ...]`` to ``[batch, batch]``, of mean one over pairs."""
    x = x.flatten(1)
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    mu = distance.sum() / max(1, len(x) * (len(x) - 1))
    return distance / mu.clamp(min=1e-12)


def angles(distance: Tensor) -> Tensor:
    """``ψ_A``: distances to ``[batch, batch, batch]``, vertex first, by the law of cosines."""
    squares = distance.square()
    # As near as rounding, samples have no direction, and the gradient would have no bound.
    side = distance.where(distance > 1e-4, math.inf)
    cosines = (squares[:, :, None] + squares[:, None] - squares) / side[:, :, None] / side[:, None]
    return (cosines / 2).triu(1)
