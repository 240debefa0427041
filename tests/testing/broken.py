"""Strategies with one fault each, the mistakes that authors make; the kit must find them."""

import random
from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import ConfigDict, Field, field_validator
from torch import Tensor, nn

from kdcore import (
    Adapters,
    Features,
    Shapes,
    State,
    Strategy,
    StrategySettings,
    Taps,
    auto,
    hookimpl,
    squared_error,
)
from kdcore.testing import SmallCNN, small_student, small_teacher

BUILT: list[SmallCNN] = []
"""The models that the last trials were made of; a strategy has no proper way to get at them."""


def kept_teacher() -> SmallCNN:
    BUILT.append(small_teacher())
    return BUILT[-1]


def kept_student() -> SmallCNN:
    BUILT.append(small_student())
    return BUILT[-1]


class Sound(Strategy):
    """Nothing is wrong with it."""

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        return squared_error(student.logits, teacher.logits)


class IgnoresExtras(Sound):
    class Settings(StrategySettings):
        model_config = ConfigDict(extra="ignore")


class ReadsPercent(Sound):
    class Settings(StrategySettings):
        share: float = Field(50.0, description="share in per cent")

        @field_validator("share")
        @classmethod
        def _fraction(cls, value: float) -> float:
            return value / 100


class SaysNothing(Sound):
    class Settings(StrategySettings):
        share: float = 0.5


class AsksForMore(Strategy):
    @hookimpl
    def compute_auxiliary_loss(self, student: Features, logits: Tensor) -> Tensor:
        return squared_error(student.logits, logits)


class AnswersNothing(Strategy):
    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> None:
        squared_error(student.logits, teacher.logits)


class AnswersAList(Sound):
    @hookimpl
    def extract_features(self) -> list[str]:
        return ["head:input"]


class Raises(Strategy):
    @hookimpl
    def compute_auxiliary_loss(self, student: Features) -> Tensor:
        return student["hint"]


class AveragesNothing(Strategy):
    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        return (student.logits - teacher.logits).square()


class Counts(Strategy):
    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        return (student.logits.argmax(1) != teacher.logits.argmax(1)).sum()


class Detaches(Strategy):
    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        return squared_error(student.logits.detach(), teacher.logits)


class TrainsItselfAlone(Strategy):
    @hookimpl
    def adapt_shapes(self, student: Shapes) -> Adapters:
        return Adapters(modules={"layer": nn.Linear(student.logits[1], student.logits[1])})

    @hookimpl
    def compute_auxiliary_loss(
        self, student: Features, teacher: Features, modules: Mapping[str, nn.Module]
    ) -> Tensor:
        return squared_error(modules["layer"](student.logits.detach()), teacher.logits)


class ForgetsALayer(Sound):
    @hookimpl
    def adapt_shapes(self) -> Adapters:
        return Adapters(modules={"layer": nn.Linear(2, 2)})


class TakesTheLogOfZero(Strategy):
    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        soft = teacher.logits.softmax(1)
        return (soft * (soft.log() - student.logits.log_softmax(1))).sum(1)


class TakesTheRootOfZero(Strategy):
    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        return squared_error(student.logits, teacher.logits).sqrt()


class NormalisesTheBatch(Strategy):
    @hookimpl
    def extract_features(self) -> Taps:
        return Taps({"hint": auto("embedding")}, {"hint": auto("embedding")})

    @hookimpl
    def adapt_shapes(self, student: Shapes, teacher: Shapes) -> Adapters:
        widths = student["hint"][1], teacher["hint"][1]
        return Adapters({"hint": nn.Sequential(nn.Linear(*widths), nn.BatchNorm1d(widths[1]))})

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        return squared_error(student["hint"], teacher["hint"])


class NeedsLabels(Strategy):
    @hookimpl
    def compute_auxiliary_loss(
        self, student: Features, teacher: Features, targets: Tensor
    ) -> Tensor:
        difference = student.logits - teacher.logits
        return difference.gather(1, targets[:, None]).square().flatten()


class KnowsFloat32(Strategy):
    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        return squared_error(student.logits.float(), teacher.logits.float())


class RelatesRows(Strategy):
    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        errors = squared_error(student.logits, teacher.logits)
        return errors / errors.detach().max().clamp(min=1e-6)


class TrainsTheTeacher(Strategy):
    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        BUILT[-1].train()
        return squared_error(student.logits, teacher.logits)


class TakesTheHead(Strategy):
    @hookimpl
    def adapt_shapes(self) -> Adapters:
        BUILT[-1].head.bias.requires_grad_(False)
        return Adapters()

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        return squared_error(student.logits, teacher.logits)


class AddsNoise(Strategy):
    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        noise = torch.randn_like(teacher.logits)
        return squared_error(student.logits, teacher.logits + noise).mean()


class RollsDice(Strategy):
    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        return random.random() * squared_error(student.logits, teacher.logits).mean()


class DrawsAtSetUp(Sound):
    @hookimpl
    def extract_features(self) -> Taps:
        torch.rand(1)
        return Taps()


class _Counter(nn.Module):
    """Counts its calls in a plain attribute, which no state dict holds."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


class RemembersInAModule(Strategy):
    @hookimpl
    def adapt_shapes(self) -> Adapters:
        return Adapters(modules={"counter": _Counter()})

    @hookimpl
    def compute_auxiliary_loss(
        self, student: Features, teacher: Features, modules: Mapping[str, nn.Module]
    ) -> Tensor:
        loss: Tensor = modules["counter"](squared_error(student.logits, teacher.logits).mean())
        return loss


class RemembersOnTheClass(Strategy):
    calls: ClassVar[list[int]] = []

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features, step: int) -> Tensor:
        self.calls.append(step)
        return squared_error(student.logits, teacher.logits).mean() / len(self.calls)


class WritesInPlace(Strategy):
    @hookimpl
    def adapt_shapes(self) -> Adapters:
        return Adapters(state={"mean": torch.zeros(())})

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features, state: State) -> Tensor:
        loss = squared_error(student.logits, teacher.logits).mean()
        state["mean"].lerp_(loss.detach(), 0.5)
        return loss


class SharesALayer(Strategy):
    layers: ClassVar[list[nn.Module]] = []

    @hookimpl
    def adapt_shapes(self, student: Shapes) -> Adapters:
        self.layers.append(nn.Linear(student.logits[1], student.logits[1]))
        return Adapters(modules={"layer": self.layers[-1]})

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        return squared_error(self.layers[-1](student.logits), teacher.logits)


class DividesInPlace(Strategy):
    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        return squared_error(student.logits / 2, teacher.logits.div_(2))


class LeavesAHook(Sound):
    @hookimpl
    def adapt_shapes(self) -> Adapters:
        BUILT[-1].head.register_forward_hook(lambda *_: None)
        return Adapters()


class LeavesAModule(Sound):
    @hookimpl
    def adapt_shapes(self) -> Adapters:
        BUILT[-1].register_module("regressor", nn.Linear(2, 2))
        return Adapters()
