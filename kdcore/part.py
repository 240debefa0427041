"""What one strategy owns in a run, and how activations become the features that it sees."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.adapters import FixedAdapter, canonical_of
from kdcore.contract import Adapters, Features, ModuleLike, Shapes, State
from kdcore.errors import StrategyError, unknown
from kdcore.hooks import Member
from kdcore.nested import in_precision
from kdcore.signals import SignalKey, Signals
from kdcore.survey import Roles
from kdcore.taps import TapAddress


class Part(nn.Module):
    """One strategy's taps, trained modules, memory and random stream.

    Args:
        member: the strategy.
        student: the student's taps by role.
        teacher: its teacher's taps by role.
        shapes: of student's and teacher's activations at them, before adapters.
        adapters: what it built.
        generator: its random stream.
        precision: floating-point type of adapters and features.

    Raises:
        StrategyError: an adapter is for a role that was not tapped, or is no module.
    """

    def __init__(
        self,
        member: Member,
        student: Roles,
        teacher: Roles,
        shapes: tuple[Shapes, Shapes],
        adapters: Adapters,
        generator: torch.Generator,
        precision: torch.dtype,
    ) -> None:
        super().__init__()
        self.member = member
        self.student_taps = student
        self.teacher_taps = teacher
        self.shapes = shapes
        self.student_adapters = _by_role(member, adapters.student, student)
        self.teacher_adapters = _by_role(member, adapters.teacher, teacher)
        self._signals = {role: tuple(self._keys(role)) for role in teacher}
        self.own_modules = OwnModules(_checked(member, adapters.modules))
        self.trained = nn.ModuleDict(self.own_modules)
        self._authors = [
            (path, each)
            for path, each in self.named_modules()
            if each is not self and not type(each).__module__.startswith("torch.")
        ]
        self.state = State(adapters.state)
        self.generator = generator
        self.precision = precision

    def _keys(self, role: str) -> Iterator[SignalKey]:
        for position, address in enumerate(self.teacher_taps[role]):
            adapter = _at(self.teacher_adapters, role, position)
            yield SignalKey(address, canonical_of(adapter) if adapter else "")

    def wanted(self) -> dict[SignalKey, FixedAdapter | None]:
        """Return what it wants of its teacher, each with the adapter that the key names."""
        wanted: dict[SignalKey, FixedAdapter | None] = {}
        for role, keys in self._signals.items():
            for position, key in enumerate(keys):
                adapter = _at(self.teacher_adapters, role, position) if key.adapter else None
                assert adapter is None or isinstance(adapter, FixedAdapter)
                wanted[key] = adapter
        return wanted

    def student_features(
        self, activations: Mapping[TapAddress, Tensor], logits: Tensor | None
    ) -> Features:
        """Return the student's activations behind their adapters, by role."""
        roles: dict[str, tuple[Tensor, ...]] = {}
        for role, addresses in self.student_taps.items():
            values = [in_precision(activations[tap], self.precision) for tap in addresses]
            roles[role] = self._adapted(self.student_adapters, role, values)
        return Features(roles, logits)

    def teacher_features(self, heard: Signals) -> Features:
        """Return its teacher's activations behind their adapters, by role.

        The teacher has applied those without parameters; the others run here.
        """
        roles: dict[str, tuple[Tensor, ...]] = {}
        for role, keys in self._signals.items():
            values = [heard.activations[key] for key in keys]
            done = [bool(key.adapter) for key in keys]
            roles[role] = self._adapted(self.teacher_adapters, role, values, done)
        return Features(roles, heard.logits)

    def _adapted(
        self,
        adapters: nn.ModuleDict,
        role: str,
        values: Sequence[Tensor],
        done: Sequence[bool] = (),
    ) -> tuple[Tensor, ...]:
        """Send values through the adapters of a role, but for those that it was done for.

        Raises:
            StrategyError: an adapter does not take them.
        """
        if role not in adapters:
            return tuple(values)
        modules = adapters[role]
        assert isinstance(modules, nn.ModuleList)
        adapted = []
        for module, value, skip in zip(modules, values, done or [False] * len(values), strict=True):
            try:
                adapted.append(value if skip else module(value))
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                raise StrategyError(
                    f"{self.member}: the adapter {type(module).__name__} of role {role!r} does "
                    f"not take {list(value.shape)}: {' '.join(str(error).split())}"
                ) from error
        return tuple(adapted)

    def memory(self) -> Iterator[tuple[str, Tensor]]:
        """Go through the buffers of its modules that are no module of PyTorch's own."""
        for path, module in self._authors:
            for name, buffer in module.named_buffers(recurse=False):
                yield f"{path}.{name}", buffer

    def carried(self) -> dict[str, Any]:
        """Return what a part by the same label in a later stage takes over."""
        return {
            "method": type(self.member.strategy),
            "trained": {name: each.clone() for name, each in self.state_dict().items()},
            "state": {name: each.clone() for name, each in self.state.items()},
            "generator": self.generator.get_state(),
        }

    def take_over(self, before: Mapping[str, Any]) -> None:
        """Take over what `carried` returned.

        Raises:
            StrategyError: it is of another method, or of other shapes.
        """
        own, other = (
            {name: each.shape for name, each in weights.items()}
            for weights in (self.state_dict(), before["trained"])
        )
        if before["method"] is not type(self.member.strategy) or own != other:
            raise StrategyError(
                f"{self.member}: an earlier stage had another method, or other adapters, by this "
                "label, which cannot be carried over; give it another label"
            )
        self.load_state_dict(before["trained"])
        self.state.load(before["state"])
        self.generator.set_state(before["generator"])

    def describe(self) -> tuple[list[str], list[str]]:
        """Say, for student and teacher, what each role looks at and what stands behind it."""
        own, other = self.shapes
        return (
            _described(self.student_taps, own, self.student_adapters),
            _described(self.teacher_taps, other, self.teacher_adapters),
        )


