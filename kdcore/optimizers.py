"""Optimizers, and PyTorch's learning-rate schedules, as `[train]` names them."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from kdcore.errors import ModelError
from kdcore.muon import Muon
from kdcore.sections import TrainConfig
from kdcore.sharding import like


def build_optimizer(module: nn.Module, config: TrainConfig) -> optim.Optimizer:
    """Build the optimizer over the parameters of a module that are trained.

    It is PyTorch's fused one: the fastest, and one that can be told on the device not to step; or
    kdcore's Muon, which can be told so, too.

    Raises:
        ModelError: there is no parameter to train.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trained:
        raise ModelError("there is nothing to train: no parameter has requires_grad=True")
    if config.optimizer == "sgd":
        return optim.SGD(
            trained,
            lr=config.lr,
            momentum=0.9 if config.momentum is None else config.momentum,
            nesterov=bool(config.nesterov),
            weight_decay=config.weight_decay,
            fused=not config.shard,  # PyTorch has no fused one of weights in pieces
        )
    if config.optimizer == "muon":
        return Muon(
            module,
            lr=config.lr,
            momentum=0.95 if config.momentum is None else config.momentum,
            nesterov=config.nesterov is not False,
            weight_decay=config.weight_decay,
        )
    kind = optim.AdamW if config.optimizer == "adamw" else optim.Adam
    return kind(trained, lr=config.lr, weight_decay=config.weight_decay, fused=True)


def load_optimizer(optimizer: optim.Optimizer, state: dict[str, Any]) -> None:
    """Take back what an optimizer's ``state_dict`` held.

    PyTorch's fused optimizers go through a parameter's memory and its moments' side by side: what
    was saved in another layout is laid out as the parameter is.
    """
    optimizer.load_state_dict(state)
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                laid_out = torch.empty_like(parameter, dtype=value.dtype)
                kept[name] = laid_out.copy_(like(parameter, value))


def build_schedule(
    optimizer: optim.Optimizer, config: TrainConfig, steps_an_epoch: int
) -> LRScheduler:
    """Build the schedule of the learning rate; step it once after each optimizer step."""
    total = config.epochs * steps_an_epoch
    warmup = round(config.warmup_epochs * steps_an_epoch)
    schedule: LRScheduler
    if config.schedule == "cosine":
        schedule = lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(1, total - warmup))
    elif config.schedule == "one-cycle":
        schedule = lr_scheduler.OneCycleLR(
            optimizer, max_lr=config.lr, total_steps=total, cycle_momentum=False
        )
    elif config.schedule == "step":
        milestones = [epoch * steps_an_epoch - warmup for epoch in config.milestones or ()]
        schedule = lr_scheduler.MultiStepLR(optimizer, milestones, gamma=config.gamma or 0.1)
    else:
        schedule = lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=0)
    if warmup == 0:
        return schedule
    rising = lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=warmup)
    return lr_scheduler.SequentialLR(optimizer, [rising, schedule], milestones=[warmup])


def clip(parameters: Iterable[nn.Parameter], norm: float | None) -> None:
    """Scale the whole gradient down to a norm, where it is larger."""
    if norm is not None:
        torch.nn.utils.clip_grad_norm_(parameters, norm)


def step_unless(optimizer: optim.Optimizer, stopped: Tensor) -> None:
    """Take an optimizer step unless a flag on the device is 1, without waiting for it if it can.

    Args:
        optimizer: one that `build_optimizer` made.
        stopped: 0 or 1, ``float32`` without dimensions.
    """
    if not optimizer.defaults["fused"]:
        if not bool(stopped):
            optimizer.step()
        return
    # What torch.amp.GradScaler sets on fused optimizers, for the same end.
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    optimizer.found_inf = stopped  # type: ignore[attr-defined]
    optimizer.step()
