"""Correlation between the samples of a batch (Peng et al. 2019)."""

import math

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from kdcore import Adapters, Features, Shapes, Strategy, StrategySettings, Tap, Taps, auto, hookimpl


class Correlation(Strategy):
    """Peng et al. 2019, arXiv:1904.01802: CC, ``mean over i, j of (K(s_i, s_j) - K(t_i, t_j))²``.

    ``K(x, y) = exp(-gamma |x - y|²)`` of vectors of length one, by its Taylor series: the sum over
    ``p`` up to the order of ``exp(-2 gamma) (2 gamma)^p / p! (x · y)^p``. Trained linear layers
    embed both models' features in one space.
    """

    class Settings(StrategySettings):
        student_tap: Tap = Field(auto("embedding"), description="embedding of the student")
        teacher_tap: Tap = Field(auto("embedding"), description="embedding of the teacher")
        width: int = Field(128, ge=1, description="width of the common space")
        gamma: float = Field(0.4, gt=0, description="inverse width of the kernel")
        order: int = Field(2, ge=1, description="highest power of the series")

    settings: Settings

    @hookimpl
    def extract_features(self) -> Taps:
        return Taps(
            {"embedding": self.settings.student_tap}, {"embedding": self.settings.teacher_tap}
        )

    @hookimpl
    def adapt_shapes(self, student: Shapes, teacher: Shapes) -> Adapters:
        own, other = (
            nn.Sequential(nn.Flatten(), nn.Linear(shape[1:].numel(), self.settings.width))
            for shape in (student["embedding"], teacher["embedding"])
        )
        return Adapters(student={"embedding": own}, teacher={"embedding": other})

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        return F.mse_loss(self._kernel(student["embedding"]), self._kernel(teacher["embedding"]))

    def _kernel(self, x: Tensor) -> Tensor:
        """``[batch, width]`` to ``[batch, batch]``."""
        x = F.normalize(x, dim=1)
        cosines, gamma = x @ x.T, self.settings.gamma
        series = [
            (2 * gamma) ** p / math.factorial(p) * cosines**p
            for p in range(self.settings.order + 1)
        ]
        return math.exp(-2 * gamma) * sum(series[1:], series[0])
