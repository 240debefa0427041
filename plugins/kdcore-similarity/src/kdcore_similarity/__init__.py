"""Similarity-preserving distillation: which samples of a batch are alike (Tung & Mori 2019)."""

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from kdcore import Features, Recommended, Strategy, StrategySettings, Tap, Taps, auto, hookimpl


class Similarity(Strategy):
    """Tung & Mori 2019, arXiv:1907.09682: SP, ``|G_T - G_S|² / b²`` over a batch of ``b`` samples.

    ``|·|`` is the Frobenius norm. ``G`` is ``Q Qᵀ`` with each row brought to length one, ``Q`` the
    activations ``[b, values]``, one flattened sample a row. The two models' activations may differ
    in shape: ``G`` is ``[b, b]``.
    """

    class Settings(StrategySettings):
        """What can be set."""

        student_tap: Tap = Field(
            auto("feature_map"), description="activation of the student, of any shape"
        )
        teacher_tap: Tap = Field(
            auto("feature_map"), description="activation of the teacher, of any shape"
        )

    settings: Settings
    recommended = Recommended(3000.0, 1.0, "Tung & Mori 2019, section 4.1")
    where_equal = "zero"

    @hookimpl
    def extract_features(self) -> Taps:
        """Tap one activation of each model."""
        return Taps(
            student={"activation": self.settings.student_tap},
            teacher={"activation": self.settings.teacher_tap},
        )

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        """Return a scalar, which relates the samples of the batch."""
        g_t, g_s = _similarities(teacher["activation"]), _similarities(student["activation"])
        return (g_t - g_s).square().mean()


def _similarities(activation: Tensor) -> Tensor:
    """``[b, ...]`` to ``[b, b]`` with rows of length one; that of a sample of zeros stays zero."""
    q = activation.flatten(1)
    return F.normalize(q @ q.T, dim=1)
