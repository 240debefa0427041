"""Hints: the student's feature map, through a trained regressor, towards the teacher's."""

from typing import Literal

from pydantic import Field
from torch import Tensor

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
    regressor,
    squared_error,
)


class FitNets(Strategy):
    """Romero et al. 2015, arXiv:1412.6550: ``mean((regressor(student hint) - teacher hint)²)``.

    The regressor is a convolution for feature maps and linear for vectors and token sequences;
    its result is resized where height and width, or the number of tokens, differ. The paper
    writes half the squared norm; the mean over all values follows PyTorch's tutorial.
    """

    class Settings(StrategySettings):
        """What can be set."""

        student_tap: Tap = Field(
            auto("feature_map"), description="hint of the student: a map, token sequence or vector"
        )
        teacher_tap: Tap = Field(
            auto("feature_map"), description="hint of the teacher: a map, token sequence or vector"
        )
        kernel_size: Literal[1, 3] = Field(
            3, description="side of the regressor's convolution in pixels"
        )

    settings: Settings
    recommended = Recommended(0.25, 0.75, "PyTorch's knowledge distillation tutorial")

    @hookimpl
    def extract_features(self) -> Taps:
        """Tap one map of each model."""
        return Taps(
            student={"hint": self.settings.student_tap},
            teacher={"hint": self.settings.teacher_tap},
        )

    @hookimpl
    def adapt_shapes(self, student: Shapes, teacher: Shapes) -> Adapters:
        """Build the regressor."""
        size = self.settings.kernel_size
        return Adapters(student={"hint": regressor(student["hint"], teacher["hint"], size)})

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        """Return ``[batch]``."""
        return squared_error(student["hint"], teacher["hint"])
