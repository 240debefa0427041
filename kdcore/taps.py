"""Where activations are taken, and how: addresses of taps, and forward hooks that read them.

Which taps a strategy needs is its own to say; what `auto` means for a model is in `automatic`.

An address is ``MODULE``, ``MODULE:output`` or ``MODULE:input``, with ``[ITEM]`` behind it where the
module takes or returns several things: ``layer3.1.conv2``, ``classifier:input``,
``encoder[last_hidden_state]``, ``attention:output[1]``. ``auto:KIND`` is left to the core.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from kdcore.errors import TapError, unknown

AUTO_KINDS = ("embedding", "feature_map", "stages")
"""What `auto` can find: the input of the head, the last feature map, the last map a resolution."""

_ADDRESS = re.compile(r"^(?P<module>[^:\[\]]*)(:(?P<side>input|output))?(\[(?P<item>[^\[\]]+)\])?$")


@dataclass(frozen=True)
class TapAddress:
    """A parsed address.

    Attributes:
        module: name of a module as `named_modules` has it; empty for the model itself. For a
            tap that the core shall find, the kind.
        side: which side of the module; ``auto`` where the core shall find it.
        item: index, key or field of what the module takes or returns, where that is no tensor.
    """

    module: str
    side: Literal["input", "output", "auto"] = "output"
    item: str | None = None

    @classmethod
    def parse(cls, text: str) -> "TapAddress":
        """Read an address.

        Raises:
            TapError: the text is not of the form of an address.
        """
        if text.startswith("auto:"):
            kind = text.removeprefix("auto:")
            if kind not in AUTO_KINDS:
                raise TapError(unknown("kind of automatic tap", kind, AUTO_KINDS))
            return cls(kind, "auto")
        match = _ADDRESS.match(text)
        if match is None or not text:
            raise TapError(
                f"{text!r} is no tap: expected MODULE, MODULE:input or MODULE:output, "
                "with [ITEM] behind it where the module takes or returns several things"
            )
        side: Literal["input", "output"] = "input" if match["side"] == "input" else "output"
        return cls(match["module"], side, match["item"])

    def __str__(self) -> str:
        if self.side == "auto":
            return f"auto:{self.module}"
        side = ":input" if self.side == "input" else ":output" if not self.module else ""
        return f"{self.module}{side}" + (f"[{self.item}]" if self.item else "")


def check_exists(address: TapAddress, model: nn.Module, where: str) -> None:
    """Refuse the address of a module that the model does not have.

    Raises:
        TapError: names the address, the model and the nearest modules.
    """
    names = [name for name, _ in model.named_modules()]
    if address.module not in names:
        raise TapError(f"{where}: {unknown('module', address.module, filter(None, names))}")


def tensor_of(value: object, item: str | None, where: str) -> Tensor:
    """Pick the tensor out of what a module takes or returns.

    Args:
        value: a tensor, or a sequence, mapping or object that holds some.
        item: index, key or field; without one the value itself, or the first of a sequence, or
            the only tensor of a mapping or object.
        where: begins the error.

    Raises:
        TapError: there is no such item, it is no tensor, or there are several.
    """
    if isinstance(value, Tensor):
        if item is not None:
            raise TapError(f"{where} is one tensor and has no item {item!r}; leave [{item}] out")
        return value
    parts = _parts(value)
    if item is not None:
        if item not in parts:
            raise TapError(f"{where}: {unknown('item', item, parts)}")
        found = parts[item]
    elif isinstance(value, Sequence) and parts:
        found = next(iter(parts.values()))
    else:
        tensors = [part for part in parts.values() if isinstance(part, Tensor)]
        if len(tensors) > 1:
            raise TapError(f"{where} holds several tensors; name one: [{'], ['.join(parts)}]")
        found = tensors[0] if tensors else None
    if not isinstance(found, Tensor):
        raise TapError(f"{where} is no tensor but {type(value).__name__}; items: {list(parts)}")
    return found


def _parts(value: object) -> dict[str, object]:
    if isinstance(value, Mapping):
        return {str(key): part for key, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        by_position = {str(position): part for position, part in enumerate(value)}
        # Only a namedtuple has these; there is no class to ask for.
        return {**by_position, **dict(zip(getattr(value, "_fields", ()), value, strict=False))}
    if is_dataclass(value) and not isinstance(value, type):
        return {part.name: getattr(value, part.name) for part in fields(value)}
    return {}


def _taken(args: tuple[Any, ...], kwargs: Mapping[str, Any], item: str | None) -> object:
    """Return where an item of what a module takes is: its arguments, or a structure that is all."""
    if args and (item is None or (len(args) == 1 and not kwargs and _parts(args[0]))):
        return args[0]
    return {**{str(position): arg for position, arg in enumerate(args)}, **kwargs}


def run_model(model: Callable[..., Any], inputs: Any) -> Any:
    """Call a model on one tensor, a sequence of positional or a mapping of named arguments."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple | list):
        return model(*inputs)
    return model(inputs)


