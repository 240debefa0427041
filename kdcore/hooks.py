"""The strategies of one run behind one typed façade: the only code that calls hooks.

Each strategy is called alone, with what is its own. What hooks return is checked here; what is
done with it is decided in `distiller`.
"""

import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pluggy
import torch
from torch import Tensor, nn

from kdcore.catalog import UNPACKAGED, Origin
from kdcore.contract import Adapters, AuxiliaryLoss, Features, Setup, Shapes, State, Taps
from kdcore.errors import KdcoreError, StrategyError, UserError, unknown
from kdcore.hookspecs import HOOKS, PROJECT, Hooks
from kdcore.strategy import Strategy
from kdcore.weights import Moving

R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class Member:
    """One configured strategy of a run.

    Attributes:
        label: its name in this run.
        strategy: the method with its settings.
        weight: of its auxiliary loss.
        teacher: name of the teacher that it learns from.
        origin: the distribution that it comes from.
        name: what it was selected by.
    """

    label: str
    strategy: Strategy
    weight: float | Moving
    teacher: str
    origin: Origin = UNPACKAGED
    name: str = ""

    def __str__(self) -> str:
        return f"strategy {self.label!r} ({type(self.strategy).__name__}, {self.origin})"


class HookCaller:
    """The members of one run, and the wrappers that a user put around their hooks.

    Args:
        members: the strategies, in the order of the configuration.
        wrappers: objects with hook wrappers (``@hookimpl(wrapper=True)``), by name; around each
            call of each strategy.

    Raises:
        StrategyError: a strategy's hooks are not as `hookspecs` has them.
    """

    def __init__(
        self, members: Sequence[Member], wrappers: Mapping[str, object] | None = None
    ) -> None:
        self.members = tuple(members)
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(Hooks)
        for name, wrapper in (wrappers or {}).items():
            self._register(wrapper, f"wrapper:{name}", f"wrapper {name!r}")
            _check_wrapper(wrapper, f"wrapper {name!r}")
        for member in self.members:
            check_hooks(member)
            self._register(member.strategy, member.label, str(member))
        self._callers = {
            (member.label, hook): self._caller(member, hook)
            for member in self.members
            for hook in HOOKS
        }

    def _register(self, plugin: object, name: str, shown: str) -> None:
        _refuse_class(plugin, shown)
        try:
            self._manager.register(plugin, name)
            self._manager.check_pending()
        except (pluggy.PluginValidationError, ValueError) as error:
            raise StrategyError(f"{shown}: {' '.join(str(error).split())}") from error

    def _caller(self, member: Member, hook: str) -> Callable[..., object] | None:
        if not hasattr(type(member.strategy), hook):
            return None
        others = [other.strategy for other in self.members if other is not member]
        caller: Callable[..., object] = self._manager.subset_hook_caller(hook, others)
        return caller

    def wants(self, member: Member, argument: str) -> bool:
        """Return whether a strategy's loss names an argument."""
        function = type(member.strategy).compute_auxiliary_loss  # type: ignore[attr-defined]
        return argument in inspect.signature(function).parameters

    def extract_features(self, member: Member, setup: Setup) -> Taps:
        """Ask one strategy for its taps; none where it does not say."""
        return self._ask(member, "extract_features", Taps, Taps(), {"setup": setup}, "at set-up")

    def adapt_shapes(
        self, member: Member, setup: Setup, student: Shapes, teacher: Shapes
    ) -> Adapters:
        """Ask one strategy for its adapters; none where it does not say."""
        arguments = {"setup": setup, "student": student, "teacher": teacher}
        return self._ask(member, "adapt_shapes", Adapters, Adapters(), arguments, "at set-up")

    def compute_auxiliary_loss(
        self,
        member: Member,
        *,
        setup: Setup,
        student: Features,
        teacher: Features,
        modules: Mapping[str, nn.Module],
        state: State,
        targets: Tensor,
        indices: Tensor,
        epoch: int,
        step: int,
        generator: torch.Generator,
    ) -> AuxiliaryLoss:
        """Have one strategy compute its loss, as it returned it."""
        caller = self._callers[member.label, "compute_auxiliary_loss"]
        assert caller is not None  # check_hooks refused strategies without it
        try:
            results = caller(
                setup=setup,
                label=member.label,
                student=student,
                teacher=teacher,
                modules=modules,
                state=state,
                targets=targets,
                indices=indices,
                epoch=epoch,
                step=step,
                generator=generator,
            )
        except (Exception, SystemExit) as error:
            when = f"in epoch {epoch}, step {step}"
            raise _failed(member, "compute_auxiliary_loss", when, error) from error
        answer = _only(member, "compute_auxiliary_loss", results)
        if answer is None:
            raise StrategyError(
                f"{member}: compute_auxiliary_loss returned nothing (epoch {epoch}, step {step}); "
                "return a tensor, or a mapping of names to tensors"
            )
        loss: AuxiliaryLoss = answer
        return loss

    def _ask(
        self,
        member: Member,
        hook: str,
        kind: type[R],
        default: R,
        arguments: Mapping[str, object],
        when: str,
    ) -> R:
        caller = self._callers[member.label, hook]
        if caller is None:
            return default
        try:
            results = caller(label=member.label, **arguments)
        except (Exception, SystemExit) as error:
            raise _failed(member, hook, when, error) from error
        answer = _only(member, hook, results)
        if not isinstance(answer, kind):
            raise StrategyError(
                f"{member}: {hook} returned {type(answer).__name__}; return kdcore.{kind.__name__}"
            )
        return answer


