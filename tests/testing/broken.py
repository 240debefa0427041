"""Strategies with one fault each, the mistakes that authors make; the kit must find them."""

import random
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import ConfigDict, Field, field_validator
from torch import Tensor, nn

from kdcore import (
    Adapters,
    Features,
    Recommended,
    Setup,
    Shapes,
    State,
    Strategy,
    StrategySettings,
    Tap,
    Taps,
    auto,
    hookimpl,
    require_maps,
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
    """It asks for an argument that no hook has."""

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, logits: Tensor) -> Tensor:
        return squared_error(student.logits, logits)


class AnswersNothing(Strategy):
    """It forgets to return its loss."""

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> None:
        squared_error(student.logits, teacher.logits)


class AnswersAList(Sound):
    @hookimpl
    def extract_features(self) -> list[str]:
        return ["head:input"]


class Raises(Strategy):
    """It reads a role that it never tapped."""

    @hookimpl
    def compute_auxiliary_loss(self, student: Features) -> Tensor:
        return student["hint"]


class AveragesNothing(Strategy):
    """It returns a matrix."""

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        return (student.logits - teacher.logits).square()


class Counts(Strategy):
    """It returns a whole number."""

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        return (student.logits.argmax(1) != teacher.logits.argmax(1)).sum()


class Detaches(Strategy):
    """It cuts the student's gradient off."""

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        return squared_error(student.logits.detach(), teacher.logits)


class TrainsItselfAlone(Strategy):
    """It has a gradient for its own layer only."""

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
    """It takes the log of a softmax."""

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        soft = teacher.logits.softmax(1)
        return (soft * (soft.log() - student.logits.log_softmax(1))).sum(1)


class TakesTheRootOfZero(Strategy):
    """It takes a root at zero."""

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        return squared_error(student.logits, teacher.logits).sqrt()


class NormalisesTheBatch(Strategy):
    """It normalises over the batch."""

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
    """It gathers by labels that may be missing."""

    @hookimpl
    def compute_auxiliary_loss(
        self, student: Features, teacher: Features, targets: Tensor
    ) -> Tensor:
        difference = student.logits - teacher.logits
        return difference.gather(1, targets[:, None]).square().flatten()


class KnowsFloat32(Strategy):
    """It casts to float32."""

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        return squared_error(student.logits.float(), teacher.logits.float())


class RelatesRows(Strategy):
    """It divides each row by the largest."""

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        errors = squared_error(student.logits, teacher.logits)
        return errors / errors.detach().max().clamp(min=1e-6)


class TrainsTheTeacher(Strategy):
    """It puts the teacher into training mode."""

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        BUILT[-1].train()
        return squared_error(student.logits, teacher.logits)


class TakesTheHead(Strategy):
    """It freezes a part of the teacher."""

    @hookimpl
    def adapt_shapes(self) -> Adapters:
        BUILT[-1].head.bias.requires_grad_(False)
        return Adapters()

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        return squared_error(student.logits, teacher.logits)


class AddsNoise(Strategy):
    """It draws from the global stream."""

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        noise = torch.randn_like(teacher.logits)
        return squared_error(student.logits, teacher.logits + noise).mean()


class RollsDice(Strategy):
    """It draws from Python's own stream."""

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
    """It counts in an attribute that nothing saves."""

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
    """It counts on the class."""

    calls: ClassVar[list[int]] = []

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features, step: int) -> Tensor:
        self.calls.append(step)
        return squared_error(student.logits, teacher.logits).mean() / len(self.calls)


class WritesInPlace(Strategy):
    """It changes its memory in place."""

    @hookimpl
    def adapt_shapes(self) -> Adapters:
        return Adapters(state={"mean": torch.zeros(())})

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features, state: State) -> Tensor:
        loss = squared_error(student.logits, teacher.logits).mean()
        state["mean"].lerp_(loss.detach(), 0.5)
        return loss


class SharesALayer(Strategy):
    """Its instances share a layer."""

    layers: ClassVar[list[nn.Module]] = []

    @hookimpl
    def adapt_shapes(self, student: Shapes) -> Adapters:
        self.layers.append(nn.Linear(student.logits[1], student.logits[1]))
        return Adapters(modules={"layer": self.layers[-1]})

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        return squared_error(self.layers[-1](student.logits), teacher.logits)


class DividesInPlace(Strategy):
    """It changes the teacher's logits in place."""

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


class SaysNoWord(Strategy):
    recommended = Recommended(2.0, 1.0)

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        return squared_error(student.logits, teacher.logits)


