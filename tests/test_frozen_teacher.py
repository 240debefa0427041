"""A teacher is asked, and otherwise left alone."""

import copy

import pytest
import torch
from torch import Tensor, nn

from kdcore.adapters import AveragePool
from kdcore.asking import ROUNDING
from kdcore.errors import TapError
from kdcore.frozen_teacher import FrozenTeacher
from kdcore.signals import SignalKey, Signals
from kdcore.taps import TapAddress

HIDDEN = SignalKey(TapAddress("1"))
X = torch.linspace(-2.0, 2.0, 40).reshape(10, 4)


def _key(address: str, adapter: str = "") -> SignalKey:
    return SignalKey(TapAddress.parse(address), adapter)


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)]
    return nn.Sequential(*layers)


def _frozen(model: nn.Module, *keys: SignalKey) -> FrozenTeacher:
    return FrozenTeacher(model, dict.fromkeys(keys or (HIDDEN,)), "teacher")


def _modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def _logits(signals: Signals) -> Tensor:
    assert signals.logits is not None
    return signals.logits


def test_it_tells_logits_and_activations_as_of_evaluation() -> None:
    model = _model()
    heard = _frozen(model).signals(X)
    reference = copy.deepcopy(model).eval()
    assert torch.equal(_logits(heard), reference(X))
    assert torch.equal(heard.activations[HIDDEN], reference[:2](X))


def test_in_training_it_would_tell_something_else() -> None:  # the control of the above
    model = _model()
    assert not torch.equal(copy.deepcopy(model).eval()(X), model(X))


def test_it_is_in_evaluation_until_it_is_released_and_then_as_it_was() -> None:
    model = _model()
    model[3].eval()
    before = _modes(model)
    teacher = _frozen(model)
    assert not any(_modes(model))
    teacher.release()
    assert _modes(model) == before
    assert len(set(before)) == 2
    assert not any(module._forward_hooks for module in model.modules())


def test_a_teacher_that_somebody_put_into_training_is_put_back_before_it_is_asked() -> None:
    model = _model()
    teacher = _frozen(model)
    expected = _logits(teacher.signals(X))
    model.train()
    assert torch.equal(_logits(teacher.signals(X)), expected)
    assert not any(_modes(model))


def test_so_is_one_of_whose_layers_somebody_put_one_into_training() -> None:
    model = _model()
    teacher = _frozen(model)
    expected = _logits(teacher.signals(X))
    model[1].train()
    assert torch.equal(_logits(teacher.signals(X)), expected)


def test_its_weights_statistics_gradients_and_flags_are_left_alone() -> None:
    model = _model()
    model[0].weight.grad = torch.ones(8, 4)
    model[0].bias.requires_grad_(False)
    weights = copy.deepcopy(model.state_dict())
    flags = [parameter.requires_grad for parameter in model.parameters()]
    teacher = _frozen(model)
    teacher.signals(X)
    teacher.release()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert torch.equal(model[0].weight.grad, torch.ones(8, 4))
    assert model[4].weight.grad is None


def test_what_it_tells_has_no_gradient() -> None:
    heard = _frozen(_model()).signals(X)
    assert not _logits(heard).requires_grad
    assert not heard.activations[HIDDEN].requires_grad


def test_a_teacher_that_turns_gradients_on_for_itself_tells_none() -> None:
    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = _model()

        def forward(self, x: Tensor) -> Tensor:
            with torch.enable_grad():
                logits: Tensor = self.model(x)
            return logits

    model = Stubborn()
    heard = _frozen(model, _key("model.1")).signals(X)
    assert model(X).requires_grad  # the control
    assert not _logits(heard).requires_grad
    assert not heard.activations[_key("model.1")].requires_grad


def test_a_tap_that_is_overwritten_is_kept_where_that_is_asked_for() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True))
    teacher = FrozenTeacher(model, {_key("0"): None}, "teacher", [TapAddress("0")])
    assert torch.equal(teacher.signals(X).activations[_key("0")], model[0](X))
    teacher.release()
    careless = FrozenTeacher(model, {_key("0"): None}, "teacher")
    with pytest.raises(TapError, match="teacher: 0 was overwritten in place"):
        careless.signals(X)


def test_a_model_without_logits_tells_its_activations() -> None:
    class Scores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"scores": self.fc(x)}

    heard = _frozen(Scores(), _key("fc")).signals(X, batch_size=4)
    assert heard.logits is None
    assert heard.activations[_key("fc")].shape == (10, 3)


class Sizes(nn.Module):
    """Remembers how many samples it was given at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.model = _model()
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        logits: Tensor = self.model(x)
        return logits


@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(None, [10]), (4, [4, 4, 4]), (5, [5, 5]), (16, [16])]
)
def test_it_is_asked_so_many_samples_at_a_time_the_last_batch_filled_up(
    batch_size: int | None, sizes: list[int]
) -> None:
    model = Sizes()
    heard = _frozen(model, _key("model.1")).signals(X, batch_size)
    assert model.seen == sizes
    hidden = heard.activations[_key("model.1")]
    for told, expected in ((_logits(heard), model(X)), (hidden, model.model[:2](X))):
        # A processor may round a sum in another way in a batch of another size.
        atol = ROUNDING * float(expected.detach().abs().max())
        torch.testing.assert_close(told, expected.detach(), rtol=0, atol=atol)


def test_at_one_size_a_sample_tells_the_same_bits_whatever_is_beside_it() -> None:
    teacher = _frozen(_model())
    together = teacher.signals(X, batch_size=8)
    order = torch.tensor([7, 2, 9])
    apart = teacher.signals(X[order], batch_size=8)
    assert torch.equal(_logits(apart), _logits(together)[order])
    assert torch.equal(apart.activations[HIDDEN], together.activations[HIDDEN][order])


def test_what_is_wanted_behind_an_adapter_comes_through_it() -> None:
    model = _model()
    pooled = _key("1", "flatten,average-pool:4")
    heard = FrozenTeacher(model, {HIDDEN: None, pooled: AveragePool(4)}, "teacher").signals(X)
    assert heard.activations[HIDDEN].shape == (10, 8)
    expected = heard.activations[HIDDEN].reshape(10, 4, 2).mean(2)
    assert torch.allclose(heard.activations[pooled], expected)


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
@pytest.mark.parametrize("own", [torch.bfloat16, torch.float32, torch.float64])
def test_what_it_tells_is_of_one_precision_before_adapters(
    own: torch.dtype, precision: torch.dtype
) -> None:
    model = _model().to(own)
    pooled = _key("1", "flatten,average-pool:4")
    teacher = FrozenTeacher(model, {HIDDEN: None, pooled: AveragePool(4)}, "teacher", (), precision)
    heard = teacher.signals(X.to(own))
    assert {tensor.dtype for _, tensor in heard.named()} == {precision}
    exact = heard.activations[HIDDEN].reshape(10, 4, 2).mean(2)
    assert torch.equal(heard.activations[pooled], exact)


def test_under_autocast_adapters_still_work_in_its_precision() -> None:
    pooled = _key("1", "flatten,average-pool:4")
    teacher = FrozenTeacher(_model(), {HIDDEN: None, pooled: AveragePool(4)}, "teacher")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        heard = teacher.signals(X)
    assert {tensor.dtype for _, tensor in heard.named()} == {torch.float32}


def test_a_teacher_that_draws_random_numbers_takes_none_from_the_students_stream() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.fc(x) + torch.rand(3)
            return logits

    teacher = _frozen(Noisy(), _key("fc"))
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    teacher.signals(X)
    assert torch.equal(torch.rand(2), expected)
