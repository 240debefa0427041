"""Decoupled distillation: the target class and the other classes apart (Zhao et al. 2022)."""

import math

import torch
from pydantic import Field
from torch import Tensor

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


class Decoupled(Strategy):
    """Zhao et al. 2022, arXiv:2203.08679: ``T² · (alpha · TCKD + beta · NCKD)``, row by row.

    Of logits divided by ``T``, ``b = [p_t, 1 - p_t]`` is how sure a model is of the label, and
    ``p̂`` its softmax over all classes but the label's. Then ``TCKD = KL(b teacher ‖ b student)``
    and ``NCKD = KL(p̂ teacher ‖ p̂ student)``. Soft targets are ``TCKD + (1 - p_t) · NCKD``: a
    teacher that is sure of the label says little of the others there, and as much as ever here.

    The published code takes logarithms of probabilities, which may be zero, and subtracts 1000
    from the label's logit where that shall not count. Here the label is left out, and
    ``log(1 - p_t)`` comes of a log-sum-exp over the others: loss and gradient stay finite.
    """

    class Settings(StrategySettings):
        """What can be set."""

        alpha: float = Field(1.0, ge=0, description="weight of the target class (TCKD)")
        beta: float = Field(8.0, ge=0, description="weight of the other classes (NCKD)")
        temperature: float = Field(
            4.0, gt=0, description="divides both models' logits before the softmax"
        )

    settings: Settings
    recommended = Recommended(1.0, 1.0, "Zhao et al. 2022, appendix A.4")
    where_equal = "zero"

    @hookimpl
    def adapt_shapes(self, setup: Setup, student: Shapes, teacher: Shapes) -> Adapters:
        """Need no adapter, only classes, the same of both, and one label a row."""
        require_classes(setup)
        require_same_classes(student, teacher)
        if setup.task in ("segmentation", "sequences"):
            raise StrategyError(
                f"needs one label a row, but the targets of {setup.task} are by position: use "
                "logits there"
            )
        if student.logits[-1] < 2:
            raise StrategyError("needs two classes at least, the models have one")
        return Adapters()

    @hookimpl
    def compute_auxiliary_loss(
        self, student: Features, teacher: Features, targets: Tensor
    ) -> dict[str, Tensor]:
        """Return both parts, ``[rows]`` each, zero where a row has no label."""
        t = self.settings.temperature
        z, v = student.logits / t, teacher.logits / t
        rows = targets.clamp(min=0)[:, None]
        label = torch.zeros_like(z, dtype=torch.bool).scatter(1, rows, True)
        tckd = divergence(log_b(v, label), log_b(z, label))
        nckd = divergence(log_others(v, label), log_others(z, label))
        known = targets >= 0
        return {
            "target": torch.where(known, t**2 * self.settings.alpha * tckd, 0.0),
            "nontarget": torch.where(known, t**2 * self.settings.beta * nckd, 0.0),
        }


def log_b(logits: Tensor, label: Tensor) -> Tensor:
    """Return the logarithms of ``[p_t, 1 - p_t]``, ``[rows, 2]``."""
    own = logits.masked_fill(~label, -math.inf).logsumexp(-1)
    others = logits.masked_fill(label, -math.inf).logsumexp(-1)
    return torch.stack([own, others], dim=-1).log_softmax(-1)


def log_others(logits: Tensor, label: Tensor) -> Tensor:
    """Return the logarithms of ``p̂``, ``[rows, classes]``, minus infinity at the label."""
    return logits.masked_fill(label, -math.inf).log_softmax(-1)
