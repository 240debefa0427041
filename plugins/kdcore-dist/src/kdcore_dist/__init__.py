"""DIST: correlations of the predictions instead of their equality (Huang et al. 2022)."""

import torch
from pydantic import Field
from torch import Tensor

from kdcore import (
    Adapters,
    AuxiliaryLoss,
    Features,
    Recommended,
    Setup,
    Shapes,
    Strategy,
    StrategySettings,
    hookimpl,
    require_classes,
    require_same_classes,
)


class DIST(Strategy):
    """Huang et al. 2022, arXiv:2205.10536: ``beta · inter + gamma · intra``.

    With ``y = softmax(logits / T)``, ``[rows, classes]``, of both models and Pearson's ``rho``:

    - ``inter = 1 - rho(y_s[i, :], y_t[i, :])`` for each row ``i``, over its classes;
    - ``intra = mean over classes j of 1 - rho(y_s[:, j], y_t[:, j])``, over the rows of the batch.

    Where the teacher does not vary there is nothing to correlate, and the distance is 0, so that
    a batch of one has no ``intra``; the published code gives a constant 1. ``T`` is 4, as for
    CIFAR-100; for ImageNet it is 1. Later published code multiplies by ``T²``; the paper does not.
    """

    class Settings(StrategySettings):
        """What can be set."""

        beta: float = Field(2.0, ge=0, description="weight of the correlation over classes")
        gamma: float = Field(2.0, ge=0, description="weight of the correlation over samples")
        temperature: float = Field(
            4.0, gt=0, description="divides both models' logits before the softmax"
        )

    settings: Settings
    recommended = Recommended(1.0, 1.0, "Huang et al. 2022, image classification")
    where_equal = "zero"

    @hookimpl
    def adapt_shapes(self, setup: Setup, student: Shapes, teacher: Shapes) -> Adapters:
        """Need no adapter, only classes, and the same of both."""
        require_classes(setup)
        require_same_classes(student, teacher)
        return Adapters()

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> AuxiliaryLoss:
        """Return ``inter`` ``[rows]`` and ``intra``, a scalar."""
        t = self.settings.temperature
        y_s, y_t = (student.logits / t).softmax(1), (teacher.logits / t).softmax(1)
        inter = _distance(y_s, y_t)
        intra = _distance(y_s.T, y_t.T).mean()
        return {"inter": self.settings.beta * inter, "intra": self.settings.gamma * intra}


def _distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return ``1 - rho`` of each row of two matrices, 0 where the teacher's does not vary."""
    a, b = _standardised(student), _standardised(teacher)
    rho = (a * b).sum(1)
    return torch.where(b.any(1), 1 - rho, 0.0)


def _standardised(x: Tensor) -> Tensor:
    """Return each row less its mean, of length 1, or zeros where it does not vary."""
    centred = x - x.mean(1, keepdim=True)
    length, size = (torch.linalg.vector_norm(v, dim=1, keepdim=True) for v in (centred, x))
    # What rounding leaves of equal values has a direction too, and a huge gradient.
    varies = length > 100 * torch.finfo(x.dtype).eps * size
    return torch.where(varies, centred / torch.where(varies, length, 1.0), 0.0)