class KeepsTheTemplate(Sound):
    """TODO: authors and year, then the formula."""


class IsOfAnotherTime(Sound):
    api_version = 0


class DefaultsToTooMuch(Sound):
    class Settings(StrategySettings):
        model_config = ConfigDict(validate_default=False)
        share: float = Field(2.0, le=1, description="share of the loss")


class ChangesItsMind(Sound):
    class Settings(StrategySettings):
        model_config = ConfigDict(frozen=False)
        share: float = Field(0.5, description="share of the loss")


class TakesAnyNumber(Sound):
    class Settings(StrategySettings):
        model_config = ConfigDict(allow_inf_nan=True)
        share: float = Field(0.5, description="share of the loss")


class HidesAFactor(Strategy):
    """It trains a factor of which nobody knows."""

    factor: ClassVar[nn.Parameter] = nn.Parameter(torch.ones(()))

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        return squared_error(self.factor * student.logits, teacher.logits)


class ClaimsZero(Strategy):
    """It says that it is zero for equal models, and is not."""

    where_equal = "zero"

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        return squared_error(student.logits, teacher.logits) + 1


class ClaimsTheSmallest(Strategy):
    """It says that it is at its smallest for equal models, and is not."""

    where_equal = "smallest"

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        return squared_error(student.logits, 2 * teacher.logits)


class Sorts(Strategy):
    """It returns the values of its rows by size."""

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        return squared_error(student.logits, teacher.logits).sort().values


class Ramps(Strategy):
    """It divides by the epochs that are left of a ramp."""

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features, epoch: int) -> Tensor:
        return squared_error(student.logits, teacher.logits) / (10 - epoch)


class NeedsThreeClasses(Strategy):
    """It compares the three most probable classes."""

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        best = teacher.logits.topk(3, dim=1)
        return squared_error(student.logits.gather(1, best.indices), best.values)


class HangsOnDigits(Strategy):
    """It weighs by digits that rounding changes."""

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        weight = (3000 * teacher.logits.sum(1)).frac().abs().square()
        return weight * squared_error(student.logits, teacher.logits)


class Views(Strategy):
    """It takes for granted how maps lie in memory."""

    @hookimpl
    def extract_features(self) -> Taps:
        return Taps({"map": auto("feature_map")}, {"map": auto("feature_map")})

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        own, other = student["map"], teacher["map"]
        return (own.view(len(own), -1).mean(1) - other.flatten(1).mean(1)).square()


class CutsTheTeacher(Strategy):
    """It takes for granted that the teacher is the wider one."""

    @hookimpl
    def extract_features(self) -> Taps:
        return Taps({"hint": auto("embedding")}, {"hint": auto("embedding")})

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        own, other = student["hint"].flatten(1), teacher["hint"].flatten(1)
        return (own - other[:, : own.shape[1]]).square().mean(1)


class KnowsOneSize(Strategy):
    """It takes for granted that maps are of one size."""

    @hookimpl
    def extract_features(self) -> Taps:
        return Taps({"map": auto("feature_map")}, {"map": auto("feature_map")})

    @hookimpl
    def adapt_shapes(self, student: Shapes, teacher: Shapes) -> Adapters:
        require_maps(student["map"], teacher["map"])
        return Adapters()

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        both = torch.stack([student["map"].mean(1), teacher["map"].mean(1)])
        return both.diff(dim=0)[0].square().flatten(1).mean(1)


class KnowsMapsAlone(Strategy):
    """It takes for granted that activations are maps."""

    @hookimpl
    def extract_features(self) -> Taps:
        return Taps({"map": auto("feature_map")}, {"map": auto("feature_map")})

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        return (student["map"].mean((1, 2, 3)) - teacher["map"].mean((1, 2, 3))).square()


class ForgetsItsTap(Strategy):
    """It has a setting that it does not read."""

    class Settings(StrategySettings):
        student_tap: Tap = Field(auto("embedding"), description="of the student")

    @hookimpl
    def extract_features(self) -> Taps:
        return Taps({"hint": auto("embedding")}, {"hint": auto("embedding")})

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        return (student["hint"].flatten(1).mean(1) - teacher["hint"].flatten(1).mean(1)).square()


