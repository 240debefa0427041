import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from kdcore import Adapters, Features, Shapes, Strategy, Taps, hookimpl, squared_error
from kdcore.asking import Request
from kdcore.cache import SignalCache
from kdcore.data.order import Order
from kdcore.data.source import DatasetSource
from kdcore.distiller import Distiller, Losses
from kdcore.errors import NonFiniteLossError, RunError, StrategyError
from kdcore.evaluation import evaluate
from kdcore.execution import PLAIN, Execution
from kdcore.history import EpochRecord
from kdcore.readings import StepRecord
from kdcore.sections import CacheConfig, TrainConfig
from kdcore.trainer import train
from kdcore.weights import weight_at


class _Hint(Strategy):
    @hookimpl
    def extract_features(self) -> Taps:
        return Taps(student={"hint": "0"}, teacher={"hint": "0"})

    @hookimpl
    def adapt_shapes(self, student: Shapes, teacher: Shapes) -> Adapters:
        return Adapters(student={"hint": nn.Linear(student["hint"][1], teacher["hint"][1])})

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        return squared_error(student["hint"], teacher["hint"])


class _Unused(Strategy):
    @hookimpl
    def adapt_shapes(self) -> Adapters:
        return Adapters(modules={"idle": nn.Linear(1, 1)})

    @hookimpl
    def compute_auxiliary_loss(self, student: Features) -> Tensor:
        return student.logits.mean(1)


class _Diverges(Strategy):
    @hookimpl
    def compute_auxiliary_loss(self, student: Features, step: int) -> Tensor:
        return student.logits.mean(1) * (float("nan") if step == 3 else 1.0)


class _Watcher:
    def __init__(self) -> None:
        self.steps: list[StepRecord] = []
        self.epochs: list[EpochRecord] = []

    def on_step(self, record: StepRecord) -> None:
        self.steps.append(record)

    def on_epoch(self, record: EpochRecord) -> None:
        self.epochs.append(record)


def _net(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, 3))


def _source(
    samples: int = 40, seed: int = 0, unlabelled: int = 0, dtype: torch.dtype = torch.float32
) -> DatasetSource:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, 4, generator=generator).to(dtype)
    targets = inputs[:, :3].argmax(1)
    if unlabelled:
        targets[-unlabelled:] = -100
    return DatasetSource(TensorDataset(inputs, targets), "train_data", same_every_epoch=True)


def _distiller(strategies: list[Strategy], source: DatasetSource) -> Distiller:
    torch.manual_seed(1)
    sample = source.batch(torch.arange(2)).inputs
    teacher, student = _net(8).to(sample.dtype), _net(5).to(sample.dtype)
    return Distiller(teacher if strategies else None, student, strategies, sample_input=sample)


def _config(**values: object) -> TrainConfig:
    return TrainConfig.model_validate({"epochs": 3, "batch_size": 16, "lr": 0.02, **values})


def _weights(distiller: Distiller) -> Mapping[str, Tensor]:
    return copy.deepcopy(distiller.student.state_dict())


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_student_learns() -> None:
    source = _source(200)
    history = train(_distiller([], source), source, _config(epochs=15), 1, test=_source(100, 1))
    assert history.epochs[-1].loss < 0.5 * history.epochs[0].loss
    assert history.epochs[-1].accuracy is not None
    assert history.epochs[-1].accuracy > 80


def test_the_same_seed_gives_the_same_training_whatever_was_drawn_before() -> None:
    source = _source()
    runs = []
    for draws in (0, 5):
        distiller = _distiller([_Hint()], source)
        torch.rand(draws)
        history = train(distiller, source, _config(), seed=7)
        runs.append((_weights(distiller), [record.losses for record in history.epochs]))
    assert _same(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]
    other = _distiller([_Hint()], source)
    train(other, source, _config(), seed=8)
    assert not _same(runs[0][0], _weights(other))


def test_every_step_reports_the_weighted_sum_of_its_parts() -> None:
    source, watcher = _source(), _Watcher()
    distiller = _distiller([_Hint()], source)
    train(distiller, source, _config(), 1, observers=[watcher])
    for record in watcher.steps:
        expected = (
            weight_at(distiller.task_weight, 0) * record.losses["task"] + record.losses["_hint"]
        )
        assert record.losses["total"] == pytest.approx(expected, rel=1e-6)
    assert [record.step for record in watcher.steps] == list(range(9))
    assert watcher.steps[0].steps == 9


def test_the_loss_of_an_epoch_is_the_mean_over_its_batches() -> None:
    source, watcher = _source(), _Watcher()
    train(_distiller([], source), source, _config(epochs=1), 1, observers=[watcher])
    assert [record.samples for record in watcher.steps] == [16, 16, 8]
    mean = sum(record.losses["total"] for record in watcher.steps) / 3
    assert watcher.epochs[0].loss == pytest.approx(mean)


