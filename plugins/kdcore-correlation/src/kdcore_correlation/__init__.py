"""Correlation congruence: a kernel between the samples of a batch (Peng et al. 2019)."""

import math

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from kdcore import (
    Adapters,
    Features,
    Flatten,
    Recommended,
    Shapes,
    Strategy,
    StrategySettings,
    Tap,
    Taps,
    auto,
    hookimpl,
)


class Correlation(Strategy):
    """Peng et al. 2019, arXiv:1904.01802: CC, ``mean over i, j of (K(s_i, s_j) - K(t_i, t_j))²``.

    ``K(x, y) = exp(-γ |x - y|²)`` of vectors of length one, by its Taylor series: the sum over
    ``p`` from 0 to the order of ``exp(-2γ) · (2γ)^p / p! · (x · y)^p``. ``s`` and ``t`` are what
    trained linear layers make of both models' embeddings, in one space.

    The code that circulates as the authors' multiplies the differences ``|s_i - t_i|`` of
    neighbours in the batch, which is another loss; this is the paper's.
    """

    class Settings(StrategySettings):
        """What can be set."""

        student_tap: Tap = Field(auto("embedding"), description="embedding of the student")
        teacher_tap: Tap = Field(auto("embedding"), description="embedding of the teacher")
        width: int = Field(128, ge=1, description="width of the common space")
        gamma: float = Field(0.4, gt=0, le=10, description="γ: how fast the kernel falls")
        order: int = Field(2, ge=1, le=20, description="highest power of the Taylor series")

    settings: Settings
    recommended = Recommended(0.003, 1.0, "Peng et al. 2019, by torchdistill's configuration")

    @hookimpl
    def extract_features(self) -> Taps:
        """Tap what goes into the heads."""
        return Taps(
            student={"embedding": self.settings.student_tap},
            teacher={"embedding": self.settings.teacher_tap},
        )

    @hookimpl
    def adapt_shapes(self, student: Shapes, teacher: Shapes) -> Adapters:
        """Build a linear layer for each model."""
        own, other = (
            nn.Sequential(Flatten(), nn.Linear(shape[1:].numel(), self.settings.width))
            for shape in (student["embedding"], teacher["embedding"])
        )
        return Adapters(student={"embedding": own}, teacher={"embedding": other})

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        """Return a scalar."""
        return F.mse_loss(self._kernel(student["embedding"]), self._kernel(teacher["embedding"]))

    def _kernel(self, x: Tensor) -> Tensor:
        """``K``: ``[batch, width]`` to ``[batch, batch]``."""
        x = F.normalize(x, dim=1)
        cosines, gamma = x @ x.T, self.settings.gamma
        series = cosines.new_zeros(())
        for p in range(self.settings.order + 1):
            series = series + (2 * gamma) ** p / math.factorial(p) * cosines**p
        return math.exp(-2 * gamma) * series
