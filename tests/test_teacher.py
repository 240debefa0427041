"""A teacher is asked, and otherwise left alone."""

import copy

import pytest
import torch
from torch import Tensor, nn

from kdcore.errors import DataError, TapError
from kdcore.taps import TapAddress
from kdcore.teacher import FrozenTeacher, Signals

HIDDEN = TapAddress("1")
X = torch.linspace(-2.0, 2.0, 40).reshape(10, 4)


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)]
    return nn.Sequential(*layers)


def _frozen(model: nn.Module, *addresses: TapAddress) -> FrozenTeacher:
    return FrozenTeacher(model, addresses or (HIDDEN,), "teacher")


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
    heard = _frozen(model, TapAddress("model.1")).signals(X)
    assert model(X).requires_grad  # the control
    assert not _logits(heard).requires_grad
    assert not heard.activations[TapAddress("model.1")].requires_grad


def test_signals_of_another_number_of_samples_are_refused() -> None:
    heard = Signals(torch.zeros(4, 3), {HIDDEN: torch.zeros(4, 8)})
    heard.check_rows(4, "teacher")
    Signals(None, {}).check_rows(4, "teacher")
    with pytest.raises(DataError, match="batch has 5 samples, large was given or tapped for 4"):
        heard.check_rows(5, "large")
    with pytest.raises(DataError, match="tapped for 1"):
        Signals(torch.zeros(4, 3), {HIDDEN: torch.zeros(1, 8)}).check_rows(4, "teacher")


def test_a_tap_that_is_overwritten_is_kept_where_that_is_asked_for() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True))
    teacher = FrozenTeacher(model, [TapAddress("0")], "teacher", [TapAddress("0")])
    assert torch.equal(teacher.signals(X).activations[TapAddress("0")], model[0](X))
    teacher.release()
    careless = FrozenTeacher(model, [TapAddress("0")], "teacher")
    with pytest.raises(TapError, match="teacher: 0 was overwritten in place"):
        careless.signals(X)


def test_a_model_without_logits_tells_its_activations() -> None:
    class Scores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"scores": self.fc(x)}

    heard = _frozen(Scores(), TapAddress("fc")).signals(X, batch_size=4)
    assert heard.logits is None
    assert heard.activations[TapAddress("fc")].shape == (10, 3)


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
    heard = _frozen(model, TapAddress("model.1")).signals(X, batch_size)
    assert model.seen == sizes
    assert torch.allclose(_logits(heard), model(X), rtol=1e-6)
    assert torch.allclose(heard.activations[TapAddress("model.1")], model.model[:2](X), rtol=1e-5)


def test_at_one_size_a_sample_tells_the_same_bits_whatever_is_beside_it() -> None:
    teacher = _frozen(_model())
    together = teacher.signals(X, batch_size=8)
    order = torch.tensor([7, 2, 9])
    apart = teacher.signals(X[order], batch_size=8)
    assert torch.equal(_logits(apart), _logits(together)[order])
    assert torch.equal(apart.activations[HIDDEN], together.activations[HIDDEN][order])


def test_signals_are_joined_in_their_order_and_cut() -> None:
    def part(*values: float) -> Signals:
        tensor = torch.tensor(values)
        return Signals(tensor, {HIDDEN: -tensor})

    joined = Signals.join([part(1.0, 2.0), part(3.0, 1.0)], 3)
    assert _logits(joined).tolist() == [1.0, 2.0, 3.0]
    assert joined.activations[HIDDEN].tolist() == [-1.0, -2.0, -3.0]
    assert _logits(Signals.join([part(1.0, 2.0)], 1)).tolist() == [1.0]


def test_a_function_is_applied_to_logits_and_activations_and_not_to_what_is_missing() -> None:
    doubled = Signals(torch.ones(2), {HIDDEN: torch.ones(3)}).map(lambda tensor: 2 * tensor)
    assert _logits(doubled).tolist() == [2.0, 2.0]
    assert doubled.activations[HIDDEN].tolist() == [2.0, 2.0, 2.0]
    assert Signals(None, {}).map(lambda tensor: 2 * tensor) == Signals(None, {})