def test_accumulation_steps_as_the_whole_batch_does() -> None:
    source = _source(unlabelled=11, dtype=torch.float64)
    results = []
    for parts in (1, 3):
        distiller = _distiller([_Hint()], source)
        for module in distiller.student.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        train(distiller, source, _config(epochs=1, optimizer="sgd", accumulate=parts), 1)
        results.append(_weights(distiller))
    for name in results[0]:
        assert torch.allclose(results[0][name], results[1][name], rtol=0, atol=1e-12)


def test_a_loss_that_is_no_number_ends_the_run_before_its_step_is_taken() -> None:
    source = _source()
    distiller = _distiller([_Diverges()], source)
    watcher = _Watcher()
    with pytest.raises(NonFiniteLossError, match=r"'_diverges' is nan in epoch 1, step 3"):
        train(distiller, source, _config(), 1, observers=[watcher])
    assert len(watcher.steps) == 3
    assert all(bool(torch.isfinite(weight).all()) for weight in distiller.parameters())


def test_a_parameter_that_no_loss_depends_on_is_an_error() -> None:
    source = _source()
    with pytest.raises(StrategyError, match=r"'_unused': its parameter .* has no gradient"):
        train(_distiller([_Unused()], source), source, _config(), 1)


def test_the_best_weights_are_those_of_the_best_validation_epoch() -> None:
    source, validation = _source(60), _source(30, seed=3)
    distiller = _distiller([], source)
    kept: list[Mapping[str, Tensor]] = []

    class _Keeper(_Watcher):
        def on_epoch(self, record: EpochRecord) -> None:
            super().on_epoch(record)
            kept.append(_weights(distiller))

    watcher = _Keeper()
    history = train(
        distiller, source, _config(epochs=6), 1, validation=validation, observers=[watcher]
    )
    scores = [record.validation["accuracy"] for record in watcher.epochs]
    assert history.best_epoch == scores.index(max(scores)) + 1
    assert history.best_weights is not None
    assert _same(history.best_weights, kept[history.best_epoch - 1])


def test_without_validation_no_epoch_is_called_the_best() -> None:
    source = _source()
    history = train(_distiller([], source), source, _config(), 1, test=_source(10, 2))
    assert history.best_epoch is None
    assert history.best_weights is None


def test_the_teacher_cache_changes_no_bit() -> None:
    source = _source(unlabelled=20)
    weights = []
    for cached in (False, True):
        distiller = _distiller([_Hint()], source)
        request = Request(distiller.teachers, source, 16, torch.device("cpu"))
        mode = CacheConfig(mode="memory" if cached else "off")
        signals = SignalCache(mode, lambda _: None).source(request)
        assert signals.needs_inputs != cached
        train(distiller, source, _config(), 1, signals=signals)
        weights.append(_weights(distiller))
    assert _same(*weights)


def test_label_smoothing_and_clipping_change_the_training() -> None:
    source = _source()
    plain = _distiller([], source)
    train(plain, source, _config(optimizer="sgd", lr=0.5), 1)
    clipped = _distiller([], source)
    train(clipped, source, _config(optimizer="sgd", lr=0.5, clip_norm=1e-6), 1)
    start = _distiller([], source)
    for name, weight in start.student.state_dict().items():
        assert torch.allclose(clipped.student.state_dict()[name], weight, atol=1e-4)
        assert not torch.equal(plain.student.state_dict()[name], weight)


class _RuinsTheGradient(Strategy):
    @hookimpl
    def compute_auxiliary_loss(self, student: Features) -> Tensor:
        # The root's gradient at zero is infinite, and infinity times zero is no number.
        return (student.logits * 0).sqrt().mean(1)


def test_weights_that_a_finite_loss_has_ruined_end_the_run() -> None:
    source = _source(16)
    with pytest.raises(NonFiniteLossError, match=r"is not finite after epoch 0, though every loss"):
        train(_distiller([_RuinsTheGradient()], source), source, _config(epochs=1), 1)


def test_the_student_comes_back_in_the_mode_that_it_was_handed_over_in() -> None:
    source = _source()
    distiller = _distiller([], source)
    distiller.student.eval()
    train(distiller, source, _config(epochs=1), 1)
    assert not any(module.training for module in distiller.student.modules())


def test_a_loss_that_is_no_number_between_two_readings_leaves_the_last_good_weights() -> None:
    source = _source()  # 40 samples: 3 steps an epoch, so that step 3 is the first of epoch 1
    weights = {}
    for name, strategy, epochs in (("good", _Hint(), 1), ("bad", _Diverges(), 2)):
        distiller = _distiller([strategy], source)
        if name == "bad":
            with pytest.raises(NonFiniteLossError, match="epoch 1, step 3") as caught:
                train(distiller, source, _config(epochs=epochs), 1, read_every=100)
            order = Order(source.targets, 16, 0.25, 1).epoch(1)
            assert list(caught.value.indices) == order[0].tolist()
        else:
            train(distiller, source, _config(epochs=epochs), 1)
        weights[name] = _weights(distiller)
    every_step = _distiller([_Diverges()], source)
    with pytest.raises(NonFiniteLossError):
        train(every_step, source, _config(epochs=2), 1, read_every=1)
    assert _same(weights["bad"], _weights(every_step))  # nothing was stepped between the readings
    assert all(bool(torch.isfinite(weight).all()) for weight in weights["bad"].values())


