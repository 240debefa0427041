import pytest
import torch
from torch import nn, optim

from kdcore.errors import ModelError
from kdcore.optimizers import build_optimizer, build_schedule, clip
from kdcore.sections import TrainConfig


def _rates(config: TrainConfig, steps_an_epoch: int) -> list[float]:
    weight = nn.Parameter(torch.zeros(1))
    optimizer = build_optimizer(_holding(weight), config)
    schedule = build_schedule(optimizer, config, steps_an_epoch)
    rates = []
    for _ in range(config.epochs * steps_an_epoch):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        weight.grad = torch.zeros(1)
        optimizer.step()
        schedule.step()
    return rates


def _holding(*weights: nn.Parameter) -> nn.Module:
    return nn.ParameterList(weights)


def _config(**values: object) -> TrainConfig:
    return TrainConfig.model_validate(values)


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", optim.Adam), ("adamw", optim.AdamW), ("sgd", optim.SGD)]
)
def test_each_name_is_pytorchs_optimizer(name: str, kind: type[optim.Optimizer]) -> None:
    optimizer = build_optimizer(
        _holding(nn.Parameter(torch.zeros(1))), _config(optimizer=name, lr=0.5)
    )
    assert type(optimizer) is kind
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_sgd_takes_momentum_and_nesterov() -> None:
    config = _config(optimizer="sgd", momentum=0.8, nesterov=True, weight_decay=0.1)
    group = build_optimizer(_holding(nn.Parameter(torch.zeros(1))), config).param_groups[0]
    assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.8, True, 0.1)


def test_muon_has_the_matrices_that_are_trained_and_adamw_the_rest() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2), nn.Linear(2, 2))
    model[3].weight.requires_grad_(False)
    config = _config(optimizer="muon", momentum=0.8, nesterov=False, lr=0.5, weight_decay=0.1)
    matrices, rest = build_optimizer(model, config).param_groups
    assert [list(weight.shape) for weight in matrices["params"]] == [[4, 3, 3, 3], [2, 4]]
    assert [list(weight.shape) for weight in rest["params"]] == [[4], [4], [4], [2], [2]]
    assert (matrices["momentum"], matrices["nesterov"]) == (0.8, False)
    assert {(group["lr"], group["weight_decay"]) for group in (matrices, rest)} == {(0.5, 0.1)}


@pytest.mark.parametrize(
    ("name", "momentum", "nesterov"), [("sgd", 0.9, False), ("muon", 0.95, True)]
)
def test_momentum_that_is_not_given_is_the_usual(
    name: str, momentum: float, nesterov: bool
) -> None:
    group = build_optimizer(nn.Linear(2, 2), _config(optimizer=name)).param_groups[0]
    assert (group["momentum"], group["nesterov"]) == (momentum, nesterov)


def test_muon_without_a_matrix_is_adamw_alone() -> None:
    groups = build_optimizer(nn.BatchNorm2d(3), _config(optimizer="muon")).param_groups
    assert [len(group["params"]) for group in groups] == [2]


def test_a_model_with_nothing_to_train_is_refused() -> None:
    frozen = nn.Parameter(torch.zeros(1), requires_grad=False)
    with pytest.raises(ModelError, match="nothing to train"):
        build_optimizer(_holding(frozen), _config())


def test_the_constant_schedule_does_not_move() -> None:
    assert _rates(_config(lr=0.25, epochs=2), 3) == [0.25] * 6


def test_the_step_schedule_falls_after_its_milestones() -> None:
    config = _config(lr=1.0, epochs=3, schedule="step", milestones=[1, 2])
    assert _rates(config, 2) == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_the_cosine_schedule_falls_to_almost_nothing() -> None:
    rates = _rates(_config(lr=1.0, epochs=4, schedule="cosine"), 5)
    assert rates[0] == 1.0
    assert rates[10] == pytest.approx(0.5)
    assert rates[-1] < 0.01


def test_one_cycle_rises_to_the_learning_rate_and_falls_below_its_start() -> None:
    rates = _rates(_config(lr=1.0, epochs=10, schedule="one-cycle"), 10)
    assert max(rates) == pytest.approx(1.0, abs=0.01)
    assert rates[0] == pytest.approx(1 / 25)
    assert rates[-1] < rates[0]


def test_warm_up_rises_from_one_per_cent_and_joins_the_schedule() -> None:
    rates = _rates(_config(lr=1.0, epochs=4, schedule="cosine", warmup_epochs=1), 10)
    assert rates[0] == pytest.approx(0.01)
    assert rates[:11] == sorted(rates[:11])
    assert rates[10] == pytest.approx(1.0)
    assert rates[-1] < 0.05


def test_a_milestone_stays_where_it_is_under_warm_up() -> None:
    config = _config(lr=1.0, epochs=3, schedule="step", milestones=[2], warmup_epochs=1)
    rates = _rates(config, 2)
    assert rates[3] == pytest.approx(1.0)
    assert rates[4] == pytest.approx(0.1)


def test_clipping_bounds_the_norm_of_the_whole_gradient() -> None:
    weights = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    for weight, value in zip(weights, (3.0, 4.0), strict=True):
        weight.grad = torch.tensor([value])
    clip(weights, None)
    assert [float(w.grad) for w in weights if w.grad is not None] == [3.0, 4.0]
    clip(weights, 1.0)
    grads = [float(w.grad) for w in weights if w.grad is not None]
    assert grads == pytest.approx([0.6, 0.8], rel=1e-5)
