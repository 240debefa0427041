"""Neuron selectivity transfer: how channels' activation patterns are distributed."""

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from kdcore import (
    Adapters,
    Features,
    Recommended,
    Resize,
    Shapes,
    Strategy,
    StrategySettings,
    Tap,
    Taps,
    auto,
    hookimpl,
    require_maps,
    require_same_shape,
)


class NST(Strategy):
    """Huang & Wang 2017, arXiv:1707.01219: ``MMD²(F_T, F_S) / 2`` with the polynomial kernel.

    ``MMD² = mean k(t_i, t_i') + mean k(s_j, s_j') - 2 · mean k(t_i, s_j)`` over all pairs of
    channels, where ``t_i`` and ``s_j`` are the channels of teacher and student as vectors over the
    places of the map, of length one, and ``k(x, y) = (x · y)²``: the paper's ``d = 2, c = 0``. As
    ``k(x, y)`` is the product of ``x xᵀ`` and ``y yᵀ``, this is ``|G_T - G_S|²``, with ``G`` the
    mean over channels of ``x xᵀ``; written so, no rounding makes it negative. Maps of unequal size
    are first resized to the smaller height and width. The paper's ``lambda / 2`` is the weight and
    the half; the published code has no half, and leaves out the teacher's own term, a constant.
    """

    class Settings(StrategySettings):
        """What can be set."""

        student_tap: Tap = Field(auto("feature_map"), description="feature map of the student")
        teacher_tap: Tap = Field(auto("feature_map"), description="feature map of the teacher")

    settings: Settings
    recommended = Recommended(50.0, 1.0, "Huang & Wang 2017, lambda of the polynomial kernel")
    where_equal = "zero"

    @hookimpl
    def extract_features(self) -> Taps:
        """Tap one map of each model."""
        return Taps(
            student={"map": self.settings.student_tap}, teacher={"map": self.settings.teacher_tap}
        )

    @hookimpl
    def adapt_shapes(self, student: Shapes, teacher: Shapes) -> Adapters:
        """Bring both maps to one height and width."""
        own, other = student["map"], teacher["map"]
        require_maps(own, other)
        size = min(own[2], other[2]), min(own[3], other[3])
        return Adapters(student={"map": Resize(*size)}, teacher={"map": Resize(*size)})

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        """Return ``[batch]``."""
        g_t, g_s = _gram(teacher["map"]), _gram(student["map"])
        require_same_shape(g_s, g_t)
        return (g_t - g_s).square().sum((1, 2)) / 2


def _gram(maps: Tensor) -> Tensor:
    """``[batch, channels, height, width]`` to ``[batch, places, places]``."""
    patterns = F.normalize(maps.flatten(2), dim=2)
    return patterns.transpose(1, 2) @ patterns / patterns.shape[1]