@pytest.mark.parametrize("read_every", [1, 2, 100])
def test_how_often_losses_are_read_changes_neither_them_nor_the_weights(read_every: int) -> None:
    source, reference, watcher = _source(), _Watcher(), _Watcher()
    first, second = _distiller([_Hint()], source), _distiller([_Hint()], source)
    train(first, source, _config(), 1, observers=[reference])
    train(second, source, _config(), 1, observers=[watcher], read_every=read_every)
    assert watcher.steps == reference.steps
    assert _same(_weights(first), _weights(second))


def test_the_average_of_the_weights_is_measured_and_left() -> None:
    source, test = _source(), _source(30, seed=3)
    last, averaged, watcher = _distiller([], source), _distiller([], source), _Watcher()
    train(last, source, _config(), 1, test=test)
    config = _config(weight_average=0.9)
    train(averaged, source, config, 1, test=test, observers=[watcher])
    assert not _same(_weights(last), _weights(averaged))
    assert (
        watcher.epochs[-1].accuracy == evaluate(averaged.student, test, averaged.task)["accuracy"]
    )
    barely = _distiller([], source)
    train(barely, source, _config(weight_average=1e-12), 1)
    for name, weight in _weights(barely).items():  # an average of the last alone
        assert torch.allclose(weight, _weights(last)[name], atol=1e-6)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_made_ahead_change_no_number(workers: int) -> None:
    source = _source(unlabelled=20)
    reference, distiller = _distiller([_Hint()], source), _distiller([_Hint()], source)
    train(reference, source, _config(accumulate=2), 1)
    train(distiller, source, _config(accumulate=2), 1, workers=workers)
    assert _same(_weights(reference), _weights(distiller))


def test_the_steps_before_a_loss_that_is_no_number_are_heard_of() -> None:
    source, watcher = _source(), _Watcher()
    with pytest.raises(NonFiniteLossError):
        train(
            _distiller([_Diverges()], source),
            source,
            _config(),
            1,
            read_every=100,
            observers=[watcher],
        )
    assert [record.step for record in watcher.steps] == [0, 1, 2]


def test_each_micro_batch_has_its_share_of_the_labelled() -> None:
    source = _source(40, unlabelled=32)
    seen: list[int] = []
    distiller = _distiller([], source)

    real = distiller.forward

    def spied(inputs: Tensor, targets: Tensor, **rest: Any) -> Losses:
        seen.append(int((targets != -100).sum()))
        return real(inputs, targets, **rest)

    distiller.forward = spied  # type: ignore[method-assign, assignment]
    train(distiller, source, _config(epochs=1, accumulate=4), 1)
    assert seen[:4] == [1, 1, 1, 1]  # 4 of 16, which in a row would be 4, 0, 0, 0


def test_with_scaled_losses_small_gradients_survive_in_half_precision() -> None:
    source = _source()
    weights = []
    for execution, precision in ((PLAIN, "32"), (Execution(torch.float16), "fp16-mixed")):
        torch.manual_seed(1)
        student = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
        with Distiller(None, student, execution=execution, task_weight=1e-6) as distiller:
            train(distiller, source, _config(optimizer="sgd", lr=1e5, precision=precision), 1)
            weights.append(_weights(distiller))
    plain, half = weights
    torch.manual_seed(1)
    start = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).state_dict()
    for name in plain:
        key = name.removeprefix("student.")
        moved = (plain[name] - start[key]).abs().max()
        assert (half[name] - plain[name]).abs().max() < 0.1 * moved


def test_a_step_that_was_not_taken_is_not_counted_and_leaves_no_gradient() -> None:
    source = _source()
    distiller = _distiller([_Diverges()], source)
    with pytest.raises(NonFiniteLossError):
        train(distiller, source, _config(), 1)
    assert distiller.step == 3
    assert all(parameter.grad is None for parameter in distiller.parameters())


class _Normed(nn.Module):
    """Batch normalisation of one value a sample, and a mask of infinities."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(3, 2), nn.BatchNorm1d(2)
        self.register_buffer("mask", torch.full((2,), -torch.inf))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.norm(self.layer(x))
        return logits


def _train_normed(samples: int) -> nn.Module:
    student = _Normed()
    data = TensorDataset(torch.rand(samples, 3), torch.arange(samples) % 2)
    with Distiller(None, student) as distiller:
        train(distiller, DatasetSource(data, "x"), TrainConfig(epochs=1, batch_size=4), 0)
    return student


def test_a_batch_that_is_too_small_for_batch_normalisation_is_one_line() -> None:
    with pytest.raises(RunError, match=r"given 1 sample\(s\).*choose train.batch_size"):
        _train_normed(5)


def test_a_buffer_that_was_infinite_before_is_no_ruined_weight() -> None:
    student = _train_normed(8)
    assert bool(student.get_buffer("mask").isinf().all())
