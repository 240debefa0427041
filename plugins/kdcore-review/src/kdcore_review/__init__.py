"""The student's deeper maps review its shallower ones (Chen et al. 2021)."""

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from kdcore import (
    Adapters,
    AveragePool,
    Features,
    Recommended,
    SeveralTaps,
    Shapes,
    Strategy,
    StrategySettings,
    Taps,
    auto,
    hookimpl,
    require_maps,
    squared_error,
)


class Review(Strategy):
    """Chen et al. 2021, arXiv:2104.09044: ReviewKD.

    From the deepest stage to the shallowest, attention-based fusion (ABF) gives

    - ``x = norm(conv1x1(s))``, the student's map with as many channels as all fused ones have,
    - ``f = a · x + b · f'`` with ``(a, b) = sigmoid(conv1x1([x, f']))``, where ``f'`` is the deeper
      stage's ``f``, resized to ``x``; the deepest has ``f = x``,
    - ``y = norm(conv3x3(f))``, resized before the convolution to the size of the teacher's ``t``.

    The loss is the sum over stages of the hierarchical context loss (HCL), the mean of
    ``mean((pool(y) - pool(t))²)`` over the whole map and its pools to 4, 2 and 1 pixels a side, as
    far as they are smaller, with weights 1, 1/2, 1/4, 1/8. Resizing takes the nearest pixel.

    The published code for CIFAR-100 has the pooled vector before the classifier as a deepest stage
    of its own, and hands on ``f`` as it was resized for the teacher.
    """

    class Settings(StrategySettings):
        """What can be set."""

        student_taps: SeveralTaps = Field(
            auto("stages"), description="feature maps of the student, the deepest last"
        )
        teacher_taps: SeveralTaps = Field(
            auto("stages"), description="feature maps of the teacher, the deepest last"
        )
        width: int = Field(
            512, ge=1, description="channels of fused maps, at most those of the deepest map"
        )

    settings: Settings
    recommended = Recommended(5.0, 1.0, "scripts published with Chen et al. 2021, CIFAR-100")

    @hookimpl
    def extract_features(self) -> Taps:
        """Tap the maps of both models."""
        return Taps({"maps": self.settings.student_taps}, {"maps": self.settings.teacher_taps})

    @hookimpl
    def adapt_shapes(self, student: Shapes, teacher: Shapes) -> Adapters:
        """Build the fusions, the deepest first; a map that has none becomes one value."""
        own, other = student.all("maps"), teacher.all("maps")
        width = min(self.settings.width, own[-1][1])
        fusions: dict[str, nn.Module] = {}
        kept: list[nn.Module] = [AveragePool(1) for _ in other]
        for depth, (s, t) in enumerate(zip(reversed(own), reversed(other), strict=False)):
            require_maps(s, t)
            fusions[f"fusion{depth}"] = Fusion(s, t, width, deepest=depth == 0)
            kept[-1 - depth] = nn.Identity()
        return Adapters(teacher={"maps": kept}, modules=fusions)

    @hookimpl
    def compute_auxiliary_loss(
        self, student: Features, teacher: Features, modules: Mapping[str, nn.Module]
    ) -> Tensor:
        """Return ``[batch]``."""
        losses: list[Tensor] = []
        f: Tensor | None = None
        own, other = reversed(student.all("maps")), reversed(teacher.all("maps"))
        for fusion, s, t in zip(modules.values(), own, other, strict=False):
            y, f = fusion(s, f)
            losses.append(hcl(y, t))
        return torch.stack(losses).sum(0)


class Fusion(nn.Module):
    """One stage's attention-based fusion; the deepest has nothing to attend to."""

    def __init__(self, own: torch.Size, other: torch.Size, width: int, deepest: bool) -> None:
        super().__init__()
        self.size = other[2:]
        self.narrow = nn.Conv2d(own[1], width, 1, bias=False)
        self.narrow_norm = nn.BatchNorm2d(width)
        self.attention = None if deepest else nn.Conv2d(2 * width, 2, 1)
        self.widen = nn.Conv2d(width, other[1], 3, padding=1, bias=False)
        self.widen_norm = nn.BatchNorm2d(other[1])

    def forward(self, s: Tensor, deeper: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return ``y`` and ``f``."""
        f = x = normalised(self.narrow_norm, self.narrow(s))
        if self.attention is not None and deeper is not None:
            deeper = F.interpolate(deeper, x.shape[2:])
            a, b = self.attention(torch.cat([x, deeper], 1)).sigmoid().split(1, dim=1)
            f = a * x + b * deeper
        y = normalised(self.widen_norm, self.widen(F.interpolate(f, self.size)))
        return y, f


def normalised(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Normalise by the batch; one value a channel, which has no variance, by what is remembered."""
    if x.numel() == x.shape[1]:
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    by_batch: Tensor = norm(x)
    return by_batch


def hcl(y: Tensor, t: Tensor) -> Tensor:
    """Return the hierarchical context loss, ``[batch]``."""
    errors = [squared_error(y, t)]
    for side in (4, 2, 1):
        if side < min(t.shape[2:]):
            errors.append(squared_error(*(F.adaptive_avg_pool2d(each, side) for each in (y, t))))
    weights = [0.5**level for level in range(len(errors))]
    return torch.stack([w * e for w, e in zip(weights, errors, strict=True)]).sum(0) / sum(weights)
