"""Probabilistic knowledge transfer: who is near whom in a batch (Passalis & Tefas 2018)."""

import math

import torch
from pydantic import Field
from torch import Tensor

from kdcore import Features, Recommended, Strategy, StrategySettings, Tap, Taps, auto, hookimpl


class PKT(Strategy):
    """Passalis & Tefas 2018, arXiv:1803.10837: ``KL(teacher ‖ student)`` over a sample's others.

    With the kernel ``K(x, y) = (cos(x, y) + 1) / 2``, sample ``i`` is near sample ``j`` with the
    probability ``p_i|j = K(t_i, t_j) / Σ_k≠j K(t_k, t_j)`` for the teacher, and ``q_i|j`` likewise
    for the student. The loss is the mean over ``j`` and ``i ≠ j`` of
    ``p_i|j · (log p_i|j - log q_i|j)``.

    The published code has ``i = j`` in all sums, the paper leaves it out. The mean, where the paper
    writes a sum, is the code's. The kernel is at least 1e-7, so that vectors that oppose each other
    have a finite loss. A vector of zeros has no direction: its cosines are zero.
    """

    class Settings(StrategySettings):
        """What can be set."""

        student_tap: Tap = Field(auto("embedding"), description="embedding of the student")
        teacher_tap: Tap = Field(auto("embedding"), description="embedding of the teacher")

    settings: Settings
    recommended = Recommended(30000.0, 1.0, "the benchmark of Tian et al. 2020, arXiv:1910.10699")
    where_equal = "zero"

    @hookimpl
    def extract_features(self) -> Taps:
        """Tap what goes into the heads."""
        return Taps(
            student={"embedding": self.settings.student_tap},
            teacher={"embedding": self.settings.teacher_tap},
        )

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        """Return a scalar; of one sample or two it is zero, for there is nothing to compare."""
        p = probabilities(teacher["embedding"].flatten(1))
        q = probabilities(student["embedding"].flatten(1))
        return (p * (p.log() - q.log())).sum() / max(1, p.numel())


def probabilities(x: Tensor) -> Tensor:
    """``[batch, width]`` to ``[batch, batch - 1]``: by sample ``j``, those of the others."""
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    unit = x / length.where(length > 0, math.inf)
    kernel = others(((unit @ unit.T + 1) / 2).clamp(min=1e-7))
    return kernel / kernel.sum(1, keepdim=True)


def others(square: Tensor) -> Tensor:
    """``[batch, batch]`` to ``[batch, batch - 1]``: each row without its value on the diagonal."""
    n = len(square)
    # Behind the first value of the diagonal, each next one is the last of n + 1 values.
    return square.flatten()[1:].reshape(n - 1, n + 1)[:, :-1].reshape(n, n - 1)
