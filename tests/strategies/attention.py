"""Where two networks look, at several depths (Zagoruyko & Komodakis 2017)."""

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from kdcore import Adapters, Features, Recommended, Resize, Shapes, Strategy, StrategySettings
from kdcore import Tap, Taps, auto, hookimpl, squared_error


class Attention(Strategy):
    """Zagoruyko & Komodakis 2017, arXiv:1612.03928: AT on the last maps of both models.

    The sum over pairs of maps of ``mean((q(s) / |q(s)| - q(t) / |q(t)|)²)``, where ``q`` is the
    mean over channels of the squares, as a vector. Where height and width differ, both maps are
    resized to the smaller.
    """

    class Settings(StrategySettings):
        student_taps: Tap | tuple[Tap, ...] = Field(auto("stages"), description="student's maps")
        teacher_taps: Tap | tuple[Tap, ...] = Field(auto("stages"), description="teacher's maps")
        depth: int = Field(3, ge=1, description="how many of the last maps are compared")

    settings: Settings
    recommended = Recommended(1000.0, 1.0, "Zagoruyko & Komodakis 2017, section 4.1")

    @hookimpl
    def extract_features(self) -> Taps:
        return Taps({"maps": self.settings.student_taps}, {"maps": self.settings.teacher_taps})

    @hookimpl
    def adapt_shapes(self, student: Shapes, teacher: Shapes) -> Adapters:
        sizes = [
            tuple(map(min, own[2:], other[2:]))
            for own, other in zip(*map(self._last, (student, teacher)), strict=True)
        ]
        ...
