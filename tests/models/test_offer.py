"""A head of other classes on layers that fit: nothing else may differ."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from kdcore.errors import ModelError
from kdcore.models.offer import fill


def _model(classes: int, width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, classes))


def test_all_but_the_head_is_taken() -> None:
    torch.manual_seed(0)
    old, new = _model(6), _model(2)
    before = {name: each.clone() for name, each in new.state_dict().items()}
    fill(new, old.state_dict(), 2, "teacher")
    for name, each in new.state_dict().items():
        expected = before if name.startswith("2.") else old.state_dict()
        assert torch.equal(each, expected[name])


def _without(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {key: each for key, each in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_without("0.weight"), "weights of another model: 1 tensors"),
        (lambda state: {f"body.{key}": each for key, each in state.items()}, "another model"),
        (lambda state: {**state, "more": torch.zeros(1)}, "such as 'more'"),
        (lambda _: _model(6, 5).state_dict(), "more than other classes"),
        (lambda state: {**state, "0.bias": torch.full((4,), torch.nan)}, "not finite"),
        (lambda state: {**state, "2.bias": torch.full((6,), torch.inf)}, "not finite"),
    ],
)
def test_weights_of_another_model_are_refused(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], said: str
) -> None:
    state = change(dict(_model(6).state_dict()))
    with pytest.raises(ModelError, match=said):
        fill(_model(2), state, 2, "teacher")