def check_hooks(member: Member) -> None:
    """Refuse hooks that pluggy would accept and then not call, or call without their arguments.

    Raises:
        StrategyError: names the strategy, the hook and what to change.
    """
    _refuse_class(member.strategy, str(member))
    cls = type(member.strategy)
    if cls.__eq__ is not object.__eq__:
        raise StrategyError(
            f"{member} defines __eq__: two equal strategies could not be in one run; remove it"
        )
    for name in HOOKS:
        if hasattr(cls, name) and not inspect.isfunction(inspect.getattr_static(cls, name)):
            raise StrategyError(
                f"{member}: {name} is no plain method; define it as such, with self"
            )
    for name, function in inspect.getmembers(cls, inspect.isfunction):
        options = getattr(function, f"{PROJECT}_impl", None)
        if options is None:
            if name in HOOKS:
                raise StrategyError(
                    f"{member}: {name} is not marked with @hookimpl: it would never be called"
                )
            continue
        if name not in HOOKS:
            raise StrategyError(f"{member}: {unknown('hook', name, HOOKS)}")
        if options.get("wrapper") or options.get("hookwrapper"):
            raise StrategyError(f"{member}: {name} is a wrapper; a strategy answers itself")
        _check_arguments(
            str(member), name, list(inspect.signature(function).parameters.values())[1:]
        )
    if not hasattr(cls, "compute_auxiliary_loss"):
        raise StrategyError(f"{member} does not implement compute_auxiliary_loss")


def _check_wrapper(wrapper: object, shown: str) -> None:
    """Refuse a wrapper that would wrap nothing, or answer beside a strategy."""
    hooks = [name for name in HOOKS if hasattr(wrapper, name)]
    if not hooks:
        raise StrategyError(f"{shown} wraps no hook; there are {', '.join(HOOKS)}")
    for name in hooks:
        function = getattr(wrapper, name)
        options = getattr(function, f"{PROJECT}_impl", {})
        if not (options.get("wrapper") or options.get("hookwrapper")):
            raise StrategyError(f"{shown}: {name} is not marked with @hookimpl(wrapper=True)")
        _check_arguments(shown, name, inspect.signature(function).parameters.values())


def _refuse_class(plugin: object, shown: str) -> None:
    # pluggy takes a class for a plugin and fails when it calls it.
    if isinstance(plugin, type):
        raise StrategyError(f"{shown} is a class; register an instance: {plugin.__name__}()")


def _check_arguments(shown: str, name: str, arguments: Iterable[inspect.Parameter]) -> None:
    offered = list(inspect.signature(getattr(Hooks, name)).parameters)[1:]
    for argument in arguments:
        where = f"{shown}: {name}({argument})"
        if argument.kind is not argument.POSITIONAL_OR_KEYWORD:
            raise StrategyError(f"{where}: name plain arguments, out of {', '.join(offered)}")
        if argument.name not in offered:
            raise StrategyError(f"{where}: {unknown('argument', argument.name, offered)}")
        if argument.default is not argument.empty:
            raise StrategyError(f"{where}: pluggy need not pass what has a default; remove it")


def _only(member: Member, hook: str, results: object) -> Any:
    """Return the one answer to a call; None where pluggy dropped it, being None."""
    if not isinstance(results, list):
        raise StrategyError(
            f"{member}: a wrapper around {hook} kept the answer; it must return what it was "
            "given by its yield"
        )
    return results[0] if results else None


def _place(cls: type, error: BaseException) -> str:
    """Say which line of a strategy's own files an exception went through last, where one did."""
    own = [base.__module__ for base in cls.__mro__ if base is not Strategy]
    files = {getattr(sys.modules.get(name), "__file__", None) for name in own}
    passed = [
        frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files
    ]
    if not passed:
        return ""
    file = Path(passed[-1].filename)
    name = f"{file.parent.name}/{file.name}" if file.name == "__init__.py" else file.name
    return f" ({name}, line {passed[-1].lineno})"


def _failed(member: Member, hook: str, when: str, error: BaseException) -> KdcoreError:
    kind = "" if isinstance(error, KdcoreError) else f"{type(error).__name__}: "
    place = _place(type(member.strategy), error)
    message = f"{member}: {hook} failed {when}{place}: {kind}{error}".split("\n")[0]
    # What the user can mend stays the user's; everything else is the strategy's.
    return type(error)(message) if isinstance(error, UserError) else StrategyError(message)
