"""What `auto` means on a model that nobody prepared, read off one traced forward pass.

Never a guess: where a pass does not tell, the error lists what could be meant.
"""

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
        TapError: the pass does not tell; lists candidates with their shapes.
    """
    if kind == "embedding":
        head = _head(trace)
        if head is None:
            raise _cannot_tell(kind, trace)
        return (TapAddress(head.name, "input"),)
    maps = _maps(trace)
    if not maps:
        raise _cannot_tell(kind, trace)
    return tuple(TapAddress(call.name) for call in (maps[-1:] if kind == "feature_map" else maps))


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


def _maps(trace: Trace) -> list[ModuleCall]:
    """Return the last map of each resolution, in the order in which they ran."""
    head = _head(trace)
    pooled = [call.output for call in trace.calls if _pools_globally(call)]
    named: dict[int, ModuleCall] = {}
    for call in trace.calls:
        in_head = head is not None and f"{call.name}.".startswith(f"{head.name}.")
        if in_head or not _is_map(call, trace) or any(call.output is p for p in pooled):
            continue
        # A container returns what its last module does, an in-place activation what it was
        # given: one map has several names, of which the outermost, then the latest, is taken.
        known = named.pop(id(call.output), call)
        named[id(call.output)] = call if _depth(call) <= _depth(known) else known
    calls = list(named.values())
    if not calls or (head is None and _could_be_classes(calls[-1], trace)):
        return []
    rank = _output(calls[-1]).ndim
    return _stages([call for call in calls if _output(call).ndim == rank])


def _stages(calls: list[ModuleCall]) -> list[ModuleCall]:
    """Choose one call a resolution: the last of the outermost, where resolutions only fall.

    Blocks reach the next resolution inside, and squeeze-and-excitation passes through 1x1 maps:
    what is nested deeper gives way to what stands further out.
    """
    last: dict[int, int] = {}
    for position, call in enumerate(calls):
        known = last.get(_resolution(call))
        if known is None or _depth(call) <= _depth(calls[known]):
            last[_resolution(call)] = position
    final = len(calls) - 1
    chosen: list[int] = [final]
    for position in sorted(last.values(), key=lambda p: (_depth(calls[p]), -p)):
        resolution = _resolution(calls[position])
        if all((p - position) * (_resolution(calls[p]) - resolution) < 0 for p in chosen):
            chosen.append(position)
    return [calls[position] for position in sorted(chosen)]


def _could_be_classes(call: ModuleCall, trace: Trace) -> bool:
    return trace.logits is not None and _output(call).shape[1] == trace.logits.shape[-1]


def _is_map(call: ModuleCall, trace: Trace) -> bool:
    if call.output is None or isinstance(call.module, _ADAPTIVE):
        return False
    shape, given = call.output.shape, trace.inputs[0].shape
    if len(shape) not in (3, 4) or shape[0] != given[0]:
        return False
    # Of a square image a map is square; [batch, height, width, channels] is not taken for one.
    return not (len(shape) == len(given) == 4 and given[2] == given[3] and shape[2] != shape[3])


def _pools_globally(call: ModuleCall) -> bool:
    return (
        isinstance(call.module, _POOLS)
        and call.output is not None
        and all(side == 1 for side in call.output.shape[2:])
    )


def _resolution(call: ModuleCall) -> int:
    shape = _output(call).shape
    return shape[2] * shape[3] if len(shape) == 4 else shape[1]


def _output(call: ModuleCall) -> Tensor:
    assert call.output is not None
    return call.output


def _depth(call: ModuleCall) -> int:
    return call.name.count(".")


def _cannot_tell(kind: str, trace: Trace) -> TapError:
    distinct = {id(call.output): call for call in trace.calls if call.output is not None}
    shown = [f"{call.name} {list(_output(call).shape)}" for call in list(distinct.values())[-8:]]
    setting = f"{trace.where}_taps" if kind == "stages" else f"{trace.where}_tap"
    return TapError(
        f"{trace.where}: cannot tell which tap is its {kind.replace('_', ' ')}; set {setting} to "
        f"one of these outputs, or to MODULE:input: {', '.join(shown)}"
    )
