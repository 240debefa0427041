"""Soft targets of standardized logits: their relations, not their size (Sun et al. 2024)."""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from kdcore import (
    Adapters,
    Features,
    Recommended,
    Setup,
    Shapes,
    Strategy,
    StrategyError,
    StrategySettings,
    divergence,
    hookimpl,
    require_classes,
    require_same_classes,
)


class Standardized(Strategy):
    """Sun et al. 2024, arXiv:2403.01427: ``τ² · KL(teacher ‖ student)`` of standardized logits.

    With ``Z(x) = (x - mean(x)) / σ(x) / τ`` over the classes of a row, ``p = softmax(Z(teacher))``
    and ``q = softmax(Z(student))``, each row gives ``τ² · Σ p · (log p - log q)``. A student whose
    logits are ``a · teacher + b`` with a positive ``a`` has nothing left to learn.

    ``σ`` is as in the paper's algorithm 1, the mean over all ``K`` classes under the root; the
    published code divides by ``K - 1`` there. The rounding error that is added to the variance
    keeps the gradient of equal logits finite.
    """

    class Settings(StrategySettings):
        """What can be set."""

        temperature: float = Field(
            2.0, gt=0, description="base temperature τ: standardized logits have deviation 1 / τ"
        )

    settings: Settings
    recommended = Recommended(9.0, 0.1, "Sun et al. 2024, table 4")
    where_equal = "zero"

    @hookimpl
    def adapt_shapes(self, setup: Setup, student: Shapes, teacher: Shapes) -> Adapters:
        """Need no adapter, only classes, the same of both and more than two."""
        require_classes(setup)
        require_same_classes(student, teacher)
        if student.logits[-1] < 3:
            raise StrategyError(
                f"needs three classes at least, the models have {student.logits[-1]}: two "
                "standardized logits are always 1 and -1; use logits there"
            )
        return Adapters()

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        """Return ``[rows]``, finite also where all logits of a row are equal."""
        tau = self.settings.temperature
        log_p = F.log_softmax(standardized(teacher.logits) / tau, dim=-1)
        log_q = F.log_softmax(standardized(student.logits) / tau, dim=-1)
        return tau**2 * divergence(log_p, log_q)


def standardized(x: Tensor) -> Tensor:
    """Return ``(x - mean(x)) / σ(x)`` of each row."""
    deviation = x - x.mean(-1, keepdim=True)
    variance = deviation.square().mean(-1, keepdim=True)
    return deviation / (variance + torch.finfo(x.dtype).eps).sqrt()
