"""What one strategy owns, and how activations become the features that it sees."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdcore.adapters import AveragePool, Flatten
from kdcore.contract import Adapters, ByRole, Features, Shapes
from kdcore.errors import StrategyError
from kdcore.hooks import Member
from kdcore.hookspecs import hookimpl
from kdcore.part import Part
from kdcore.signals import SignalKey, Signals
from kdcore.strategy import Strategy
from kdcore.survey import Roles
from kdcore.taps import TapAddress


class Method(Strategy):
    @hookimpl
    def compute_auxiliary_loss(self, student: Features) -> Tensor:
        return student.logits.mean(1)


ONE, TWO = TapAddress("one"), TapAddress("two", "input")
ROLES: Roles = {"hint": (ONE,), "maps": (ONE, TWO)}
SHAPES: Shapes = ByRole(
    {
        "hint": (torch.Size([2, 4]),),
        "maps": (torch.Size([2, 4]), torch.Size([2, 3])),
    },
    torch.Size([2, 5]),
)
SEEN = {ONE: torch.ones(2, 4), TWO: torch.ones(2, 3)}
HEARD = Signals(None, {SignalKey(tap): tensor for tap, tensor in SEEN.items()})


def _part(adapters: Adapters | None = None, precision: torch.dtype = torch.float32) -> Part:
    part = Part(
        Member("hints", Method(), 1.0, "teacher"),
        ROLES,
        ROLES,
        (SHAPES, SHAPES),
        adapters or Adapters(),
        torch.Generator(),
        precision,
    )
    part.to(precision)
    return part


class Plus(nn.Module):
    def __init__(self, amount: float) -> None:
        super().__init__()
        self.amount = nn.Parameter(torch.tensor(amount))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.amount


class TestFeatures:
    def test_without_adapters_a_role_is_the_activation_at_its_tap(self) -> None:
        features = _part().student_features(SEEN, torch.zeros(2, 5))
        assert features["hint"] is SEEN[ONE]
        assert [value.shape for value in features.all("maps")] == [(2, 4), (2, 3)]
        assert features.logits.shape == (2, 5)

    def test_each_model_has_its_own_adapters(self) -> None:
        part = _part(Adapters(student={"hint": Plus(1.0)}, teacher={"hint": Plus(2.0)}))
        assert torch.equal(part.student_features(SEEN, None)["hint"], torch.full((2, 4), 2.0))
        assert torch.equal(part.teacher_features(HEARD)["hint"], torch.full((2, 4), 3.0))

    def test_a_role_of_several_taps_has_an_adapter_for_each_in_their_order(self) -> None:
        part = _part(Adapters(student={"maps": [Plus(1.0), Plus(2.0)]}))
        one, two = part.student_features(SEEN, None).all("maps")
        assert torch.equal(one, torch.full((2, 4), 2.0))
        assert torch.equal(two, torch.full((2, 3), 3.0))
        assert torch.equal(part.student_features(SEEN, None)["hint"], SEEN[ONE])

    @pytest.mark.parametrize("given", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    @pytest.mark.parametrize("precision", [torch.float32, torch.float64])
    def test_features_are_of_one_precision_before_the_adapters(
        self, given: torch.dtype, precision: torch.dtype
    ) -> None:
        part = _part(Adapters(student={"hint": nn.Linear(4, 6)}), precision)
        features = part.student_features({k: v.to(given) for k, v in SEEN.items()}, None)
        assert features["hint"].shape == (2, 6)
        assert {features["hint"].dtype, features.all("maps")[1].dtype} == {precision}

    def test_the_teacher_applies_what_has_no_parameters_and_the_rest_runs_here(self) -> None:
        part = _part(Adapters(teacher={"hint": AveragePool(2), "maps": [Plus(1.0), Flatten()]}))
        pooled = SignalKey(ONE, "flatten,average-pool:2")
        flat = SignalKey(TWO, "flatten")
        wanted = part.wanted()
        assert list(wanted) == [pooled, SignalKey(ONE), flat]
        assert isinstance(wanted[pooled], AveragePool)
        assert wanted[SignalKey(ONE)] is None
        heard = Signals(torch.zeros(2, 5), {pooled: torch.full((2, 2), 7.0), **HEARD.activations})
        heard = Signals(heard.logits, {**heard.activations, flat: torch.full((2, 3), 8.0)})
        features = part.teacher_features(heard)
        assert features["hint"].tolist() == [[7.0, 7.0]] * 2  # not pooled again
        assert features.all("maps")[0].tolist() == [[2.0] * 4] * 2
        assert features.all("maps")[1].tolist() == [[8.0] * 3] * 2
        assert features.logits.shape == (2, 5)

    def test_an_adapter_that_only_says_that_it_is_kdcores_own_runs_here(self) -> None:
        class Louder(AveragePool):
            def forward(self, x: Tensor) -> Tensor:
                return 2 * super().forward(x)

        part = _part(Adapters(teacher={"hint": Louder(2)}))
        assert list(part.wanted()) == [SignalKey(ONE), SignalKey(TWO, "")]
        assert part.teacher_features(HEARD)["hint"].tolist() == [[2.0, 2.0]] * 2

    def test_a_layer_alone_would_not_take_the_other_precision(self) -> None:  # the control
        with pytest.raises(RuntimeError, match="same dtype"):
            nn.Linear(4, 6)(SEEN[ONE].double())


class TestWhatItOwns:
    def test_all_that_is_trained_is_among_its_parameters_and_in_its_state_dict(self) -> None:
        adapters = Adapters(
            student={"hint": Plus(1.0)},
            teacher={"maps": [nn.Identity(), Plus(2.0)]},
            modules={"critic": Plus(3.0)},
        )
        part = _part(adapters)
        assert sorted(parameter.item() for parameter in part.parameters()) == [1.0, 2.0, 3.0]
        assert len(part.state_dict()) == 3
        assert part.own_modules == {"critic": adapters.modules["critic"]}

    def test_its_memory_is_no_parameter(self) -> None:
        part = _part(Adapters(state={"bank": torch.ones(3)}))
        assert part.state["bank"].tolist() == [1.0, 1.0, 1.0]
        assert not list(part.parameters())
        assert not list(part.buffers())


class TestRefused:
    def test_an_adapter_that_does_not_take_its_activation_is_named(self) -> None:
        part = _part(Adapters(student={"hint": nn.Linear(5, 2)}))
        with pytest.raises(
            StrategyError,
            match=r"'hints' .*: the adapter Linear of role 'hint' does not take \[2, 4\]",
        ) as caught:
            part.student_features(SEEN, None)
        assert isinstance(caught.value.__cause__, RuntimeError)

    @pytest.mark.parametrize(
        "adapters",
        [Adapters(student={"hnit": nn.Identity()}), Adapters(teacher={"hnit": nn.Identity()})],
    )
    def test_an_adapter_for_a_role_that_was_not_tapped(self, adapters: Adapters) -> None:
        with pytest.raises(StrategyError, match=r"strategy 'hints'.*unknown role 'hnit'; did you"):
            _part(adapters)

    @pytest.mark.parametrize(
        ("role", "modules", "taps"),
        [("maps", nn.Identity(), 2), ("maps", [nn.Identity()] * 3, 2), ("hint", [], 1)],
    )
    def test_another_number_of_adapters_than_taps(
        self, role: str, modules: nn.Module | list[nn.Module], taps: int
    ) -> None:
        with pytest.raises(StrategyError, match=f"for role '{role}', which has {taps} taps"):
            _part(Adapters(student={role: modules}))

    @pytest.mark.parametrize(
        "given",
        [
            {"student": {"hint": [torch.relu]}},
            {"modules": {"critic": torch.relu}},
            {"modules": {"critic": nn.Linear}},
        ],
    )
    def test_what_is_no_module(self, given: Mapping[str, Any]) -> None:
        with pytest.raises(StrategyError, match=r"gave \w+ for '.*', where an nn\.Module belongs"):
            _part(Adapters(**given))

    @pytest.mark.parametrize("name", ["keys", "forward", "two.words", ""])
    def test_a_name_that_pytorch_has_a_use_for(self, name: str) -> None:
        with pytest.raises(StrategyError, match=r"cannot name a module.*choose another"):
            _part(Adapters(modules={name: nn.Identity()}))
        with pytest.raises((KeyError, TypeError)):  # the control: PyTorch's own words
            nn.ModuleDict({name: nn.Identity()})


def test_it_says_what_each_role_looks_at_and_what_stands_behind_it() -> None:
    critic = nn.Sequential(nn.Linear(4, 200), nn.ReLU())
    part = _part(Adapters(student={"maps": [AveragePool(2), critic]}))
    student, teacher = part.describe()
    assert student == [
        "hint: one [4]",
        "maps: one [4] -> flatten,average-pool:2",
        "maps: two:input [3] -> Sequential, 1,000 trained parameters",
    ]
    assert teacher == ["hint: one [4]", "maps: one [4]", "maps: two:input [3]"]
