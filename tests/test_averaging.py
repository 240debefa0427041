"""The average of a student's weights is what it says, and comes and goes without a trace."""

import pytest
import torch
from torch import nn

from kdcore.averaging import WeightAverage


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def test_it_is_the_exponential_average_of_all_steps_weights_and_statistics() -> None:
    model = _model()
    average = WeightAverage(model, 0.15)
    expected: dict[str, torch.Tensor] = {}
    for step in range(4):
        with torch.no_grad():
            for tensor in model.state_dict().values():
                if tensor.is_floating_point():
                    tensor.add_(step + 1.0)
        average.update()
        for name, tensor in model.state_dict().items():
            before = expected.get(name, tensor.double())
            kept = min(0.15, (1 + step) / (10 + step))
            expected[name] = kept * before + (1 - kept) * tensor.double()
    last = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with average.applied():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                assert torch.allclose(tensor.double(), expected[name], rtol=1e-6)
    assert all(torch.equal(tensor, last[name]) for name, tensor in model.state_dict().items())
    average.apply()
    assert not torch.equal(model.state_dict()["0.weight"], last["0.weight"])


def test_the_weights_come_back_where_measuring_them_fails() -> None:
    model = _model()
    average = WeightAverage(model, 0.5)
    average.update()
    with torch.no_grad():
        model[0].weight.add_(1.0)  # type: ignore[index]
    kept = model.state_dict()["0.weight"].clone()
    with pytest.raises(RuntimeError, match="measuring"), average.applied():
        raise RuntimeError("measuring")
    assert torch.equal(model.state_dict()["0.weight"], kept)


def test_a_short_training_is_not_half_its_beginning() -> None:
    model = _model()
    average = WeightAverage(model, 0.999)
    with torch.no_grad():
        for step in range(40):
            model.state_dict()["0.bias"].fill_(float(step))
            average.update()
    average.apply()
    # Without forgetting the beginning it would be below 1.
    assert model.state_dict()["0.bias"].min() > 25