def _at(adapters: nn.ModuleDict, role: str, position: int) -> nn.Module | None:
    if role not in adapters:
        return None
    modules = adapters[role]
    assert isinstance(modules, nn.ModuleList)
    return modules[position]


def _described(taps: Roles, shapes: Shapes, adapters: nn.ModuleDict) -> list[str]:
    lines = []
    for role, addresses in taps.items():
        for position, address in enumerate(addresses):
            line = f"{role}: {address} {list(shapes.all(role)[position][1:])}"
            if (adapter := _at(adapters, role, position)) is not None:
                line += f" -> {_name(adapter)}"
            lines.append(line)
    return lines


def _name(module: nn.Module) -> str:
    if isinstance(module, FixedAdapter):
        return module.canonical
    trained = sum(parameter.numel() for parameter in module.parameters())
    return f"{type(module).__name__}, {trained:,} trained parameters"


def _by_role(member: Member, adapters: Mapping[str, ModuleLike], taps: Roles) -> nn.ModuleDict:
    lists: dict[str, nn.Module] = {}
    for role, given in adapters.items():
        if role not in taps:
            raise StrategyError(f"{member}: adapt_shapes: {unknown('role', role, taps)}")
        modules = [given] if isinstance(given, nn.Module) else list(given)
        if len(modules) != len(taps[role]):
            raise StrategyError(
                f"{member}: adapt_shapes gave {len(modules)} adapters for role {role!r}, "
                f"which has {len(taps[role])} taps"
            )
        _checked(member, {f"{role} {tap}": module for tap, module in enumerate(modules)})
        lists[role] = nn.ModuleList(modules)
    return nn.ModuleDict(_checked(member, lists))


class OwnModules(dict[str, nn.Module]):
    """The loss's own modules by name; one that is not there is named with those that are."""

    def __missing__(self, name: str) -> nn.Module:
        raise StrategyError(
            f"{unknown('module', name, self)}; adapt_shapes returns them in Adapters.modules"
        )


def _checked(member: Member, modules: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    for name, module in modules.items():
        if not isinstance(module, nn.Module):
            raise StrategyError(
                f"{member}: adapt_shapes gave {type(module).__name__} for {name!r}, "
                "where an nn.Module belongs"
            )
        if hasattr(nn.ModuleDict, name) or "." in name or not name:
            raise StrategyError(
                f"{member}: {name!r} cannot name a module, PyTorch has a use for it; choose another"
            )
    return dict(modules)
