"""What `auto` means on a model that nobody prepared, read off one traced forward pass.

Never a guess: where a pass does not tell, the error lists what could be meant.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdcore.errors import TapError
from kdcore.probe import ModuleCall, Trace
from kdcore.taps import TapAddress

_ADAPTIVE = (
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
)
_POOLS = (*_ADAPTIVE, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_EXTRACTORS = (nn.modules.conv._ConvNd, nn.MultiheadAttention, nn.RNNBase)


@dataclass(frozen=True)
class _Map:
    """What a module returned, read as a map or a token sequence.

    Attributes:
        name: the module's.
        tensor: ``[batch, channels, height, width]``, ``[batch, height, width, channels]`` or
            ``[batch, tokens, width]``.
        channels_last: whether it is the second of these.
    """

    name: str
    tensor: Tensor
    channels_last: bool

    @property
    def resolution(self) -> int:
        """Height times width, or the number of tokens: windows cut from a map keep it."""
        shape = self.tensor.shape
        if len(shape) == 3:
            return shape[1]
        return shape[1] * shape[2] if self.channels_last else shape[2] * shape[3]

    @property
    def depth(self) -> int:
        return self.name.count(".")


def find(kind: str, trace: Trace) -> tuple[TapAddress, ...]:
    """Find the taps of one kind.

    Args:
        kind: ``embedding``, the input of the head: the outermost module with weights that
            returns the logits without extracting features itself, of what others with weights
            gave. ``feature_map``, the last map (``[batch, channels, height, width]``) or token
            sequence (``[batch, tokens, width]``) before head and global pooling. ``stages``, the
            last map of each resolution.
        trace: what ran in one pass of the model.

    Raises:
        TapError: the pass does not tell, or a map has its channels last, which is no shape that
            a loss on maps expects; lists candidates with their shapes.
    """
    if kind == "embedding":
        head = _head(trace)
        if head is None:
            raise _cannot_tell(kind, trace)
        return (TapAddress(head.name, "input"),)
    maps = _maps(trace)
    chosen = _stages(maps, trace)[-1 if kind == "feature_map" else 0 :]
    if not chosen:
        raise _cannot_tell(kind, trace)
    if turned := [found for found in chosen if found.channels_last]:
        usable = [found for found in maps if not found.channels_last]
        raise _cannot_tell(kind, trace, turned, usable)
    return tuple(TapAddress(found.name) for found in chosen)


def why(kind: str, shape: Sequence[int]) -> str:
    """Say in words why a tap was found.

    Args:
        kind: what was looked for.
        shape: of what is tapped, without the batch.
    """
    if kind == "embedding":
        return "what the head is given: the outermost module with weights that returns the logits"
    if len(shape) == 2:
        size, what = f"{shape[0]} tokens", "sequence"
    else:
        size, what = " x ".join(map(str, shape[1:])), "map"
    if kind == "stages":
        return f"the last {what} of {size}"
    return f"the last {what} before head and global pooling"


def _head(trace: Trace) -> ModuleCall | None:
    candidates = [
        call
        for position, call in enumerate(trace.calls)
        if trace.logits is not None
        and call.output is trace.logits
        and call.input is not None
        and not any(call.input is given for given in trace.inputs)
        and not any(isinstance(part, _EXTRACTORS) for part in call.module.modules())
        # What a final LogSoftmax or Flatten is given are the logits.
        and _has_weights(call)
        and _follows_weights(position, trace)
    ]
    return min(candidates, key=_depth, default=None)


def _follows_weights(position: int, trace: Trace) -> bool:
    """Return whether a module is given more than the model's input, normalised or flattened."""
    inside = f"{trace.calls[position].name}."
    learned = (call.name for call in trace.calls[:position] if _has_weights(call))
    return any(not name.startswith(inside) for name in (*trace.repeated, *learned))


def _has_weights(call: ModuleCall) -> bool:
    # Quantized modules have no parameters, but save their weights.
    return bool(call.module.state_dict())


def _maps(trace: Trace) -> list[_Map]:
    """Return all maps that are as many-dimensional as the last, in the order in which they ran."""
    head = _head(trace)
    pooled = [call.output for call in trace.calls if _pools_globally(call)]
    named: dict[int, _Map] = {}
    for call in trace.calls:
        in_head = head is not None and f"{call.name}.".startswith(f"{head.name}.")
        found = _map(call.name, call.output, trace)
        if found is None or in_head or isinstance(call.module, _ADAPTIVE):
            continue
        if any(found.tensor is p for p in pooled):
            continue
        # A container returns what its last module does, an in-place activation what it was
        # given: one map has several names, of which the outermost, then the latest, is taken.
        known = named.pop(id(found.tensor), found)
        named[id(found.tensor)] = found if found.depth <= known.depth else known
    maps = list(named.values())
    if not maps or (head is None and _could_be_classes(maps[-1], trace)):
        return []
    return [found for found in maps if found.tensor.ndim == maps[-1].tensor.ndim]


