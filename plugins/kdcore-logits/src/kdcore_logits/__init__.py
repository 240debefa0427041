"""Soft targets: the teacher's predictions at a temperature (Hinton et al. 2015)."""

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
    StrategySettings,
    divergence,
    hookimpl,
    require_classes,
    require_same_classes,
)


class Logits(Strategy):
    """Hinton et al. 2015, arXiv:1503.02531: ``T² · KL(teacher ‖ student)`` on softened outputs.

    With ``p = softmax(teacher / T)`` and ``q = softmax(student / T)``, each row gives
    ``T² · Σ p · (log p - log q)``. ``T²`` keeps the gradient's size when ``T`` changes: gradients
    of the softened cross-entropy shrink as ``1 / T²``.
    """

    class Settings(StrategySettings):
        """What can be set."""

        temperature: float = Field(
            2.0, gt=0, description="divides both models' logits before the softmax"
        )

    settings: Settings
    recommended = Recommended(0.25, 0.75, "PyTorch's knowledge distillation tutorial")
    where_equal = "zero"

    @hookimpl
    def adapt_shapes(self, setup: Setup, student: Shapes, teacher: Shapes) -> Adapters:
        """Need no adapter, only classes, and the same of both."""
        require_classes(setup)
        require_same_classes(student, teacher)
        return Adapters()

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        """Return ``[rows]``, finite also where a probability underflows to zero."""
        t = self.settings.temperature
        log_p = F.log_softmax(teacher.logits / t, dim=-1)
        log_q = F.log_softmax(student.logits / t, dim=-1)
        return t**2 * divergence(log_p, log_q)
