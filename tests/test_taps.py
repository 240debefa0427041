"""Addresses, and what forward hooks read at them."""

import gc
import weakref
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdcore.errors import TapError
from kdcore.probe import probe
from kdcore.taps import Observation, TapAddress, TapRecorder, logits_of, run_model, tensor_of


class Chain(nn.Module):
    """Two linear layers with a ReLU between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 5)
        self.act = nn.ReLU()
        self.last = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.act(self.first(x)))
        return logits


class Calls(nn.Module):
    """A model that is what a function does with its layers."""

    def __init__(self, run: Callable[[Any, Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


@pytest.fixture
def x() -> Tensor:
    return torch.linspace(-1.0, 1.0, 24).reshape(6, 4)


def _tap(text: str) -> TapAddress:
    return TapAddress.parse(text)


def _recorder(model: nn.Module, *texts: str, keep: tuple[str, ...] = ()) -> TapRecorder:
    return TapRecorder(model, map(_tap, texts), "student", set(map(_tap, keep)))


def _probed(model: nn.Module, x: Tensor, *texts: str) -> TapRecorder:
    addresses = tuple(map(_tap, texts))
    return TapRecorder(model, addresses, "student", probe(model, x, addresses, "student").keep)


def _read(model: nn.Module, x: Any, text: str) -> Tensor:
    recorder = _recorder(model, text)
    try:
        return recorder(x).activations[_tap(text)]
    finally:
        recorder.remove()


def _hooks(model: nn.Module) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    )


class TestAddress:
    @pytest.mark.parametrize(
        ("text", "module", "side", "item"),
        [
            ("layer3.1.conv2", "layer3.1.conv2", "output", None),
            ("layer3:output", "layer3", "output", None),
            ("classifier:input", "classifier", "input", None),
            ("encoder[last_hidden_state]", "encoder", "output", "last_hidden_state"),
            ("attention:output[1]", "attention", "output", "1"),
            ("attention:input[key]", "attention", "input", "key"),
            (":input", "", "input", None),
            (":output[logits]", "", "output", "logits"),
            ("auto:stages", "stages", "auto", None),
        ],
    )
    def test_it_is_read_in_its_parts_and_written_as_it_is_read(
        self, text: str, module: str, side: str, item: str | None
    ) -> None:
        address = _tap(text)
        assert (address.module, address.side, address.item) == (module, side, item)
        assert _tap(str(address)) == address

    def test_what_names_one_tap_is_equal_however_it_is_written(self) -> None:
        assert _tap("fc:output") == _tap("fc")
        assert str(_tap("fc:output")) == "fc"
        assert _tap("fc:input") != _tap("fc")

    @pytest.mark.parametrize("text", ["", "fc:in", "fc[", "fc[]", "fc[1][2]", "fc[1]:input", "a:b"])
    def test_what_is_no_address_is_refused_with_the_forms_that_are(self, text: str) -> None:
        with pytest.raises(TapError, match="is no tap: expected MODULE, MODULE:input"):
            _tap(text)

    def test_a_wrong_kind_of_automatic_tap_is_answered_with_the_near_one(self) -> None:
        with pytest.raises(TapError, match="'embeding'; did you mean 'embedding'"):
            _tap("auto:embeding")


class TestWhatIsRead:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("first", lambda m, x: m.first(x)),
            ("first:input", lambda _, x: x),
            ("act:input", lambda m, x: m.first(x)),
            ("act:output", lambda m, x: m.first(x).clamp(min=0)),
            ("last:input", lambda m, x: m.first(x).clamp(min=0)),
            ("last", lambda m, x: m(x)),
            (":input", lambda _, x: x),
            (":output", lambda m, x: m(x)),
        ],
    )
    def test_input_and_output_of_any_module(
        self, x: Tensor, text: str, expected: Callable[[Chain, Tensor], Tensor]
    ) -> None:
        model = Chain()
        assert torch.equal(_read(model, x, text), expected(model, x))

    def test_several_taps_on_one_module_and_one_tap_asked_twice(self, x: Tensor) -> None:
        model = Chain()
        recorder = _recorder(model, "act:input", "act", "last:input", "act:output")
        seen = recorder(x).activations
        assert set(seen) == {_tap("act:input"), _tap("act"), _tap("last:input")}
        assert seen[_tap("act")] is seen[_tap("last:input")]
        assert torch.equal(seen[_tap("act")], seen[_tap("act:input")].clamp(min=0))

    def test_the_output_is_handed_back_as_the_model_returned_it(self, x: Tensor) -> None:
        model = Calls(lambda m, x: {"logits": m.chain(x), "other": None}, chain=Chain())
        output = _recorder(model, "chain")(x).output
        assert set(output) == {"logits", "other"}
        assert torch.equal(output["logits"], model.get_submodule("chain")(x))

    def test_gradients_flow_through_what_is_read(self, x: Tensor) -> None:
        model = Chain()
        torch.autograd.backward(_read(model, x, "first").sum())
        assert model.first.weight.grad is not None
        # d/dW of the sum of Wx + b over all samples is the sum of x in each row.
        assert torch.allclose(model.first.weight.grad, x.sum(0).expand(5, 4))
        assert model.last.weight.grad is None

    def test_a_module_may_be_a_container(self, x: Tensor) -> None:
        model = nn.Sequential(OrderedDict(body=nn.Sequential(Chain(), nn.ReLU())))
        assert torch.equal(_read(model, x, "body"), _read(model, x, "body.1"))


class Named(NamedTuple):
    left: Tensor
    right: Tensor


Untyped = namedtuple("Untyped", ["left", "right"])


@dataclass
class Record:
    left: Tensor
    right: Tensor


@dataclass
class One:
    hidden: Tensor
    cache: None = None


class Pair(nn.Module):
    """Takes two things by any name and returns them in a structure of two."""

    def __init__(self, build: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.build = build

    def forward(self, left: Tensor, right: Tensor) -> Any:
        return self.build(left, right)


STRUCTURES = [
    pytest.param(lambda a, b: (a, b), ("0", "1"), id="tuple"),
    pytest.param(lambda a, b: [a, b], ("0", "1"), id="list"),
    pytest.param(Named, ("0", "1"), id="NamedTuple"),
    pytest.param(Untyped, ("0", "1"), id="namedtuple"),
    pytest.param(lambda a, b: {"left": a, "right": b}, ("left", "right"), id="dict"),
    pytest.param(lambda a, b: OrderedDict(left=a, right=b), ("left", "right"), id="ordered"),
    pytest.param(Record, ("left", "right"), id="dataclass"),
]


class TestStructures:
    @pytest.mark.parametrize(("build", "items"), STRUCTURES)
    def test_an_item_of_what_a_module_returns(
        self, x: Tensor, build: Callable[[Tensor, Tensor], Any], items: tuple[str, str]
    ) -> None:
        model = Calls(lambda m, x: m.pair(x, 2 * x), pair=Pair(build))
        recorder = _recorder(model, *(f"pair[{item}]" for item in items))
        seen = recorder(x).activations
        assert torch.equal(seen[_tap(f"pair[{items[0]}]")], x)
        assert torch.equal(seen[_tap(f"pair[{items[1]}]")], 2 * x)

    @pytest.mark.parametrize(("build", "items"), STRUCTURES)
    def test_without_an_item_the_first_of_a_sequence_and_an_error_elsewhere(
        self, x: Tensor, build: Callable[[Tensor, Tensor], Any], items: tuple[str, str]
    ) -> None:
        model = Calls(lambda m, x: m.pair(x, 2 * x), pair=Pair(build))
        if items == ("0", "1"):
            assert torch.equal(_read(model, x, "pair"), x)
        else:
            with pytest.raises(TapError, match=r"several tensors; name one: \[left\], \[right\]"):
                _read(model, x, "pair")

    @pytest.mark.parametrize("build", [One, lambda h: {"hidden": h, "cache": None}])
    def test_the_only_tensor_of_a_mapping_or_object_needs_no_item(
        self, x: Tensor, build: Callable[[Tensor], Any]
    ) -> None:
        model = Calls(lambda m, x: m.inner(x), inner=Calls(lambda _, x: build(x)))
        assert torch.equal(_read(model, x, "inner"), x)

    @pytest.mark.parametrize(
        ("call", "left", "right"),
        [
            (lambda pair, x: pair(x, 2 * x), "0", "1"),
            (lambda pair, x: pair(x, right=2 * x), "0", "right"),
            (lambda pair, x: pair(left=x, right=2 * x), "left", "right"),
        ],
    )
    def test_an_item_of_what_a_module_takes_by_position_or_by_name(
        self, x: Tensor, call: Callable[[nn.Module, Tensor], Tensor], left: str, right: str
    ) -> None:
        model = Calls(lambda m, x: call(m.pair, x), pair=Pair(lambda a, b: a + b))
        assert torch.equal(_read(model, x, f"pair:input[{left}]"), x)
        assert torch.equal(_read(model, x, f"pair:input[{right}]"), 2 * x)

    @pytest.mark.parametrize("build", [Named, Untyped])
    @pytest.mark.parametrize(("left", "right"), [("left", "right"), ("0", "1")])
    def test_an_item_of_a_named_tuple_by_field_or_by_position(
        self, x: Tensor, build: Callable[[Tensor, Tensor], Any], left: str, right: str
    ) -> None:
        model = Calls(lambda m, x: m.after(m.pair(x, 2 * x)), pair=Pair(build), after=nn.Identity())
        for tap in ("pair", "after:input", "after"):
            assert torch.equal(_read(model, x, f"{tap}[{left}]"), x)
            assert torch.equal(_read(model, x, f"{tap}[{right}]"), 2 * x)

    def test_a_plain_tuple_has_no_fields_and_a_named_one_no_others(self, x: Tensor) -> None:
        plain = Calls(lambda m, x: m.pair(x, x), pair=Pair(lambda a, b: (a, b)))
        with pytest.raises(TapError, match=r"pair\[left\]: unknown item 'left'"):
            _read(plain, x, "pair[left]")
        named = Calls(lambda m, x: m.pair(x, x), pair=Pair(Named))
        with pytest.raises(TapError, match="unknown item 'rihgt'; did you mean 'right'"):
            _read(named, x, "pair[rihgt]")

    @pytest.mark.parametrize("build", [lambda a, b: (a, b), lambda a, b: {"0": a, "1": b}])
    def test_an_item_of_a_structure_that_is_all_a_module_takes(
        self, x: Tensor, build: Callable[[Tensor, Tensor], Any]
    ) -> None:
        model = Calls(lambda m, x: m.inner(build(x, 2 * x)), inner=nn.Identity())
        assert torch.equal(_read(model, x, "inner:input[1]"), 2 * x)

    def test_beside_other_arguments_an_item_is_an_argument(self, x: Tensor) -> None:
        inner = Pair(lambda both, third: both[0] + third)
        model = Calls(lambda m, x: m.inner((x, 2 * x), 3 * x), inner=inner)
        assert torch.equal(_read(model, x, "inner:input[1]"), 3 * x)

    def test_without_an_item_the_first_positional_input(self, x: Tensor) -> None:
        model = Calls(lambda m, x: m.pair(3 * x, right=x), pair=Pair(lambda a, b: a + b))
        assert torch.equal(_read(model, x, "pair:input"), 3 * x)

    def test_the_only_named_input_needs_no_item_and_two_do(self, x: Tensor) -> None:
        one = Calls(lambda m, x: m.linear(input=x), linear=nn.Linear(4, 2))
        assert torch.equal(_read(one, x, "linear:input"), x)
        two = Calls(lambda m, x: m.pair(left=x, right=x), pair=Pair(lambda a, b: a + b))
        with pytest.raises(TapError, match=r"pair:input holds several tensors"):
            _read(two, x, "pair:input")

    def test_a_wrong_item_is_answered_with_those_that_there_are(self, x: Tensor) -> None:
        model = Calls(lambda m, x: m.pair(x, x), pair=Pair(Record))
        with pytest.raises(TapError, match="unknown item 'rihgt'; did you mean 'right'"):
            _read(model, x, "pair[rihgt]")

    def test_an_item_of_one_tensor_is_refused(self, x: Tensor) -> None:
        with pytest.raises(TapError, match=r"is one tensor and has no item '0'; leave \[0\] out"):
            _read(Chain(), x, "first[0]")

    @pytest.mark.parametrize("value", [None, 3, "text", (), [None], {}, Chain(), Record])
    def test_what_is_no_tensor_is_refused(self, value: object) -> None:
        with pytest.raises(TapError, match=f"here is no tensor but {type(value).__name__}"):
            tensor_of(value, None, "here")


class TestRunning:
    def test_a_model_is_called_with_one_tensor_positional_or_named_arguments(self) -> None:
        model = Pair(lambda a, b: a - b)
        a, b = torch.tensor([3.0]), torch.tensor([1.0])
        assert run_model(nn.Identity(), a) is a
        assert run_model(model, (a, b)) == run_model(model, [a, b]) == 2
        assert run_model(model, {"right": a, "left": b}) == -2

    def test_logits_are_found_in_what_models_return(self, x: Tensor) -> None:
        @dataclass
        class Output:
            logits: Tensor

        for output in (x, Output(x), {"logits": x}, (x, None), [x, 1], Named(x, 2 * x)):
            assert logits_of(output) is x

    @pytest.mark.parametrize("output", [None, 3, "text", (), {"scores": torch.ones(1)}, (None,)])
    def test_there_are_none_in_what_holds_none(self, output: object) -> None:
        assert logits_of(output) is None


def _normalised(inplace: bool) -> nn.Sequential:
    """Return convolution, batch norm and ReLU, with statistics that are not the first ones."""
    norm = nn.BatchNorm1d(5)
    assert norm.running_mean is not None
    norm.running_mean.fill_(0.25)
    layers = OrderedDict(first=nn.Linear(4, 5), bn=norm, act=nn.ReLU(inplace=inplace))
    return nn.Sequential(layers).eval()


class TestOverwritten:
    def test_what_a_later_inplace_relu_overwrites_is_kept_as_it_was_returned(
        self, x: Tensor
    ) -> None:
        model = _normalised(inplace=True)
        returned = model[1](model[0](x))
        assert returned.min() < 0
        assert torch.equal(_probed(model, x, "bn")(x).activations[_tap("bn")], returned)

    def test_what_is_not_kept_would_have_been_overwritten_and_is_refused(self, x: Tensor) -> None:
        model = _normalised(inplace=True)
        recorder = _recorder(model, "bn", "act")
        lost = recorder.observe(x)
        assert lost.overwritten == {_tap("bn")}
        assert lost.activations[_tap("bn")].min() == 0
        with pytest.raises(TapError, match="student: bn was overwritten in place in training"):
            recorder(x)

    def test_nothing_is_copied_where_nothing_is_overwritten(self, x: Tensor) -> None:
        recorder = _probed(_normalised(inplace=False), x, "bn", "act")
        assert recorder.keep == frozenset()
        assert recorder.observe(x).overwritten == frozenset()

    def test_gradients_through_a_kept_tap_are_those_of_a_model_without_inplace(
        self, x: Tensor
    ) -> None:
        models = [_normalised(inplace=True), _normalised(inplace=False)]
        models[1].load_state_dict(models[0].state_dict())
        for model in models:
            seen = _probed(model, x, "bn")(x)
            loss = seen.activations[_tap("bn")].square().sum() + seen.output.sum()
            torch.autograd.backward(loss)
        grads = [[p.grad for p in model.parameters()] for model in models]
        for inplace, plain in zip(*grads, strict=True):
            assert inplace is not None
            assert plain is not None
            assert torch.allclose(inplace, plain, rtol=1e-6)

    def test_a_functional_relu_in_place_is_noticed(self, x: Tensor) -> None:
        model = Calls(lambda m, x: F.relu_(m.first(x)), first=nn.Linear(4, 5))
        returned = model.get_submodule("first")(x)
        seen = _probed(model, x, "first")(x)
        assert torch.equal(seen.activations[_tap("first")], returned)
        assert not torch.equal(seen.output, returned)

    def test_an_input_that_the_module_itself_overwrites_is_kept_as_it_was_given(
        self, x: Tensor
    ) -> None:
        model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True))
        given = model[0](x)
        seen = _probed(model, x, "1:input", "1")(x).activations
        assert torch.equal(seen[_tap("1:input")], given)
        assert torch.equal(seen[_tap("1")], given.clamp(min=0))

    def test_of_one_tensor_with_two_names_each_is_kept_as_it_was_at_its_place(
        self, x: Tensor
    ) -> None:
        model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Hardtanh(0, 0.1, True))
        given = model[0](x)
        seen = _probed(model, x, "0", "1", "2")(x).activations
        assert torch.equal(seen[_tap("0")], given)
        assert torch.equal(seen[_tap("1")], given.clamp(min=0))
        assert torch.equal(seen[_tap("2")], given.clamp(0, 0.1))

    @pytest.mark.parametrize("dropout", [nn.Dropout, nn.Dropout1d])
    def test_dropout_in_place_is_foreseen_though_a_probe_cannot_see_it(
        self, x: Tensor, dropout: type[nn.Dropout]
    ) -> None:
        model = nn.Sequential(nn.Linear(4, 5), dropout(0.5, inplace=True))
        recorder = _probed(model, x, "0")
        assert recorder.observe(x).overwritten == {_tap("0")}
        assert torch.equal(recorder(x).activations[_tap("0")], model[0](x))

    def test_dropout_that_is_not_in_place_needs_no_copy(self, x: Tensor) -> None:
        model = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5))
        assert _probed(model, x, "0").keep == frozenset()

    def test_what_is_overwritten_in_training_alone_is_refused_and_in_evaluation_legal(
        self, x: Tensor
    ) -> None:
        def run(model: Any, x: Tensor) -> Tensor:
            hidden: Tensor = model.first(x)
            return F.relu_(hidden) if model.training else F.relu(hidden)

        model = Calls(run, first=nn.Linear(4, 5))
        recorder = _probed(model, x, "first")
        assert model.training
        with pytest.raises(TapError, match="in training but not when the model was probed"):
            recorder(x)
        model.eval()
        assert torch.equal(recorder(x).activations[_tap("first")], model.get_submodule("first")(x))


class TestInference:
    def test_a_model_is_read_where_changes_in_place_are_not_counted(self, x: Tensor) -> None:
        model = Chain()
        recorder = _recorder(model, "first")
        with torch.inference_mode():
            seen = recorder(x.clone())
        assert seen.activations[_tap("first")].is_inference()
        assert torch.equal(seen.activations[_tap("first")], model.first(x))


class TestWhatCannotBeTapped:
    def test_a_module_that_runs_twice_is_refused_and_its_container_is_not(self, x: Tensor) -> None:
        act = nn.ReLU()
        model = nn.Sequential(OrderedDict(body=nn.Sequential(nn.Linear(4, 5), act, act)))
        with pytest.raises(TapError, match=r"student: body\.1 ran more than once in a forward"):
            _read(model, x, "body.1")
        assert torch.equal(_read(model, x, "body"), model(x))

    @pytest.mark.parametrize("text", ["body.1", "body.1:input"])
    def test_it_is_refused_by_the_probe_too_on_both_sides(self, x: Tensor, text: str) -> None:
        act = nn.ReLU()
        model = nn.Sequential(OrderedDict(body=nn.Sequential(nn.Linear(4, 5), act, act)))
        with pytest.raises(TapError, match=f"student: {text} ran more than once"):
            probe(model, x, (_tap(text),), "student")

    def test_a_tapped_module_that_did_not_run_is_an_error(self, x: Tensor) -> None:
        model = Calls(
            lambda m, x: m.aux(x) if m.training else m.main(x),
            main=nn.Linear(4, 3),
            aux=nn.Linear(4, 3),
        )
        recorder = _recorder(model, "aux")
        assert recorder(x).activations
        model.eval()
        with pytest.raises(TapError, match="student: aux did not run in the forward pass"):
            recorder(x)

    def test_a_module_that_does_not_exist_is_answered_with_the_near_one(self) -> None:
        with pytest.raises(TapError, match=r"^student: unknown module 'frist'; did you mean"):
            _recorder(Chain(), "frist")

    def test_the_model_itself_exists_and_is_not_offered_as_a_name(self, x: Tensor) -> None:
        assert torch.equal(_read(Chain(), x, ":input"), x)
        with pytest.raises(TapError, match=r"\(known: act, first, last\)$"):
            _recorder(Chain(), "nothing")


class Stubborn(nn.Linear):
    """A layer that takes no hooks."""

    def register_forward_hook(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("no hooks here")


class TestHooks:
    def test_removing_leaves_nothing_on_any_module(self, x: Tensor) -> None:
        model = Chain()
        recorder = _recorder(model, "first", "act:input", ":input", ":output")
        assert _hooks(model) == 4
        recorder(x)
        recorder.remove()
        assert _hooks(model) == 0
        recorder.remove()  # repeatable

    def test_hooks_of_others_stay(self) -> None:
        model = Chain()
        model.first.register_forward_hook(lambda *_: None)
        _recorder(model, "first").remove()
        assert _hooks(model) == 1

    def test_two_recorders_on_one_model_do_not_meet(self, x: Tensor) -> None:
        model = Chain()
        one, other = _recorder(model, "first"), _recorder(model, "first", "act")
        assert len(one(x).activations) == 1
        assert len(other(x).activations) == 2
        one.remove()
        assert len(other(x).activations) == 2

    def test_nothing_is_left_where_setting_them_fails_half_way(self) -> None:
        model = nn.Sequential(nn.Linear(4, 5), Stubborn(5, 3))
        with pytest.raises(RuntimeError, match="no hooks here"):
            _recorder(model, "0", "1:input", "1")
        assert _hooks(model) == 0

    def test_after_an_exception_in_the_model_nothing_is_recorded_until_asked(
        self, x: Tensor
    ) -> None:
        model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
        recorder = _recorder(model, "0")
        with pytest.raises(RuntimeError, match="shape"):
            recorder(x[:, :2])
        assert recorder._taken is None
        model(x)
        model(x)
        assert torch.equal(recorder(2 * x).activations[_tap("0")], model[0](2 * x))
        recorder.remove()
        assert _hooks(model) == 0

    def test_running_the_model_on_its_own_records_nothing(self, x: Tensor) -> None:
        model = Chain()
        recorder = _recorder(model, "first")
        with torch.no_grad():
            model(x)
            model(x)  # would be a module that ran more than once
        seen = recorder(2 * x)
        model(3 * x)
        assert torch.equal(seen.activations[_tap("first")], model.first(2 * x))

    def test_what_was_read_belongs_to_the_caller_and_goes_with_it(self, x: Tensor) -> None:
        recorder = _recorder(Chain(), "first")
        seen: Observation | None = recorder(x)
        assert seen is not None
        activation = weakref.ref(seen.activations[_tap("first")])
        assert activation() is not None
        seen = None
        gc.collect()
        assert activation() is None