def _stages(maps: list[_Map], trace: Trace) -> list[_Map]:
    """Choose one map a resolution: the last of the outermost, where resolutions only fall.

    Blocks reach the next resolution inside, and squeeze-and-excitation passes through 1x1 maps:
    what is nested deeper gives way to what stands further out.
    """
    kept = _kept_resolutions(trace)
    last: dict[int, int] = {}
    for position, found in enumerate(maps):
        if _passes_by(found, kept) and position + 1 < len(maps):
            continue
        known = last.get(found.resolution)
        if known is None or found.depth <= maps[known].depth:
            last[found.resolution] = position
    chosen = [len(maps) - 1] if maps else []
    for position in sorted(last.values(), key=lambda p: (maps[p].depth, -p)):
        resolution = maps[position].resolution
        if all((p - position) * (maps[p].resolution - resolution) < 0 for p in chosen):
            chosen.append(position)
    return [maps[position] for position in sorted(chosen)]


def _kept_resolutions(trace: Trace) -> dict[str, int]:
    """Return the resolution of each module that returns the one that it was given."""
    kept: dict[str, int] = {}
    for call in trace.calls:
        given = _map(call.name, call.input, trace)
        returned = _map(call.name, call.output, trace)
        if given and returned and given.resolution == returned.resolution:
            kept[call.name] = given.resolution
    return kept


def _passes_by(found: _Map, kept: Mapping[str, int]) -> bool:
    """Return whether a map is of another resolution than a module around it takes and returns.

    Windows of attention look like maps where there are as many windows as channels.
    """
    parts = found.name.split(".")
    around = (".".join(parts[:end]) for end in range(1, len(parts)))
    return any(kept.get(name, found.resolution) != found.resolution for name in around)


def _could_be_classes(found: _Map, trace: Trace) -> bool:
    if trace.logits is None:
        return False
    # Logits that are a map themselves have their classes where maps have channels.
    return found.tensor.shape[1] == trace.logits.shape[1 if trace.logits.ndim == 4 else -1]


def _map(name: str, tensor: Tensor | None, trace: Trace) -> _Map | None:
    image = trace.inputs[0].shape
    if tensor is None or tensor.ndim not in (3, 4) or tensor.shape[0] != image[0]:
        return None
    if tensor.ndim == 3 or len(image) != 4:
        return _Map(name, tensor, channels_last=False)
    _, first, second, third = tensor.shape
    if _is_like(image, second, third):
        return _Map(name, tensor, channels_last=False)
    # A pooled vector that keeps its dimensions, [batch, 1, 1, channels], is no map.
    if first > 1 and _is_like(image, first, second):
        return _Map(name, tensor, channels_last=True)
    # Of a square image a map is square; of others, strides may differ by direction.
    return None if image[2] == image[3] else _Map(name, tensor, channels_last=False)


def _is_like(image: torch.Size, height: int, width: int) -> bool:
    """Return whether sides are in the proportion of an image's, but for a rounded pixel."""
    error = abs(height * image[3] - width * image[2])
    return error <= (0 if image[2] == image[3] else max(image[2:]))


def _pools_globally(call: ModuleCall) -> bool:
    return (
        isinstance(call.module, _POOLS)
        and call.output is not None
        and all(side == 1 for side in call.output.shape[2:])
    )


def _depth(call: ModuleCall) -> int:
    return call.name.count(".")


def _cannot_tell(
    kind: str, trace: Trace, turned: Sequence[_Map] = (), usable: Sequence[_Map] = ()
) -> TapError:
    """Build the error.

    Args:
        kind: what was looked for.
        trace: the pass that does not tell.
        turned: maps with channels last that were found instead.
        usable: the candidates; without any, what ran last.
    """
    outputs = [(call.name, call.output) for call in trace.calls if call.output is not None]
    candidates = [(found.name, found.tensor) for found in usable] or outputs
    distinct = {id(tensor): f"{name} {list(tensor.shape)}" for name, tensor in candidates}
    setting = f"{trace.where}_taps" if kind == "stages" else f"{trace.where}_tap"
    why = "".join(
        f"{found.name} {list(found.tensor.shape)} has its channels last; " for found in turned[:1]
    )
    return TapError(
        f"{trace.where}: cannot tell which tap is its {kind.replace('_', ' ')}; {why}set {setting} "
        f"to one of these outputs, or to MODULE:input: {', '.join(list(distinct.values())[-8:])}"
    )
