"""Cosine distance between hidden representations, as PyTorch's tutorial has it."""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from kdcore import (
    Adapters,
    Features,
    Recommended,
    Shapes,
    Strategy,
    StrategySettings,
    Tap,
    Taps,
    auto,
    hookimpl,
    pool_to_narrower,
)


class Cosine(Strategy):
    """PyTorch's knowledge distillation tutorial: ``1 - cos(student, teacher)``.

    ``CosineEmbeddingLoss`` with target 1 between the flattened inputs of the two heads. Where
    one is wider, its neighbours are averaged until it is as narrow as the other.
    """

    class Settings(StrategySettings):
        """What can be set."""

        student_tap: Tap = Field(
            auto("embedding"), description="activation of the student to compare, flattened"
        )
        teacher_tap: Tap = Field(
            auto("embedding"), description="activation of the teacher to compare, flattened"
        )

    settings: Settings
    recommended = Recommended(0.25, 0.75, "PyTorch's knowledge distillation tutorial")
    where_equal = "zero"

    @hookimpl
    def extract_features(self) -> Taps:
        """Tap what goes into the heads."""
        return Taps(
            student={"hidden": self.settings.student_tap},
            teacher={"hidden": self.settings.teacher_tap},
        )

    @hookimpl
    def adapt_shapes(self, student: Shapes, teacher: Shapes) -> Adapters:
        """Flatten both, pool the wider."""
        own, other = pool_to_narrower(student["hidden"], teacher["hidden"])
        return Adapters(student={"hidden": own}, teacher={"hidden": other})

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        """Return ``[batch]``, from 0 where the directions agree to 2 where they oppose."""
        own, other = student["hidden"], teacher["hidden"]
        alike = torch.ones(len(own), device=own.device)
        return F.cosine_embedding_loss(own, other, alike, reduction="none")