def logits_of(output: object) -> Tensor | None:
    """Return the logits of a model's output, or None where it holds none.

    The output itself where it is a tensor, ``.logits`` or ``["logits"]`` where it has that, the
    first item where it is a sequence.
    """
    if isinstance(output, Tensor):
        return output
    found = getattr(output, "logits", None)
    if found is None and isinstance(output, Mapping):
        found = output.get("logits")
    if found is None and isinstance(output, Sequence) and output and not isinstance(output, str):
        found = output[0]
    return found if isinstance(found, Tensor) else None


@dataclass(frozen=True)
class OtherClasses:
    """What a model returned whose logits are of other classes than the data's: no logits here.

    Attributes:
        output: what it returned.
    """

    output: object


@dataclass(frozen=True)
class Observation:
    """What one forward pass gave.

    Attributes:
        output: what the model returned.
        activations: the tapped tensors, by address.
        overwritten: taps whose tensor was changed in place after the module had returned it.
    """

    output: Any
    activations: Mapping[TapAddress, Tensor]
    overwritten: frozenset[TapAddress]


class TapRecorder:
    """Reads taps of one model by forward hooks while it runs.

    The hooks stay in place until `remove`, and do nothing when the model runs without them
    being asked. What they read belongs to the caller, never to a module.

    Args:
        model: the model.
        addresses: the taps; none of them automatic.
        where: whose taps they are, for errors: ``"student"``, ``"teacher"``.
        keep: taps whose activation is copied when it is taken, because a later in-place
            operation (a ReLU with ``inplace=True``) would change it.
    """

    def __init__(
        self,
        model: nn.Module,
        addresses: Iterable[TapAddress],
        where: str,
        keep: Collection[TapAddress] = (),
    ) -> None:
        self.model = model
        self.addresses = tuple(dict.fromkeys(addresses))
        self.where = where
        self.keep = frozenset(keep)
        self._run: Callable[..., Any] = model
        self._taken: dict[TapAddress, tuple[Tensor, Tensor, int | None]] | None = None
        self._handles: list[RemovableHandle] = []
        for address in self.addresses:
            check_exists(address, model, where)
        try:
            for address in self.addresses:
                self._handles.append(self._hook(address))
        except BaseException:
            self.remove()
            raise

    def _hook(self, address: TapAddress) -> RemovableHandle:
        module = self.model.get_submodule(address.module)
        where = f"{self.where}: {address}"

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._taken is not None:
                taken = _taken(args, kwargs, address.item)
                self._take(address, tensor_of(taken, address.item, where))

        def after(_: nn.Module, __: tuple[Any, ...], output: object) -> None:
            if self._taken is not None:
                self._take(address, tensor_of(output, address.item, where))

        if address.side == "input":
            return module.register_forward_pre_hook(before, with_kwargs=True)
        return module.register_forward_hook(after)

    def _take(self, address: TapAddress, tensor: Tensor) -> None:
        assert self._taken is not None
        if address in self._taken:
            raise TapError(
                f"{self.where}: {address} ran more than once in a forward pass, so its activation "
                "is not one tensor; tap a module that runs once, such as one that contains it"
            )
        kept = tensor.clone() if address in self.keep else tensor
        # What is compiled can't look at versions; what is overwritten was found by the probe.
        version = None if torch.compiler.is_compiling() else _version(tensor)
        self._taken[address] = (kept, tensor, version)

    @contextmanager
    def _taking(self) -> Iterator[dict[TapAddress, tuple[Tensor, Tensor, int | None]]]:
        taken = self._taken = {}
        try:
            yield taken
        finally:
            self._taken = None

    def observe(self, inputs: Any) -> Observation:
        """Run the model once and return its output and the tapped activations.

        Raises:
            TapError: a tapped module did not run, or ran more than once.
        """
        with self._taking() as taken:
            output = run_model(self._run, inputs)
        for address in self.addresses:
            if address not in taken:
                raise TapError(
                    f"{self.where}: {address} did not run in the forward pass, so it has no "
                    "activation; `kdcore layers` shows the modules that do"
                )
        return Observation(
            output,
            {address: kept for address, (kept, _, _) in taken.items()},
            frozenset(
                address
                for address, (_, tensor, version) in taken.items()
                if version is not None and _version(tensor) != version
            ),
        )

    def __call__(self, inputs: Any) -> Observation:
        """Do as `observe`, and refuse activations that were overwritten and not kept.

        Raises:
            TapError: as `observe`; or an activation was changed in place that was not when the
                model was probed.
        """
        observation = self.observe(inputs)
        if lost := observation.overwritten - self.keep:
            names = ", ".join(map(str, lost))
            raise TapError(
                f"{self.where}: {names} was overwritten in place in training but not when the "
                "model was probed; tap the module that overwrites it"
            )
        return observation

    def compile(self, backend: str) -> None:
        """Compile the model with its taps; caches of what was compiled before must be empty.

        Args:
            backend: PyTorch's, such as ``"inductor"``.
        """
        self._run = torch.compile(self.model, backend=backend)

    def remove(self) -> None:
        """Take all hooks off the model."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def _version(tensor: Tensor) -> int:
    """Return how often a tensor was changed in place; inference tensors do not count it."""
    return 0 if tensor.is_inference() else tensor._version