class _Rounding(nn.Module):
    """A factor that is rounded when it is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *others: Any) -> None:
        rounded = {key: each.half().to(each.dtype) for key, each in state.items()}
        super()._load_from_state_dict(rounded, prefix, *others)


class RoundsOnLoading(Strategy):
    """It rounds what was saved."""

    @hookimpl
    def adapt_shapes(self) -> Adapters:
        return Adapters(modules={"factor": _Rounding()})

    @hookimpl
    def compute_auxiliary_loss(
        self, student: Features, teacher: Features, modules: Mapping[str, nn.Module]
    ) -> Tensor:
        return squared_error(modules["factor"](student.logits), teacher.logits)


class Overhears(Strategy):
    """It waits for the teacher to run."""

    heard: ClassVar[list[Tensor]] = []

    @hookimpl
    def adapt_shapes(self) -> Adapters:
        def hear(_: nn.Module, __: object, output: Tensor) -> None:
            self.heard[:] = [output.detach()]

        BUILT[-1].head.register_forward_hook(hear)
        return Adapters()

    @hookimpl
    def compute_auxiliary_loss(self, student: Features) -> Tensor:
        return (student.logits.mean(1) - self.heard[0].mean()).square().mean()


class MatchesGradients(Strategy):
    """It differentiates through the student twice."""

    @hookimpl
    def extract_features(self) -> Taps:
        return Taps({"map": "features.0"}, {"map": "features.0"})

    @hookimpl
    def compute_auxiliary_loss(self, student: Features) -> Tensor:
        if not student.logits.requires_grad:
            return student.logits.sum()
        (slope,) = torch.autograd.grad(student.logits.sum(), student["map"], create_graph=True)
        return slope.square().mean()


class WritesTheMean(Strategy):
    """It remembers the mean of its own share of the batch."""

    @hookimpl
    def adapt_shapes(self) -> Adapters:
        return Adapters(state={"mean": torch.zeros(())})

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features, state: State) -> Tensor:
        loss = squared_error(student.logits, teacher.logits).mean()
        state.write("mean", loss)
        return loss + state["mean"]


class Maximises(Strategy):
    """It says that it is at its smallest for equal models, where it is at its largest."""

    where_equal = "smallest"

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        return -squared_error(student.logits, teacher.logits)


class WritesByPlace(Strategy):
    """It remembers samples by their place in the batch."""

    @hookimpl
    def adapt_shapes(self, setup: Setup, student: Shapes) -> Adapters:
        return Adapters(state={"bank": torch.zeros(setup.sample_count, student.logits[1])})

    @hookimpl
    def compute_auxiliary_loss(
        self, student: Features, teacher: Features, state: State, indices: Tensor
    ) -> Tensor:
        state.write("bank", student.logits, at=torch.arange(len(indices)))
        return squared_error(student.logits, teacher.logits)


class AveragesAClass(Strategy):
    """It remembers a mean a class, of which the last micro-batch of a step writes its own."""

    @hookimpl
    def adapt_shapes(self, student: Shapes) -> Adapters:
        return Adapters(state={"centres": torch.zeros(student.logits[1], student.logits[1])})

    @hookimpl
    def compute_auxiliary_loss(
        self, student: Features, teacher: Features, state: State, targets: Tensor
    ) -> Tensor:
        known = torch.tensor(sorted(set(targets.tolist()) - {-100}), dtype=torch.int64)
        of_class = (targets == known[:, None]).to(teacher.logits)  # [classes, batch]
        means = of_class @ teacher.logits / of_class.sum(1, keepdim=True)
        state.write("centres", means, at=known)
        return squared_error(student.logits, teacher.logits)


class SaysThatItAverages(AveragesAClass):
    """The same, said."""

    exact_in_micro_batches = False


class RemembersEachSample(Strategy):
    """Its mean of a class is taken where it is read, of a row a sample: exact."""

    @hookimpl
    def adapt_shapes(self, setup: Setup, student: Shapes) -> Adapters:
        return Adapters(state={"bank": torch.zeros(setup.sample_count, student.logits[1])})

    @hookimpl
    def compute_auxiliary_loss(
        self, student: Features, teacher: Features, state: State, indices: Tensor
    ) -> Tensor:
        state.write("bank", teacher.logits, at=indices)
        return squared_error(student.logits, teacher.logits)


class DropsInAnAdapter(Strategy):
    """Its adapter draws from the student's random stream."""

    @hookimpl
    def extract_features(self) -> Taps:
        return Taps({"hint": auto("embedding")}, {"hint": auto("embedding")})

    @hookimpl
    def adapt_shapes(self, student: Shapes, teacher: Shapes) -> Adapters:
        widths = student["hint"][1], teacher["hint"][1]
        return Adapters({"hint": nn.Sequential(nn.Dropout(0.3), nn.Linear(*widths))})

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        return squared_error(student["hint"], teacher["hint"])
