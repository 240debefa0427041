"""A large model in pieces: each process holds a part of every weight, by PyTorch's FSDP2.

Weights are `DTensor`s then, of which `whole` gives the tensor and `like` the piece. A student is in
pieces while it is trained, and afterwards again what it was, weights aside; a teacher stays so.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed._composable_state import _module_state_mapping
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from kdcore.devices import device_of
from kdcore.errors import ModelError

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
"""Where modules keep what `fully_shard` adds to them."""


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor as a whole; all processes must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor, as a view of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def like(own: Tensor, tensor: Tensor) -> Tensor:
    """Return a whole tensor as another one is held: in a piece, or as it is."""
    if not isinstance(own, DTensor) or isinstance(tensor, DTensor):
        return tensor
    return distribute_tensor(tensor.to(own.device), own.device_mesh, own.placements)


def spread(model: nn.Module, device: torch.device, count: int) -> None:
    """Spread a model that is asked and not trained over devices like this one, for good.

    Raises:
        ModelError: a parameter cannot be spread.
    """
    Shards(model, blocks_of(model), count, device)


def is_spread(model: nn.Module) -> bool:
    """Return whether a model's weights are spread over processes."""
    return isinstance(model, FSDPModule)


class Shards:
    """A module whose weights are spread over processes, until `restore`.

    Args:
        root: the module that is called; its own parameters are one piece.
        blocks: modules within it that are another piece each, gathered while they run; those that
            share a parameter with another are not.
        count: processes.
        device: that its pieces are put on; where it is, if not given.

    Raises:
        ModelError: a parameter cannot be spread.
    """

    def __init__(
        self,
        root: nn.Module,
        blocks: Iterable[nn.Module],
        count: int,
        device: torch.device | None = None,
    ) -> None:
        for name, parameter in root.named_parameters():
            if parameter.ndim == 0:
                raise ModelError(
                    f"shard: {name} has no dimensions, which PyTorch cannot spread: give it "
                    "one (torch.ones(1)), or leave shard out"
                )
        self._before = [_Before(module) for module in root.modules()]
        mesh = init_device_mesh((device or device_of(root)).type, (count,))
        for parameter in root.parameters():
            parameter.data = parameter.data.contiguous()  # FSDP takes no other layout
        try:
            for block in (*_apart(blocks), root):
                fully_shard(block, mesh=mesh)
        except BaseException:
            for before in self._before:
                before.put_back({})
            raise
        self._pieces = [each for each in root.modules() if isinstance(each, FSDPModule)]
        for piece in self._pieces:
            piece.set_gradient_divide_factor(1.0)  # losses are divided already
            piece.set_force_sum_reduction_for_comms(True)  # gloo has no other
        for before in self._before:
            before.let_go()
        # Now, lest a part of it that is called alone takes itself for the root.
        getattr(root, "_get_fsdp_state")()._lazy_init()  # noqa: B009 - typed for an FSDPModule

    def sum_gradients(self, now: bool) -> None:
        """Say whether the next backward pass is the last of a step."""
        for piece in self._pieces:
            piece.set_requires_gradient_sync(now, recurse=False)

    def restore(self) -> None:
        """Give every module its class, hooks and parameters back, with the weights of now."""
        for before in self._before:
            before.restore()


class _Before:
    """What a module was before it was sharded."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._class = type(module)
        self._names = set(vars(module))
        self._hooks = {name: dict(vars(module)[name]) for name in _HOOKS if name in vars(module)}
        self._parameters = dict(module._parameters)
        # Of what layout each is, without its memory.
        self._laid_out = {
            name: torch.empty_like(each, device="meta")
            for name, each in self._parameters.items()
            if each is not None
        }

    def let_go(self) -> None:
        """Let go of the whole weights; each process has its pieces now."""
        for parameter in self._parameters.values():
            if parameter is not None:
                parameter.data = torch.empty(0, dtype=parameter.dtype, device=parameter.device)

    def restore(self) -> None:
        """Make the module what it was, with the weights of now."""
        self.put_back(
            {
                name: whole(each.detach()).clone()  # not a view of what FSDP gathers into
                for name, each in self._module._parameters.items()
                if each is not None
            }
        )

    def put_back(self, weights: Mapping[str, Tensor]) -> None:
        """Make the module what it was, with other weights where they are given."""
        _module_state_mapping.pop(self._module, None)  # or it could not be spread once more
        self._module.__class__ = self._class
        for name in set(vars(self._module)) - self._names:
            del vars(self._module)[name]
        for name, hooks in self._hooks.items():
            now = vars(self._module)[name]
            for key in [key for key in now if key not in hooks]:
                del now[key]
        for name, parameter in self._parameters.items():
            self._module._parameters[name] = parameter
            if parameter is not None and name in weights:
                own = self._laid_out[name]
                found = weights[name]
                parameter.data = found.new_empty_strided(own.shape, own.stride()).copy_(found)
                parameter.grad = None


def _apart(blocks: Iterable[nn.Module]) -> list[nn.Module]:
    """Leave out modules that share a parameter with one that is no part of them."""
    found = list(blocks)
    inside = [{id(each) for each in block.parameters()} for block in found]
    return [
        block
        for block, own in zip(found, inside, strict=True)
        if all(own <= other or other <= own or not own & other for other in inside)
    ]


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Return the parts of a model that run one after the other: its children, lists opened."""
    found: list[nn.Module] = []
    for child in model.children():
        if isinstance(child, nn.ModuleList | nn.Sequential):
            found += blocks_of(child)
        elif any(True for _ in child.parameters()):
            found.append(child)
    return found


def whole_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state dict with whole tensors, nested values included; all processes must ask."""
    return {name: _whole(value) for name, value in state.items()}


def _whole(value: Any) -> Any:
    if isinstance(value, Tensor):
        return whole(value)
    if isinstance(value, Mapping):
        return {key: _whole(each) for key, each in value.items()}
    return [_whole(each) for each in value] if isinstance(value, list) else value
