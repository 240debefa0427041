"""Losses are read now and then, and the optimizer is stopped by the first that is no number."""

import copy

import pytest
import torch
from torch import nn

from kdcore.errors import NonFiniteLossError
from kdcore.optimizers import build_optimizer, step_unless
from kdcore.readings import READ_EVERY, Readings, StepRecord
from kdcore.sections import TrainConfig

CPU = torch.device("cpu")


def _add(readings: Readings, step: int, *values: float, indices: tuple[int, ...] = (1, 2)) -> None:
    names = ("total", "task", "hint")
    losses = {name: torch.tensor(value) for name, value in zip(names, values, strict=False)}
    readings.add(0, step, torch.tensor(indices), losses)


def test_steps_are_read_in_order_with_their_losses() -> None:
    readings = Readings(10, CPU, every=3)
    _add(readings, 0, 1.0, 0.5)
    _add(readings, 1, 2.0, 0.25, 4.0)  # a loss that comes and goes
    due = [readings.due]
    _add(readings, 2, 3.0, 0.125)
    assert [*due, readings.due] == [False, True]
    assert list(readings.read()) == [
        StepRecord(0, 0, 10, 2, {"total": 1.0, "task": 0.5}),
        StepRecord(0, 1, 10, 2, {"total": 2.0, "task": 0.25, "hint": 4.0}),
        StepRecord(0, 2, 10, 2, {"total": 3.0, "task": 0.125}),
    ]
    assert list(readings.read()) == []


def test_a_cpu_is_read_at_every_step_and_a_device_that_runs_ahead_is_not() -> None:
    readings = Readings(10, CPU)
    _add(readings, 0, 1.0)
    assert readings.due
    ahead = Readings(10, torch.device("meta"))
    ahead.add(0, 0, torch.tensor([]), {"total": torch.zeros((), device="meta")})
    assert not ahead.due
    assert READ_EVERY > 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_no_number_is_named_with_its_step_and_samples(value: float) -> None:
    readings = Readings(10, CPU, every=5)
    _add(readings, 0, 1.0, 0.5, 1.0)
    _add(readings, 1, value, 0.5, value, indices=(4, 9, 6))
    _add(readings, 2, 1.0, 0.5, 1.0)
    words = r"the loss 'hint' is -?(nan|inf) in epoch 0, step 1 \(samples 4, 9, 6\)"
    records = readings.read()
    heard = [next(records)]  # what was read before the failure counts
    with pytest.raises(NonFiniteLossError, match=words) as caught:
        next(records)
    assert caught.value.indices == (4, 9, 6)
    assert [record.step for record in heard] == [0]


def test_many_samples_are_counted_and_not_listed() -> None:
    readings = Readings(10, CPU)
    _add(readings, 0, float("nan"), indices=tuple(range(13)))
    with pytest.raises(NonFiniteLossError, match=r"samples 0, 1, .*, 9 and 3 more\)"):
        list(readings.read())


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "muon", "sgd"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_from_the_first_such_loss_on_no_step_is_taken(optimizer: str, dtype: torch.dtype) -> None:
    readings = Readings(10, CPU, every=10)
    model = nn.Linear(3, 2, dtype=dtype)
    config = TrainConfig.model_validate({"optimizer": optimizer, "lr": 0.1})
    steps = build_optimizer(model, config)
    weights = [nn.utils.parameters_to_vector(model.parameters()).detach()]
    memory = []
    for step, loss in enumerate((1.0, float("nan"), 1.0)):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, loss)
        _add(readings, step, loss)
        step_unless(steps, readings.stopped)
        weights.append(nn.utils.parameters_to_vector(model.parameters()).detach())
        memory.append(copy.deepcopy(steps.state_dict()["state"]))
    assert not (weights[1] == weights[0]).any()  # the control
    assert torch.equal(weights[2], weights[1])
    assert torch.equal(weights[3], weights[1])
    for kept in memory[1:]:
        torch.testing.assert_close(kept, memory[0], rtol=0, atol=0)
