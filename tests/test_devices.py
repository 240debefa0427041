import pytest
import torch
from torch import nn

from kdcore.devices import device_of, explained_where_memory_ends, find_device
from kdcore.errors import RunError, UserError


def test_a_models_device_is_that_of_its_weights_and_the_cpu_without_any() -> None:
    assert device_of(nn.Linear(1, 1, device="meta")) == torch.device("meta")
    assert device_of(nn.BatchNorm1d(1, affine=False, device="meta")) == torch.device("meta")
    assert device_of(nn.ReLU()) == torch.device("cpu")


def test_a_device_that_is_not_there_is_named() -> None:
    assert find_device("cpu").type == "cpu"
    for name in ("cuda:77", "toaster"):
        with pytest.raises(UserError, match=f"there is no device '{name}' here"):
            find_device(name)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried"), MemoryError("no memory")]
)
def test_where_memory_ends_the_remedies_are_named(error: Exception) -> None:
    with (
        pytest.raises(RunError, match=r"memory with 64 samples at a time .*accumulate.*batch_size"),
        explained_where_memory_ends(64),
    ):
        raise error


def test_so_they_are_where_the_processors_memory_ends() -> None:
    with pytest.raises(RunError, match="out of memory"), explained_where_memory_ends(1):
        torch.empty(2**60, dtype=torch.uint8)


def test_other_errors_are_left_alone() -> None:
    with pytest.raises(RuntimeError, match="shapes") as caught, explained_where_memory_ends(1):
        raise RuntimeError("shapes")
    assert not isinstance(caught.value, RunError)
