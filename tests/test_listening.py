"""What is asked live and what was kept are the same, and read by sample and view."""

import pytest
import torch
from torch import nn

from kdcore.adapters import AveragePool
from kdcore.data.source import Batch
from kdcore.frozen_teacher import FrozenTeacher
from kdcore.listening import KeptSignals, LiveSignals, array_name, restored, stored
from kdcore.signals import SignalKey, Signals
from kdcore.taps import TapAddress

CPU = torch.device("cpu")
TAP = SignalKey(TapAddress("0"))
POOLED = SignalKey(TapAddress("0"), "flatten,average-pool:2")
X = torch.linspace(-1, 1, 18).reshape(6, 3)


def _teacher(precision: torch.dtype = torch.float32) -> FrozenTeacher:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    return FrozenTeacher(model, {TAP: None, POOLED: AveragePool(2)}, "teacher", (), precision)


def _batch(indices: list[int], view: int = 0) -> Batch:
    chosen = torch.tensor(indices)
    return Batch(X[chosen], X[chosen], torch.zeros(len(indices), dtype=torch.int64), chosen, view)


def _equal(one: Signals, other: Signals) -> bool:
    return all(
        name == other_name and torch.equal(a, b) and a.dtype == b.dtype
        for (name, a), (other_name, b) in zip(one.named(), other.named(), strict=True)
    )


def test_what_is_kept_is_read_by_sample_and_view() -> None:
    teacher = _teacher()
    whole = teacher.signals(torch.cat([X, -X]), 4)
    arrays = {array_name("t", name): tensor for name, tensor in whole.named()}
    kept = KeptSignals(arrays, {"t": teacher}, len(X), CPU)
    asked = [5, 0, 5]
    assert _equal(
        kept.signals(_batch(asked))["t"], whole.map(lambda table: table[torch.tensor(asked)])
    )
    second = kept.signals(_batch(asked, view=1))["t"]
    assert _equal(second, whole.map(lambda table: table[torch.tensor(asked) + 6]))
    assert not _equal(second, kept.signals(_batch(asked))["t"])


def test_live_and_kept_are_the_same_bits_at_one_batch_size() -> None:
    teacher = _teacher()
    arrays = {array_name("t", name): tensor for name, tensor in teacher.signals(X, 4).named()}
    kept = KeptSignals(arrays, {"t": teacher}, len(X), CPU)
    live = LiveSignals({"t": teacher}, 4)
    assert _equal(kept.signals(_batch([3, 1]))["t"], live.signals(_batch([3, 1]))["t"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_what_is_kept_short_is_read_in_the_precision_of_the_run(
    dtype: torch.dtype, precision: torch.dtype
) -> None:
    teacher = _teacher()
    whole = teacher.signals(X)
    arrays = {array_name("t", name): tensor.to(dtype) for name, tensor in whole.named()}
    read = KeptSignals(arrays, {"t": _teacher(precision)}, len(X), CPU).signals(_batch([2]))["t"]
    for name, tensor in read.named():
        assert tensor.dtype == precision
        assert torch.equal(tensor, arrays[array_name("t", name)][2:3].to(precision))


def test_a_run_reads_what_it_wants_out_of_what_is_kept_for_all() -> None:
    teacher = _teacher()
    arrays = {array_name("t", name): tensor for name, tensor in teacher.signals(X).named()}
    less = FrozenTeacher(teacher.model, {POOLED: AveragePool(2)}, "teacher")
    read = KeptSignals(arrays, {"t": less}, len(X), CPU).signals(_batch([0]))["t"]
    assert [name for name, _ in read.named()] == ["logits", f"tap {POOLED}"]


def test_only_who_asks_live_needs_the_teachers_inputs() -> None:
    assert LiveSignals({}).needs_inputs
    assert not KeptSignals({}, {}, 0, CPU).needs_inputs


def test_maps_are_stored_and_restored_in_the_layout_that_they_are_computed_in() -> None:
    maps = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)
    assert stored(maps).shape == (2, 4, 5, 3)
    back = restored(stored(maps).contiguous())
    assert torch.equal(back, maps)
    assert back.is_contiguous(memory_format=torch.channels_last)
    for signal in (torch.ones(2, 3), torch.ones(2, 3, 4), torch.ones(2)):
        assert restored(stored(signal)) is signal
