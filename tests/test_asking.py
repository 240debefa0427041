"""Teachers are asked once for every row, and what is kept is held against what they say."""

import pytest
import torch
from torch import Tensor, nn

from kdcore.arrays import ArraySpec
from kdcore.asking import ROUNDING, Request, agrees, apart, ask_all, specs_of
from kdcore.data.source import Batch, Source
from kdcore.frozen_teacher import FrozenTeacher
from kdcore.listening import LiveSignals
from kdcore.signals import SignalKey
from kdcore.taps import TapAddress

CPU = torch.device("cpu")
X = torch.linspace(-1, 1, 33).reshape(11, 3)
NAMES = ["teacher: logits", "teacher: tap 0"]


class Views(Source):
    """Samples whose views are multiples of them."""

    views = 2
    targets = torch.zeros(len(X), dtype=torch.int64)

    def batch(self, indices: Tensor, view: int = 0, *, teacher: bool = True) -> Batch:  # noqa: ARG002
        inputs = X[indices] * (view + 1)
        return Batch(inputs, inputs, self.targets[indices], indices, view)


class Crowd(nn.Sequential):
    """Compares each sample with those beside it."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x - x.mean(0))
        return x


def _layers(seed: int = 0) -> list[nn.Module]:
    torch.manual_seed(seed)
    return [nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)]


def _ready(model: nn.Module) -> tuple[LiveSignals, Request, dict[str, Tensor]]:
    teachers = {"teacher": FrozenTeacher(model, {SignalKey(TapAddress("0")): None}, "teacher")}
    live, request = LiveSignals(teachers, 4), Request(teachers, Views(), 4, CPU)
    specs = dict(specs_of(live, request, "float32"))
    arrays = {name: torch.full(spec.shape, torch.nan) for name, spec in specs.items()}
    ask_all(arrays, specs, live, request)
    return live, request, arrays


def test_arrays_have_a_row_for_each_sample_of_each_view_in_the_format_they_are_kept_in() -> None:
    live, request, _ = _ready(nn.Sequential(*_layers()))
    assert request.rows == 22
    specs = dict(specs_of(live, request, "bfloat16"))
    assert specs[NAMES[0]] == ArraySpec((22, 2), torch.bfloat16)
    assert specs[NAMES[1]] == ArraySpec((22, 4), torch.bfloat16)


def test_every_row_is_what_the_teacher_says_of_its_sample_and_view() -> None:
    model = nn.Sequential(*_layers())
    _, _, arrays = _ready(model)
    assert sorted(arrays) == NAMES
    assert torch.allclose(arrays[NAMES[0]], model(torch.cat([X, 2 * X])), atol=1e-6)
    assert torch.allclose(arrays[NAMES[1]], model[0](torch.cat([X, 2 * X])), atol=1e-6)


@pytest.mark.parametrize("change", ["nothing", "a value", "a row less", "a name less", "a teacher"])
def test_only_what_the_teacher_says_agrees_with_it(change: str) -> None:
    live, request, arrays = _ready(nn.Sequential(*_layers()))
    if change == "a value":
        arrays[NAMES[1]][21, 0] += 0.5  # the last sample of the last view
    elif change == "a row less":
        arrays[NAMES[1]] = arrays[NAMES[1]][:-1]
    elif change == "a name less":
        del arrays[NAMES[1]]
    elif change == "a teacher":
        live, _, _ = _ready(nn.Sequential(*_layers(1)))
    assert agrees(arrays, live, request) == (change == "nothing")


def test_a_teacher_that_looks_at_the_batch_says_something_else_at_another_place() -> None:
    live, request, arrays = _ready(Crowd(*_layers()))
    assert apart(arrays, live, request) > 1000 * ROUNDING
    live, request, arrays = _ready(nn.Sequential(*_layers()))
    assert apart(arrays, live, request) <= ROUNDING
