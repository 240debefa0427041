import pytest
import torch
from torch import nn

from kdcore.devices import device_of, find_device
from kdcore.errors import UserError


def test_a_models_device_is_that_of_its_weights_and_the_cpu_without_any() -> None:
    assert device_of(nn.Linear(1, 1, device="meta")) == torch.device("meta")
    assert device_of(nn.BatchNorm1d(1, affine=False, device="meta")) == torch.device("meta")
    assert device_of(nn.ReLU()) == torch.device("cpu")


def test_a_device_that_is_not_there_is_named() -> None:
    assert find_device("cpu").type == "cpu"
    for name in ("cuda:77", "toaster"):
        with pytest.raises(UserError, match=f"there is no device '{name}' here"):
            find_device(name)
