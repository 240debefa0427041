"""Muon: steps that move all directions of a matrix alike."""

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.nn.modules.conv import _ConvNd
from torch.optim.adamw import adamw

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024
_ITERATIONS = 5
_AS_ADAMW = 0.2  # the root mean square of AdamW's steps, as Liu et al. 2025 found it


def orthogonal(matrices: Tensor) -> Tensor:
    """Return matrices with the singular vectors of others, and singular values near 1.

    A Newton-Schulz iteration of fifth order brings singular values to between 0.68 and 1.21, but
    for those below two thousandths of a matrix's norm and matrices of norms below 1e-7: on a CPU
    in the numbers given, elsewhere in ``bfloat16``, which is exact enough for steps (Jordan et al.
    2024).

    Args:
        matrices: ``[matrices, rows, columns]``, not changed.

    Returns:
        ``[matrices, rows, columns]``, of the type given.
    """
    a, b, c = _COEFFICIENTS
    x = matrices if matrices.device.type == "cpu" else matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = (x.mT if tall else x).to(matrices.dtype)
    return result


def matrices_of(module: nn.Module) -> list[nn.Parameter]:
    """Return the weights of linear layers and convolutions within a module, each once.

    The first layer's and the last one's are among them; what a layer computes its weight from, and
    weights of attention that PyTorch holds in one, are not. One that is an embedding's, too, is
    none: its rows are looked up and not multiplied.
    """
    tables = {
        id(each.weight)
        for each in module.modules()
        if isinstance(each, nn.Embedding | nn.EmbeddingBag)
    }
    # Not `each.weight`: where a weight is computed, looking at it may change what it is made of.
    held = (
        each._parameters.get("weight")
        for each in module.modules()
        if isinstance(each, nn.Linear | _ConvNd)
    )
    found = {id(each): each for each in held if each is not None and each.is_floating_point()}
    return [weight for key, weight in found.items() if key not in tables]


class Muon(optim.Optimizer):
    """Muon for matrices and convolutions, AdamW for everything else.

    A matrix steps along its gradients' moving average, made orthogonal (Jordan et al. 2024, *Muon:
    An optimizer for hidden layers in neural networks*), as far as AdamW would, so that one
    learning rate and one weight decay serve both (Liu et al. 2025, *Muon is Scalable for LLM
    Training*). A convolution's weight ``[filters, channels, height, width]`` is one matrix of as
    many rows as its first dimension has, also where it is transposed or has groups. Like PyTorch's
    fused optimizers it reads the flag ``found_inf``.

    Args:
        module: whose parameters are trained, those that have ``requires_grad``; one at least.
        lr: learning rate, of both.
        weight_decay: as AdamW has it, decoupled, of both.
        momentum: how much a matrix's average keeps of itself, in ``[0, 1)``.
        nesterov: whether a matrix steps along what the average would be after another such step.
    """

    found_inf: Tensor | None = None

    def __init__(
        self,
        module: nn.Module,
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        nesterov: bool = True,
    ) -> None:
        trained = [weight for weight in module.parameters() if weight.requires_grad]
        known = {id(weight) for weight in matrices_of(module)}
        matrices = [weight for weight in trained if id(weight) in known]
        others = [weight for weight in trained if id(weight) not in known]
        groups: tuple[dict[str, Any], ...] = (
            {"params": matrices, "matrices": True, "momentum": momentum, "nesterov": nesterov},
            {"params": others, "matrices": False, "betas": (0.9, 0.999), "eps": 1e-8},
        )
        super().__init__(
            [group for group in groups if group["params"]],
            # fused: it reads found_inf, and counts of steps stay on the device when loaded.
            {"lr": lr, "weight_decay": weight_decay, "fused": True},
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take a step; none where ``found_inf`` is 1.

        Raises:
            TypeError: a closure is given, which nothing here calls.
        """
        if closure is not None:
            raise TypeError("kdcore's Muon takes no closure")
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if group["matrices"]:
                for _, alike in groupby(sorted(weights, key=_kind), key=_kind):
                    self._step_matrices(list(alike), group)
            elif weights:
                self._step_others(weights, group)

    def _step_matrices(self, weights: Sequence[nn.Parameter], group: dict[str, Any]) -> None:
        """Step matrices of one shape, in one batch."""
        momentum, rate = group["momentum"], group["lr"]
        gradients = torch.stack([_gradient(weight) for weight in weights])
        before = torch.stack([self._average(weight) for weight in weights])
        averages = before.lerp(gradients, 1 - momentum)
        along = gradients.lerp(averages, momentum) if group["nesterov"] else averages
        steps = orthogonal(along.flatten(2))
        reach = rate * _AS_ADAMW * math.sqrt(max(steps.shape[1:]))
        for weight, step, average in zip(weights, steps, averages, strict=True):
            new = weight * (1 - rate * group["weight_decay"]) - reach * step.view_as(weight)
            _take(weight, new, self.found_inf)
            _take(self.state[weight]["average"], average, self.found_inf)

    def _average(self, weight: nn.Parameter) -> Tensor:
        state = self.state[weight]
        if not state:
            state["average"] = torch.zeros_like(weight)
        average: Tensor = state["average"]
        return average

    def _step_others(self, weights: list[nn.Parameter], group: dict[str, Any]) -> None:
        for weight in weights:
            if not self.state[weight]:
                self.state[weight] = {
                    "step": torch.zeros((), device=weight.device),
                    "exp_avg": torch.zeros_like(weight),
                    "exp_avg_sq": torch.zeros_like(weight),
                }
        states = [self.state[weight] for weight in weights]
        beta1, beta2 = group["betas"]
        adamw(
            list[Tensor](weights),
            [_gradient(weight) for weight in weights],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            found_inf=self.found_inf,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def _kind(weight: Tensor) -> tuple[tuple[int, ...], str]:
    return tuple(weight.shape), str(weight.dtype)


def _gradient(weight: Tensor) -> Tensor:
    assert weight.grad is not None
    return weight.grad


def _take(own: Tensor, new: Tensor, stopped: Tensor | None) -> None:
    """Take new values in place, unless a flag on the device is 1."""
    own.copy_(new if stopped is None else torch.where(stopped > 0, own, new))
