"""One batch through a model: what it tells, and that it leaves no trace of itself."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdcore.errors import TapError
from kdcore.probe import evaluating, probe, trace
from kdcore.taps import TapAddress


class Branching(nn.Module):
    """Returns two heads of one body, one of whose layers runs twice and one never."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6))
        self.act = nn.ReLU()
        self.unused = nn.Linear(4, 4)
        self.head = nn.Linear(6, 3)
        self.other = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = self.act(self.act(self.body(x)))
        return {"logits": self.head(hidden), "other": self.other(hidden)}


class Noisy(nn.Module):
    """Draws random numbers in evaluation too."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(x + torch.rand_like(x))
        return logits


class Failing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError(f"half-way, with {self.fc(x)}")


X = torch.linspace(-1.0, 1.0, 8).reshape(2, 4)


def _probe(model: nn.Module, *texts: str, x: Any = X) -> Any:
    return probe(model, x, tuple(map(TapAddress.parse, texts)), "teacher")


def _hooks(model: nn.Module) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    )


def _visit(kind: str, model: nn.Module) -> object:
    return trace(model, X, "teacher") if kind == "trace" else _probe(model, ":input")


class TestTrace:
    def test_modules_that_ran_once_stand_in_the_order_in_which_they_finished(self) -> None:
        seen = trace(Branching(), X, "teacher")
        assert [call.name for call in seen.calls] == ["body.0", "body.1", "body", "head", "other"]

    def test_a_module_that_ran_twice_is_named_as_that_and_one_that_never_ran_is_not(self) -> None:
        assert trace(Branching(), X, "teacher").repeated == ("act",)

    def test_each_call_tells_what_went_in_and_came_out(self) -> None:
        model = Branching().eval()
        calls = {call.name: call for call in trace(model, X, "teacher").calls}
        assert calls["body"].module is model.body
        assert calls["body"].input is X
        assert calls["body"].output is calls["body.1"].output
        output = calls["body.0"].output
        assert output is not None
        assert torch.equal(output, model.body[0](X))

    def test_logits_and_inputs_are_told(self) -> None:
        model = Branching()
        seen = trace(model, X, "teacher")
        calls = {call.name: call for call in seen.calls}
        assert seen.logits is calls["head"].output
        assert seen.inputs == (X,)
        assert seen.where == "teacher"

    def test_what_a_module_takes_by_name_is_seen(self) -> None:
        class ByName(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.fc = nn.Linear(4, 3)

            def forward(self, x: Tensor) -> Tensor:
                logits: Tensor = self.fc(input=x)
                return logits

        assert trace(ByName(), X, "teacher").calls[0].input is X

    def test_what_is_no_tensor_is_none(self) -> None:
        model = nn.Sequential(Branching(), _Only("logits"))
        calls = {call.name: call for call in trace(model, X, "teacher").calls}
        assert calls["0"].output is None
        assert calls["1"].input is None


class _Only(nn.Module):
    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key

    def forward(self, given: dict[str, Tensor]) -> Tensor:
        return given[self.key]


class TestProbe:
    def test_it_tells_the_shape_at_each_tap_and_of_the_logits(self) -> None:
        probed = _probe(Branching(), "body:input", "body.0", "head:input", "other")
        shapes = {str(address): list(shape) for address, shape in probed.shapes.items()}
        assert shapes == {
            "body:input": [2, 4],
            "body.0": [2, 6],
            "head:input": [2, 6],
            "other": [2, 2],
        }
        assert probed.logits == (2, 3)

    def test_a_model_without_logits_is_no_error(self) -> None:
        assert _probe(nn.Sequential(Branching(), _Dropped())).logits is None

    @pytest.mark.parametrize("inplace", [True, False])
    def test_taps_that_are_overwritten_are_to_be_copied_and_no_others(self, inplace: bool) -> None:
        model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=inplace), nn.Linear(6, 3))
        expected = {TapAddress("0")} if inplace else set()
        assert _probe(model, "0", "1", "2").keep == expected

    @pytest.mark.parametrize("inplace", [True, False])
    def test_dropout_in_place_anywhere_has_all_taps_copied(self, inplace: bool) -> None:
        model = nn.Sequential(nn.Linear(4, 6), nn.Dropout(inplace=inplace), nn.Linear(6, 3))
        expected = {TapAddress("0"), TapAddress("2")} if inplace else set()
        assert _probe(model, "0", "2").keep == expected

    def test_a_tap_that_never_ran_is_an_error_of_that_model(self) -> None:
        with pytest.raises(TapError, match=r"^teacher: unused did not run"):
            _probe(Branching(), "unused")


class _Dropped(nn.Module):
    def forward(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"scores": given["logits"]}


@pytest.mark.parametrize("kind", ["trace", "probe"])
class TestNoTrace:
    def test_no_hook_is_left(self, kind: str) -> None:
        model = Branching()
        _visit(kind, model)
        assert _hooks(model) == 0

    def test_no_hook_is_left_and_modes_are_put_back_after_an_exception(self, kind: str) -> None:
        model = Failing()
        with pytest.raises(RuntimeError, match="half-way"):
            _visit(kind, model)
        assert _hooks(model) == 0
        assert all(module.training for module in model.modules())

    def test_each_module_is_put_back_into_the_mode_it_was_in(self, kind: str) -> None:
        model = Branching().train()
        model.body.eval()
        before = [module.training for module in model.modules()]
        assert len(set(before)) == 2
        _visit(kind, model)
        assert [module.training for module in model.modules()] == before

    def test_statistics_and_weights_stay_as_they_were(self, kind: str) -> None:
        model = Branching()
        before = copy.deepcopy(model.state_dict())
        _visit(kind, model)
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, before[name]), name
        model(X)  # the control: a pass in training does change them
        assert not torch.equal(model.state_dict()["body.1.running_mean"], torch.zeros(6))

    def test_the_global_random_stream_stays_as_it_was(self, kind: str) -> None:
        model = Noisy()
        before = torch.get_rng_state()
        _visit(kind, model)
        assert torch.equal(before, torch.get_rng_state())
        model.eval()(X)  # the control: the model does draw, in evaluation too
        assert not torch.equal(before, torch.get_rng_state())

    def test_nothing_has_a_gradient(self, kind: str) -> None:
        model = nn.Sequential(nn.Linear(4, 6), _Recording(), nn.Linear(6, 3))
        _visit(kind, model)
        recording = model[1]
        assert isinstance(recording, _Recording)
        assert recording.seen == [(False, False)]
        assert torch.is_grad_enabled()


class _Recording(nn.Module):
    """Remembers whether gradients and training were on when it ran."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[bool, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((x.requires_grad, self.training))
        return x


def test_evaluating_is_over_when_its_block_is() -> None:
    def seen() -> tuple[bool, bool]:
        return model.head.training, torch.is_grad_enabled()

    model = Branching()
    with evaluating(model):
        assert seen() == (False, False)
    assert seen() == (True, True)
