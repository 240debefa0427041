"""Soft targets at a temperature that is trained to make them harder (Li et al. 2023)."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from kdcore import (
    Adapters,
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


class Curriculum(Strategy):
    """Li et al. 2023, arXiv:2211.16231: ``T² · KL(teacher ‖ student)``, against which T is trained.

    ``T = lowest + span · sigmoid(x)`` with one trained number ``x`` for all samples. The student
    makes the loss smaller; the gradient of ``x`` is multiplied by ``-λ``, so that the same
    optimizer makes it larger. In epoch ``E``, from 1, ``λ = (1 - cos(π · min(E, epochs) /
    epochs)) / 2``: the task gets harder little by little. With ``p = softmax(teacher / T)`` and
    ``q = softmax(student / T)``, each row gives ``T² · Σ p · (log p - log q)``.

    This is the paper's global temperature, not the one by sample. The published code writes
    ``λ`` with the opposite sign, falling from 0 to -1, and does not reverse: that is the same.
    """

    class Settings(StrategySettings):
        """What can be set."""

        lowest: float = Field(1.0, gt=0, description="what the temperature stays above")
        span: float = Field(20.0, gt=0, description="how far above it the temperature can be")
        initial: float = Field(
            1.0, description="x at first; 1 makes a temperature of 15.6 where the others are unset"
        )
        epochs: int = Field(10, ge=1, description="epochs over which λ rises from 0 to 1")

    settings: Settings
    recommended = Recommended(0.9, 0.1, "Li et al. 2023, published CIFAR-100 script")
    where_equal = "zero"

    @hookimpl
    def adapt_shapes(self, setup: Setup, student: Shapes, teacher: Shapes) -> Adapters:
        """Build the trained number; need classes, and the same of both."""
        require_classes(setup)
        require_same_classes(student, teacher)
        return Adapters(modules={"x": Adversary(self.settings.initial)})

    @hookimpl
    def compute_auxiliary_loss(
        self, student: Features, teacher: Features, modules: Mapping[str, nn.Module], epoch: int
    ) -> Tensor:
        """Return ``[rows]``, finite also where a probability underflows to zero."""
        x = modules["x"](self._strength(epoch + 1))
        t = self.settings.lowest + self.settings.span * torch.sigmoid(x)
        log_p = F.log_softmax(teacher.logits / t, dim=-1)
        log_q = F.log_softmax(student.logits / t, dim=-1)
        return t**2 * divergence(log_p, log_q)

    def _strength(self, epoch: int) -> float:
        """Return λ."""
        epochs = self.settings.epochs
        return (1 - math.cos(math.pi * min(epoch, epochs) / epochs)) / 2


class Adversary(nn.Module):
    """One number, trained to make larger what all else makes smaller.

    Args:
        initial: its value at first.
    """

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.full((1,), initial))

    def forward(self, strength: float) -> Tensor:
        """Return it; its gradient is multiplied by ``-strength``."""
        reversed_: Tensor = Reversed.apply(self.value, strength)
        return reversed_


class Reversed(torch.autograd.Function):
    """The identity, whose gradient is multiplied by ``-strength``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        """Return the same."""
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Reverse."""
        return -ctx.strength * gradient, None
