"""What a model costs, against numbers that are counted by hand."""

import time

import pytest
import torch
from torch import Tensor, nn

from kdcore.costs import costs_of


class Slow(nn.Module):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.seconds = seconds
        self.seen: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen.append(len(inputs))
        time.sleep(self.seconds)
        return torch.as_tensor(self.layer(inputs))


def test_parameters_products_and_bytes_are_those_of_the_layers() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(80, 7)
    )
    (costs,) = costs_of((model, torch.zeros(6, 3, 4, 4)))
    assert costs.parameters == 5 * 27 + 5 + 10 + 80 * 7 + 7
    assert costs.macs == 16 * 5 * 27 + 80 * 7
    # Two running statistics, and a count of eight bytes.
    assert costs.bytes == 4 * (costs.parameters + 10) + 8


def test_latency_is_of_one_sample_in_milliseconds() -> None:
    model = Slow(0.02)
    (costs,) = costs_of((model, torch.zeros(6, 4)))
    assert set(model.seen) == {1}
    assert 20 <= costs.latency_ms < 200
    assert costs.latency_ms <= costs.latency_p95_ms


def test_each_of_several_models_has_its_own_costs() -> None:
    slow, fast = Slow(0.02), nn.Linear(4, 3)
    first, second = costs_of((slow, torch.zeros(2, 4)), (fast, torch.zeros(5, 4)))
    assert (first.parameters, second.parameters) == (10, 15)
    assert first.latency_ms >= 20 > second.latency_ms


def test_inputs_by_name_are_cut_to_one_sample_too() -> None:
    class Named(nn.Module):
        def forward(self, one: Tensor, two: Tensor) -> Tensor:
            assert len(one) == len(two) == 1
            return one @ two.T

    (costs,) = costs_of((Named(), {"one": torch.ones(3, 4), "two": torch.ones(3, 4)}))
    assert (costs.parameters, costs.macs) == (0, 4)


def test_products_that_cannot_be_counted_are_none() -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.runs = 0

        def forward(self, inputs: Tensor) -> Tensor:
            self.runs += 1
            if self.runs == 1:
                raise RuntimeError("not under this mode")
            return inputs

    assert costs_of((Fails(), torch.zeros(2, 1)))[0].macs is None


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    costs_of((model, torch.randn(4, 3, generator=torch.Generator().manual_seed(0))))
    assert model.training is training
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], each) for name, each in model.state_dict().items())
