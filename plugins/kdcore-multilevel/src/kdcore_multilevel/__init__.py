"""Multi-level logit distillation: by sample, over the batch, over the classes (Jin et al. 2023)."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from kdcore import (
    Adapters,
    AuxiliaryLoss,
    Features,
    Recommended,
    Setup,
    Shapes,
    Strategy,
    StrategySettings,
    divergence,
    hookimpl,
    require_classes,
    require_same_classes,
)


class MultiLevel(Strategy):
    """Jin et al. 2023, CVPR, pages 24276-24285: predictions aligned at three levels.

    With ``p = softmax(teacher / T)`` and ``q = softmax(student / T)``, ``[B, C]``, summed over
    several temperatures ``T``:

    - ``instance``: ``T² · Σ p · (log p - log q)`` of each row;
    - ``batch``: ``|p pᵀ - q qᵀ|² / B``, how alike the rows are predicted;
    - ``class``: ``|pᵀ p - qᵀ q|² / C``, how alike the classes are predicted.

    The published code adds a second, strongly augmented view of each image, which hooks cannot
    carry, and a mask of the less confident half, which multiplies losses that are summed already
    and so about halves them. Both are left out; temperatures, ``T²`` and divisors are the code's.
    """

    class Settings(StrategySettings):
        """What can be set."""

        temperatures: tuple[Annotated[float, Field(gt=0)], ...] = Field(
            (2.0, 3.0, 4.0, 5.0, 6.0),
            min_length=1,
            description="each divides both models' logits before the softmax; losses are summed",
        )
        instance_weight: float = Field(1.0, ge=0, description="weight of each row's divergence")
        batch_weight: float = Field(1.0, ge=0, description="weight of the rows' Gram matrix")
        class_weight: float = Field(1.0, ge=0, description="weight of the classes' Gram matrix")

    settings: Settings
    recommended = Recommended(0.9, 0.1, "Jin et al. 2023, published code for CIFAR-100")
    where_equal = "zero"

    @hookimpl
    def adapt_shapes(self, setup: Setup, student: Shapes, teacher: Shapes) -> Adapters:
        """Need no adapter, only classes, and the same of both."""
        require_classes(setup)
        require_same_classes(student, teacher)
        return Adapters()

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> AuxiliaryLoss:
        """Return ``instance`` ``[rows]``, ``batch`` and ``class``, scalars."""
        chosen = self.settings
        levels = [_levels(student.logits, teacher.logits, t) for t in chosen.temperatures]
        instance, batch, classes = (torch.stack(each).sum(0) for each in zip(*levels, strict=True))
        return {
            "instance": chosen.instance_weight * instance,
            "batch": chosen.batch_weight * batch,
            "class": chosen.class_weight * classes,
        }


def _levels(student: Tensor, teacher: Tensor, t: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return instance, batch and class level at one temperature."""
    log_p, log_q = F.log_softmax(teacher / t, dim=1), F.log_softmax(student / t, dim=1)
    p, q = log_p.exp(), log_q.exp()
    instance = t**2 * divergence(log_p, log_q)
    batch = (p @ p.T - q @ q.T).square().sum() / max(1, p.shape[0])
    classes = (p.T @ p - q.T @ q).square().sum() / p.shape[1]
    return instance, batch, classes
