"""What a teacher says is carried, checked and joined as one thing."""

import pytest
import torch
from torch import Tensor

from kdcore.errors import DataError
from kdcore.signals import SignalKey, Signals
from kdcore.taps import TapAddress

HIDDEN = SignalKey(TapAddress("1"))


def _logits(signals: Signals) -> Tensor:
    assert signals.logits is not None
    return signals.logits


def test_keys_differ_by_address_and_by_adapter() -> None:
    tap = TapAddress.parse("fc:input")
    keys = [SignalKey(tap), SignalKey(tap, "flatten"), SignalKey(TapAddress.parse("fc"))]
    assert len({*keys, SignalKey(TapAddress.parse("fc:input"), "flatten")}) == 3
    assert list(map(str, keys)) == ["fc:input", "fc:input -> flatten", "fc"]


def test_every_tensor_has_a_name_of_its_own_whatever_a_module_is_called() -> None:
    odd = SignalKey(TapAddress("logits"))
    signals = Signals(torch.zeros(1), {odd: torch.ones(1)})
    assert [name for name, _ in signals.named()] == ["logits", "tap logits"]
    assert [name for name, _ in Signals(None, {HIDDEN: torch.ones(1)}).named()] == ["tap 1"]


def test_signals_of_another_number_of_samples_are_refused() -> None:
    heard = Signals(torch.zeros(4, 3), {HIDDEN: torch.zeros(4, 8)})
    heard.check_rows(4, "teacher")
    Signals(None, {}).check_rows(4, "teacher")
    with pytest.raises(DataError, match="batch has 5 samples, large was given or tapped for 4"):
        heard.check_rows(5, "large")
    with pytest.raises(DataError, match="tapped for 1"):
        Signals(torch.zeros(4, 3), {HIDDEN: torch.zeros(1, 8)}).check_rows(4, "teacher")


def test_signals_are_joined_in_their_order_and_cut() -> None:
    def part(*values: float) -> Signals:
        tensor = torch.tensor(values)
        return Signals(tensor, {HIDDEN: -tensor})

    joined = Signals.join([part(1.0, 2.0), part(3.0, 1.0)], 3)
    assert _logits(joined).tolist() == [1.0, 2.0, 3.0]
    assert joined.activations[HIDDEN].tolist() == [-1.0, -2.0, -3.0]
    assert _logits(Signals.join([part(1.0, 2.0)], 1)).tolist() == [1.0]


def test_a_function_is_applied_to_logits_and_activations_and_not_to_what_is_missing() -> None:
    doubled = Signals(torch.ones(2), {HIDDEN: torch.ones(3)}).map(lambda tensor: 2 * tensor)
    assert _logits(doubled).tolist() == [2.0, 2.0]
    assert doubled.activations[HIDDEN].tolist() == [2.0, 2.0, 2.0]
    assert Signals(None, {}).map(lambda tensor: 2 * tensor) == Signals(None, {})
