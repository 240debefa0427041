import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn, optim

from kdcore.muon import Muon, matrices_of, orthogonal


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _steps(optimizer: optim.Optimizer, model: nn.Module, count: int = 4) -> None:
    for step in range(count):
        for number, weight in enumerate(model.parameters()):
            weight.grad = _random(*weight.shape, seed=100 * step + number).to(weight.dtype)
        optimizer.step()


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 40), (2, 64, 7)])
def test_singular_values_come_near_one_and_vectors_stay(shape: tuple[int, int, int]) -> None:
    given = _random(*shape)
    before = given.clone()
    found = orthogonal(given)
    assert torch.equal(given, before)
    u, values, v = torch.linalg.svd(given, full_matrices=False)
    seen = torch.linalg.svdvals(found)
    assert float(values.max() / values.min()) > 1.2  # the control: they were apart
    assert float(seen.min()) > 0.68
    assert float(seen.max()) < 1.21
    # In the given one's own directions it is diagonal.
    within = u.mT @ found @ v.mT
    apart = within - torch.diag_embed(within.diagonal(dim1=1, dim2=2))
    assert float(apart.abs().max()) < 1e-4


def test_singular_values_are_within_the_bounds_that_are_promised() -> None:
    values = torch.logspace(math.log10(1e-3), 0, 90, dtype=torch.float64)
    given = torch.diag(values)[None]
    assert float(values.min() / values.norm()) < 2e-3  # the control: the smallest is outside
    seen = orthogonal(given)[0].diagonal()
    promised = seen[values / values.norm() >= 2e-3]
    assert float(promised.min()) > 0.68
    assert float(promised.max()) < 1.21
    assert float(seen.min()) < 0.68


def test_it_does_not_matter_how_large_a_matrix_is() -> None:
    given = _random(1, 5, 7)
    torch.testing.assert_close(orthogonal(given * 1e-5), orthogonal(given))


def test_a_matrix_of_zeros_stays_one() -> None:
    assert torch.equal(orthogonal(torch.zeros(1, 3, 4)), torch.zeros(1, 3, 4))


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("shape", [(6, 20), (20, 6)])
def test_a_matrix_steps_as_pytorchs_muon_in_adamws_scale(
    shape: tuple[int, int], nesterov: bool
) -> None:
    own, other = nn.Linear(*shape, bias=False), nn.Linear(*shape, bias=False)
    other.load_state_dict(own.state_dict())
    start = own.weight.detach().clone()
    _steps(Muon(own, lr=0.01, weight_decay=0.3, momentum=0.8, nesterov=nesterov), own)
    theirs = optim.Muon(
        other.parameters(),
        lr=0.01,
        weight_decay=0.3,
        momentum=0.8,
        nesterov=nesterov,
        adjust_lr_fn="match_rms_adamw",
    )
    _steps(theirs, other)
    moved = (other.weight - start).norm()
    assert (own.weight - other.weight).norm() < 0.02 * moved  # theirs is in bfloat16


def test_what_is_no_matrix_steps_exactly_as_adamw() -> None:
    own = nn.Sequential(nn.BatchNorm2d(3), nn.Embedding(4, 3))
    other = copy.deepcopy(own)
    _steps(Muon(own, lr=0.01, weight_decay=0.3), own)
    _steps(optim.AdamW(other.parameters(), lr=0.01, weight_decay=0.3, fused=True), other)
    for mine, theirs in zip(own.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_convolution_steps_as_the_matrix_of_its_filters() -> None:
    filters, matrix = nn.Conv2d(3, 8, 3, bias=False), nn.Linear(27, 8, bias=False)
    matrix.weight.data = filters.weight.detach().flatten(1).clone()
    last = copy.deepcopy(filters).to(memory_format=torch.channels_last)
    for model in (filters, matrix, last):
        optimizer = Muon(model, lr=0.01, weight_decay=0.3)
        (weight,) = model.parameters()
        for step in range(3):
            gradient = _random(8, 3, 3, 3, seed=step)
            weight.grad = torch.empty_like(weight).copy_(gradient.reshape(weight.shape))
            optimizer.step()
    torch.testing.assert_close(filters.weight.flatten(1), matrix.weight)
    torch.testing.assert_close(filters.weight, last.weight)
    assert last.weight.is_contiguous(memory_format=torch.channels_last)


def test_matrices_of_one_shape_step_as_each_alone() -> None:
    both = nn.Sequential(nn.Linear(4, 6, bias=False), nn.Linear(4, 6, bias=False))
    alone = copy.deepcopy(both)
    _steps(Muon(both, lr=0.01), both)
    optimizers = [Muon(layer, lr=0.01) for layer in alone]
    for step in range(4):
        for number, (layer, optimizer) in enumerate(zip(alone, optimizers, strict=True)):
            layer.weight.grad = _random(6, 4, seed=100 * step + number)
            optimizer.step()
    for mine, theirs in zip(both.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_matrices_of_one_shape_and_two_number_formats_keep_theirs() -> None:
    model = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(3, 2, bias=False).double())
    alone = copy.deepcopy(model[0])
    _steps(Muon(model, lr=0.01), model)
    _steps(Muon(alone, lr=0.01), alone)
    assert [weight.dtype for weight in model.parameters()] == [torch.float32, torch.float64]
    assert torch.equal(next(model.parameters()), next(alone.parameters()))


def test_a_copy_steps_too() -> None:
    model = nn.Linear(3, 2)
    optimizer = copy.deepcopy(Muon(model, lr=0.01))
    assert optimizer.found_inf is None
    optimizer.step()


def test_looking_for_matrices_changes_nothing() -> None:
    model = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 5)).train()
    before = copy.deepcopy(model.state_dict())
    assert matrices_of(model) == []
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)


def test_weights_without_a_gradient_stay() -> None:
    model = nn.Linear(3, 2)
    before = copy.deepcopy(model.state_dict())
    Muon(model, lr=0.01, weight_decay=0.5).step()
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)


def _tied(kind: type[nn.Embedding | nn.EmbeddingBag]) -> nn.Module:
    model = nn.ModuleDict({"table": kind(5, 3), "head": nn.Linear(3, 5)})
    model["head"].weight = model["table"].weight
    return model


def _twice() -> nn.Module:
    layer = nn.Linear(3, 5)
    return nn.ModuleList([layer, nn.Sequential(layer)])


@pytest.mark.parametrize(
    ("build", "shapes"),
    [
        (lambda: nn.Linear(3, 5), [[5, 3]]),
        (lambda: nn.Conv1d(3, 5, 2), [[5, 3, 2]]),
        (lambda: nn.ConvTranspose2d(3, 5, 2), [[3, 5, 2, 2]]),
        (_twice, [[5, 3]]),
        (lambda: _tied(nn.Embedding), []),
        (lambda: _tied(nn.EmbeddingBag), []),
        (lambda: nn.Embedding(5, 3), []),
        (lambda: nn.ParameterList([torch.zeros(5, 3)]), []),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 5)), []),
    ],
    ids=["linear", "conv", "transposed", "shared", "tied", "bag", "table", "loose", "computed"],
)
def test_matrices_are_the_weights_of_layers_that_multiply(
    build: Callable[[], nn.Module], shapes: list[list[int]]
) -> None:
    assert [list(weight.shape) for weight in matrices_of(build())] == shapes


def test_a_closure_is_refused_and_not_ignored() -> None:
    with pytest.raises(TypeError, match="takes no closure"):
        Muon(nn.Linear(3, 2), lr=0.01).step(lambda: 0.0)
