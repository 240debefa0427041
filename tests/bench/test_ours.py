"""The tutorial's loops, the bound and kdcore train the same thing."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import default_collate

from kdcore.bench import bound, ours, plain
from kdcore.bench.bound import Layout
from kdcore.bench.work import DISTILLATIONS, Method, Work
from kdcore.data.order import Order
from kdcore.execution import in_best_layout
from kdcore.models.tutorial import DeepNN
from kdcore.selection import agreed_task_weight, select

LAYOUTS = [Layout(*choice) for choice in product((True, False), repeat=2)]


@pytest.fixture(autouse=True)
def _without_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(F, "dropout", lambda x, *_: x)


def _work(teacher_seed: int = 0) -> Work:
    torch.manual_seed(teacher_seed)
    chance = np.random.default_rng(1)
    images = chance.integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
    targets = torch.from_numpy(chance.integers(0, 10, 10))
    # The last of three batches is smaller.
    return Work(images, targets, DeepNN(), 2, torch.device("cpu"), batch_size=4)


def _orders(work: Work) -> Iterator[list[Tensor]]:
    order = Order(work.targets, work.batch_size, 0.25, work.seed)
    return (order.epoch(epoch) for epoch in range(work.epochs))


class _InOrder:
    """The tutorial's batches, in kdcore's order."""

    def __init__(self, work: Work) -> None:
        self._images = plain.ArrayDataset(work)
        self._orders = _orders(work)

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[Any]:
        for indices in next(self._orders):
            yield default_collate([self._images[int(index)] for index in indices])


def _by_kdcore(work: Work, method: Method) -> tuple[list[float], dict[str, Tensor]]:
    """Return the mean loss of each epoch, and with what the regressor began."""
    teacher = in_best_layout(work.new_teacher())
    comparison = ours.Comparison(work)
    comparison.expect(DISTILLATIONS, teacher)
    with comparison.training(method, teacher) as training:
        regressors = [m for m in training.distiller.strategies.modules() if _is_regressor(m)]
        start = {k: v.clone() for m in regressors for k, v in m.state_dict().items()}
        history = training.run()
    return [record.loss for record in history.epochs], start


def _is_regressor(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d)


def _by_tutorial(work: Work, method: Method, regressor: dict[str, Tensor]) -> list[float]:
    student, loss_of = plain.set_up(work, method, work.teacher)
    if regressor:
        assert isinstance(student, plain.LightNNWithRegressor)
        student.load_state_dict(work.new_student().state_dict(), strict=False)
        student.regressor.load_state_dict(regressor)
    return plain.train(student, loss_of, _InOrder(work), work)


def _by_bound(
    work: Work, method: Method, regressor: dict[str, Tensor], layout: Layout
) -> list[float]:
    images = bound.Images(work, layout)
    answers = None if method is Method.ALONE else bound.ask(work, images, layout)
    training = bound.Training(work, method, layout, images, answers)
    if regressor:
        training.regressor.load_state_dict(regressor)
    losses = [torch.stack(training.train(order)).mean() for order in _orders(work)]
    return [float(loss) for loss in losses]


@pytest.mark.parametrize("method", Method)
def test_tutorial_bound_and_kdcore_have_the_same_losses(method: Method) -> None:
    work = _work()
    losses, regressor = _by_kdcore(work, method)
    assert len(losses) == 2
    assert bool(regressor) == (method is Method.REGRESSOR)
    assert _by_tutorial(work, method, regressor) == pytest.approx(losses, rel=1e-5)
    for layout in LAYOUTS:
        assert _by_bound(work, method, regressor, layout) == pytest.approx(losses, rel=1e-5)


@pytest.mark.parametrize("method", DISTILLATIONS)
def test_another_teacher_shows_in_the_losses(method: Method) -> None:
    losses, regressor = _by_kdcore(_work(), method)
    other = _work(teacher_seed=1)
    assert _by_tutorial(other, method, regressor) != pytest.approx(losses, rel=1e-4)
    assert _by_bound(other, method, regressor, LAYOUTS[0]) != pytest.approx(losses, rel=1e-4)


def test_the_recipe_has_the_tutorials_weights_and_budget() -> None:
    config = ours.read_recipe(_work())
    chosen = [select(entries, ["teacher"]) for entries in config.strategy_lists]
    assert config.task_weight is None
    assert {agreed_task_weight(members) for members in chosen} == {0.75}
    assert {entry.weight for entries in config.strategy_lists for entry in entries} == {0.25}
    assert (config.train.optimizer, config.train.lr) == ("adam", 1e-3)
    assert (config.train.epochs, config.train.batch_size) == (2, 4)
    assert len(ours.candidates_of(config)) == 3


def test_the_teacher_says_everything_before_the_first_run_begins() -> None:
    work, ran = _work(), list[int]()
    comparison, teacher = ours.Comparison(work), in_best_layout(work.new_teacher())
    teacher.register_forward_pre_hook(lambda _, inputs: ran.append(len(inputs[0])))
    comparison.expect(DISTILLATIONS, teacher)
    for method in DISTILLATIONS:
        before_set_up = len(ran)
        with comparison.training(method, teacher) as training:
            before = len(ran)
            training.run()
        assert len(ran) == before
        # Three batches of four are all ten images; other passes are probes of two.
        passes = sum(count == 4 for count in ran[before_set_up:])
        assert passes >= 3 if method is DISTILLATIONS[0] else passes == 0
