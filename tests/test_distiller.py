"""All losses of a batch in one call: sums, means, precision, memory, and what is left alone."""

import copy
import gc
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdcore.adapters import regressor
from kdcore.contract import Adapters, AuxiliaryLoss, Features, Setup, Shapes, State, Taps
from kdcore.distiller import Distiller, Losses
from kdcore.errors import (
    ConfigError,
    DataError,
    KdcoreError,
    ModelError,
    StrategyError,
    TapError,
    UserError,
)
from kdcore.hookspecs import hookimpl
from kdcore.losses import squared_error
from kdcore.strategy import Recommended, Strategy, StrategySettings
from kdcore.tasks import UNLABELLED, Classification, Counts, Task

SAMPLES, CLASSES = 11, 3
SHARES = (3, 2, 5, 1)  # of the samples, one micro-batch each


class Net(nn.Module):
    """Body and head, with dropout that is off, so that passes can be compared."""

    def __init__(self, width: int, classes: int = CLASSES) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, width), nn.Tanh())
        self.head = nn.Linear(width, classes)
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        logits: Tensor = self.head(self.body(x))
        return logits


class Match(Strategy):
    """A vector: squared error of the logits."""

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        return squared_error(student.logits, teacher.logits)


class Hint(Strategy):
    """A vector, through a trained adapter."""

    @hookimpl
    def extract_features(self) -> Taps:
        return Taps({"hint": "body"}, {"hint": "body"})

    @hookimpl
    def adapt_shapes(self, student: Shapes, teacher: Shapes) -> Adapters:
        return Adapters(student={"hint": regressor(student["hint"], teacher["hint"])})

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        return squared_error(student["hint"], teacher["hint"])


class Both(Strategy):
    """A mapping of a vector and a scalar."""

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Mapping[str, Tensor]:
        error = squared_error(student.logits, teacher.logits)
        return {"mean": error, "largest": error.max()}


class Gram(Strategy):
    """A scalar that relates samples; notes the types that it met."""

    seen: ClassVar[list[torch.dtype]] = []

    @hookimpl
    def extract_features(self) -> Taps:
        return Taps({"hidden": "body"}, {"hidden": "body"})

    @hookimpl
    def adapt_shapes(self) -> Adapters:
        return Adapters(teacher={"hidden": nn.Identity()})

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        own, other = student["hidden"], teacher["hidden"]
        grams = own @ own.T, other @ other.T
        for tensor in (own, other, student.logits, teacher.logits, *grams):
            self.seen.append(tensor.dtype)
        return (grams[0] - grams[1]).square().mean()


class Memory(Strategy):
    """Remembers each sample's logits, and a running mean, by index."""

    seen: ClassVar[list[list[float]]] = []

    @hookimpl
    def adapt_shapes(self, setup: Setup, student: Shapes) -> Adapters:
        bank = torch.zeros(setup.sample_count, student.logits[-1])
        return Adapters(state={"bank": bank, "writes": torch.zeros((), dtype=torch.int64)})

    @hookimpl
    def compute_auxiliary_loss(
        self, student: Features, state: State, indices: Tensor, generator: torch.Generator
    ) -> Tensor:
        self.seen.append(state["bank"].sum(1).tolist())
        noise = torch.rand(len(indices), generator=generator)
        state.write("bank", student.logits.detach() + 1, at=indices)
        state.write("writes", state["writes"] + 1)
        return (student.logits - state["bank"][indices]).square().mean(1) + noise


class Careful(Strategy):
    """Counts samples, with gradients off while it does."""

    @hookimpl
    def adapt_shapes(self) -> Adapters:
        return Adapters(state={"seen": torch.zeros(1)})

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, state: State) -> Tensor:
        with torch.no_grad():
            state.write("seen", state["seen"] + len(student.logits))
        return student.logits.mean(1)


class Careless(Strategy):
    """Changes something that it was only shown."""

    class Settings(StrategySettings):
        what: str

    settings: Settings

    @hookimpl
    def extract_features(self) -> Taps:
        return Taps({"hint": "body"}, {"hint": "body"})

    @hookimpl
    def adapt_shapes(self) -> Adapters:
        return Adapters(state={"mean": torch.zeros(1)})

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features, state: State) -> Tensor:
        shown = {
            "student": student["hint"],
            "teacher": teacher["hint"],
            "logits": teacher.logits,
            "state": state["mean"],
            "nothing": torch.zeros(1),
        }
        shown[self.settings.what].add_(1.0)
        return student.logits.mean(1)


class Told(Strategy):
    """Notes what it was told."""

    seen: ClassVar[list[tuple[str, int, int, list[int], list[int]]]] = []

    @hookimpl
    def compute_auxiliary_loss(
        self, student: Features, label: str, epoch: int, step: int, targets: Tensor
    ) -> Tensor:
        self.seen.append((label, epoch, step, list(student.logits.shape), targets.tolist()))
        return student.logits.square().mean(1)


class Weighed(Match):
    recommended = Recommended(0.3, 0.7, "a paper")


RETURNED: dict[str, Callable[[Tensor], Any]] = {}


class Returns(Strategy):
    """Returns what a test wants it to, made of the student's logits."""

    @hookimpl
    def compute_auxiliary_loss(self, student: Features) -> AuxiliaryLoss:
        loss: AuxiliaryLoss = RETURNED["loss"](student.logits)
        return loss


def _inputs(dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(SAMPLES, 4, generator=generator, dtype=torch.float64).to(dtype)


def _models(dtype: torch.dtype = torch.float32) -> tuple[Net, Net]:
    """Return a teacher and a student, the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return Net(7).to(dtype), Net(5).to(dtype)


def _targets() -> Tensor:
    """Return targets of which the second micro-batch has none, and the third few."""
    return torch.tensor([0, 2, UNLABELLED, UNLABELLED, UNLABELLED, 1, *[UNLABELLED] * 3, 0, 2])


def _distiller(*strategies: Any, dtype: torch.dtype = torch.float32, **options: Any) -> Distiller:
    teacher, student = _models(dtype)
    options = {"sample_input": _inputs(dtype), "setup": Setup(sample_count=SAMPLES), **options}
    return Distiller(teacher, student, strategies, **options)


def _split(tensor: Tensor, shares: Sequence[int] = SHARES) -> tuple[Tensor, ...]:
    return torch.split(tensor, list(shares))


def _value(tensor: Tensor) -> float:
    return float(tensor.detach())


def _backward(losses: Losses) -> None:
    torch.autograd.backward(losses.total)


def _gradients(distiller: Distiller) -> dict[str, Tensor]:
    return {
        name: parameter.grad.clone()
        for name, parameter in distiller.named_parameters()
        if parameter.grad is not None
    }


def _largest_difference(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def _hooks(*models: nn.Module) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for model in models
        for module in model.modules()
    )


class TestTotal:
    def test_it_is_the_weighted_sum_and_all_parts_are_logged_by_label(self) -> None:
        entries = [
            {"name": Match, "weight": 2.0},
            {"name": Match, "weight": 0.5, "label": "again"},
            {"name": Both, "weight": 3.0},
        ]
        losses = _distiller(*entries, dtype=torch.float64, task_weight=0.25)(
            _inputs(torch.float64), _targets()
        )
        weights = {"match": 2.0, "again": 0.5, "both.mean": 3.0, "both.largest": 3.0}
        assert losses.weights == weights
        assert list(losses.auxiliary) == list(weights)
        parts = [weights[label] * _value(value) for label, value in losses.auxiliary.items()]
        assert _value(losses.total) == pytest.approx(0.25 * _value(losses.task) + sum(parts), 1e-14)

    def test_each_part_is_what_its_formula_says_unweighted(self) -> None:
        x, targets = _inputs(torch.float64), _targets()
        teacher, student = _models(torch.float64)
        own, other = student(x).detach(), teacher(x).detach()
        error = (own - other).square().mean(1)
        losses = _distiller({"name": Both, "weight": 9.0}, dtype=torch.float64)(x, targets)
        assert _value(losses.auxiliary["both.mean"]) == pytest.approx(_value(error.mean()), 1e-14)
        assert _value(losses.auxiliary["both.largest"]) == pytest.approx(_value(error.max()), 1e-14)
        labelled = targets != UNLABELLED
        entropy = F.cross_entropy(own[labelled], targets[labelled])
        assert _value(losses.task) == pytest.approx(_value(entropy), 1e-14)

    def test_a_student_alone_has_its_task_alone(self) -> None:
        student = _models()[1]
        losses = Distiller(None, student, task_weight=0.5)(_inputs(), _targets())
        assert losses.auxiliary == losses.weights == {}
        assert _value(losses.total) == _value(losses.task) / 2

    def test_weights_that_are_not_given_are_those_of_the_paper(self) -> None:
        distiller = _distiller(Weighed)
        assert distiller.task_weight == 0.7
        assert distiller(_inputs()).weights == {"weighed": 0.3}
        assert _distiller(Weighed, task_weight=0.0).task_weight == 0.0

    @pytest.mark.parametrize("weight", [-0.1, float("inf"), float("nan")])
    def test_a_task_weight_that_is_no_weight_is_refused(self, weight: float) -> None:
        with pytest.raises(ConfigError, match="task_weight must be a number from 0"):
            _distiller(Match, task_weight=weight)

    def test_logits_are_handed_back_without_gradient(self) -> None:
        distiller = _distiller(Match)
        losses = distiller(_inputs())
        assert not losses.logits.requires_grad
        assert torch.equal(losses.logits, distiller.student(_inputs()))

    def test_a_student_without_logits_is_refused(self) -> None:
        class Scores(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = Net(5)

            def forward(self, x: Tensor) -> dict[str, Tensor]:
                return {"scores": self.net(x)}

        with pytest.raises(ModelError, match=r"output holds no logits.* got dict"):
            Distiller(None, Scores())(_inputs())


class TestMeans:
    """Over micro-batches of 3, 2, 5 and 1 samples, in double precision."""

    def _whole(self, distiller: Distiller) -> tuple[dict[str, Tensor], float]:
        losses = distiller(_inputs(torch.float64), _targets(), indices=torch.arange(SAMPLES))
        _backward(losses)
        return _gradients(distiller), _value(losses.total)

    def _in_parts(self, distiller: Distiller, counted: bool) -> tuple[dict[str, Tensor], float]:
        """Accumulate, dividing by the whole step's counts, or by the number of parts."""
        x, targets = _split(_inputs(torch.float64)), _split(_targets())
        parts = list(zip(x, targets, strict=True))
        task, total = Classification(), 0.0
        counts = task.count(0, torch.empty(0, dtype=torch.int64))
        for inputs, labels in parts:
            counts = counts + task.count(len(inputs), labels)
        for inputs, labels in parts:
            losses = distiller(inputs, labels, counts=counts if counted else None)
            loss = losses.total if counted else losses.total / len(parts)
            torch.autograd.backward(loss)
            total += _value(loss)
        return _gradients(distiller), total

    def test_accumulated_gradients_are_those_of_the_whole_batch(self) -> None:
        whole, total = self._whole(_distiller(Match, Hint, dtype=torch.float64))
        parts, summed = self._in_parts(_distiller(Match, Hint, dtype=torch.float64), counted=True)
        assert _largest_difference(whole, parts) < 1e-12
        assert summed == pytest.approx(total, abs=1e-12)

    def test_means_of_means_would_be_wrong(self) -> None:  # the control
        whole, total = self._whole(_distiller(Match, Hint, dtype=torch.float64))
        parts, summed = self._in_parts(_distiller(Match, Hint, dtype=torch.float64), counted=False)
        assert _largest_difference(whole, parts) > 1e-2
        assert abs(summed - total) > 1e-2

    def test_adapters_take_part_in_it(self) -> None:
        whole, _ = self._whole(_distiller(Hint, dtype=torch.float64))
        assert {name.partition(".")[0] for name in whole} == {"student", "strategies"}

    def test_a_scalar_counts_by_its_share_of_the_samples(self) -> None:
        x = _inputs(torch.float64)
        distiller = _distiller(Gram, dtype=torch.float64)
        counts = Counts(SAMPLES, SAMPLES, torch.tensor(0))
        for part in _split(x):
            alone = _value(distiller(part).auxiliary["gram"])
            share = _value(distiller(part, counts=counts).auxiliary["gram"])
            assert share == pytest.approx(alone * len(part) / SAMPLES, 1e-14)

    def test_a_sample_without_a_label_is_masked_from_the_task_and_not_from_the_strategies(
        self,
    ) -> None:
        x, targets = _inputs(torch.float64), _targets()
        distiller = _distiller(Match, dtype=torch.float64)
        labelled = targets != UNLABELLED
        whole, few = distiller(x, targets), distiller(x[labelled], targets[labelled])
        assert _value(whole.task) == pytest.approx(_value(few.task), 1e-14)
        error = squared_error(*(model(x) for model in reversed(_models(torch.float64))))
        assert _value(whole.auxiliary["match"]) == pytest.approx(_value(error.mean()), 1e-14)
        assert _value(few.auxiliary["match"]) == pytest.approx(
            _value(error[labelled].mean()), 1e-14
        )

    @pytest.mark.parametrize("targets", [None, torch.full((SAMPLES,), UNLABELLED)])
    def test_a_batch_without_any_label_has_no_task_loss_and_finite_gradients(
        self, targets: Tensor | None
    ) -> None:
        distiller = _distiller(Match)
        losses = distiller(_inputs(), targets)
        _backward(losses)
        assert _value(losses.task) == 0
        assert _value(losses.total) == _value(losses.auxiliary["match"].detach()) > 0
        assert all(
            bool(torch.isfinite(gradient).all()) for gradient in _gradients(distiller).values()
        )

    def test_pytorchs_own_mean_of_no_labels_is_no_number(self) -> None:  # the control
        logits = torch.zeros(2, 3)
        assert bool(F.cross_entropy(logits, torch.full((2,), UNLABELLED)).isnan())


class Tokens(Task):
    """Predicts at every position; rows are the positions that have a target."""

    kind = "tokens"

    def count(self, samples: int, targets: Tensor) -> Counts:
        labelled = (targets != UNLABELLED).sum()
        return Counts(samples, int(labelled), labelled)

    def rows(self, logits: Tensor, targets: Tensor) -> Tensor:
        return logits[targets != UNLABELLED]

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")

    def tally(self, logits: Tensor, targets: Tensor) -> Tensor:
        raise NotImplementedError

    def scores(self, tally: Tensor) -> dict[str, float]:
        raise NotImplementedError


class TestRows:
    """A task with more predictions than samples: sequences of four positions, some masked."""

    def _run(self, shares: Sequence[int]) -> tuple[dict[str, Tensor], dict[str, float]]:
        x = torch.randn(6, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        mask = torch.rand(6, 4, generator=torch.Generator().manual_seed(2)) < 0.6
        targets = torch.where(mask, torch.arange(24).reshape(6, 4) % CLASSES, UNLABELLED)
        distiller = _distiller(Match, Told, dtype=torch.float64, task=Tokens(), sample_input=x)
        counts = Tokens().count(len(x), targets)
        sums: dict[str, float] = {}
        for part, labels in zip(_split(x, shares), _split(targets, shares), strict=True):
            losses = distiller(part, labels, counts=counts)
            _backward(losses)
            for label, value in {"task": losses.task, **losses.auxiliary}.items():
                sums[label] = sums.get(label, 0.0) + _value(value)
        return _gradients(distiller), sums

    def test_methods_see_rows_and_their_mean_is_over_the_rows_of_the_step(self) -> None:
        Told.seen.clear()
        whole, sums = self._run([6])
        rows = Told.seen[0][3][0]
        assert 6 < rows < 24
        assert Told.seen[0][3] == [rows, CLASSES]
        parts, summed = self._run([1, 3, 2])
        assert _largest_difference(whole, parts) < 1e-12
        assert summed == pytest.approx(sums, abs=1e-12)


class TestTeacher:
    def test_it_is_untouched_by_training_and_frozen_until_it_is_closed(self) -> None:
        teacher, student = _models()
        teacher.head.bias.requires_grad_(False)
        teacher.head.weight.grad = torch.ones(CLASSES, 7)
        teacher.body.eval()
        modes = [module.training for module in teacher.modules()]
        flags = [parameter.requires_grad for parameter in teacher.parameters()]
        weights = copy.deepcopy(teacher.state_dict())
        started = copy.deepcopy(student.state_dict())
        distiller = Distiller(teacher, student, [Match, Hint], sample_input=_inputs())
        for _ in range(3):
            distiller.zero_grad()
            distiller.train()
            _backward(distiller(_inputs(), _targets()))
            with torch.no_grad():
                for parameter in distiller.parameters():
                    if parameter.grad is not None:
                        parameter.sub_(0.1 * parameter.grad)
            distiller.advance()
            assert not any(module.training for module in teacher.modules())
        assert _largest_difference(weights, teacher.state_dict()) == 0
        assert _largest_difference(started, student.state_dict()) > 0.01  # the control
        assert [parameter.requires_grad for parameter in teacher.parameters()] == flags
        assert torch.equal(teacher.head.weight.grad, torch.ones(CLASSES, 7))
        assert teacher.body[0].weight.grad is None
        distiller.close()
        assert [module.training for module in teacher.modules()] == modes

    def test_it_is_no_part_of_parameters_modules_or_state_dict(self) -> None:
        teacher, student = _models()
        distiller = Distiller(teacher, student, [Match, Hint], sample_input=_inputs())
        own = {id(parameter) for parameter in teacher.parameters()}
        assert not own & {id(parameter) for parameter in distiller.parameters()}
        assert teacher not in set(distiller.modules())
        saved = {name: value for name, value in distiller.state_dict().items() if name[0] != "_"}
        assert {name.partition(".")[0] for name in saved} == {"student", "strategies"}
        memory = {tensor.data_ptr() for tensor in teacher.parameters()}
        assert not memory & {tensor.data_ptr() for tensor in saved.values()}

    def test_it_may_be_told_instead_of_asked(self) -> None:
        teacher, student = _models()
        distiller = Distiller(teacher, student, [Match, Hint], sample_input=_inputs())
        signals = distiller.teacher_signals(_inputs())
        asked, passes = distiller(_inputs()).auxiliary, teacher.passes
        told = distiller(_inputs(), signals=signals).auxiliary
        assert teacher.passes == passes
        assert {k: _value(v) for k, v in told.items()} == {k: _value(v) for k, v in asked.items()}

    def test_it_may_be_given_something_else_than_the_student(self) -> None:
        teacher, student = _models()
        distiller = Distiller(teacher, student, [Match], sample_input=_inputs())
        losses = distiller(_inputs(), teacher_inputs=2 * _inputs())
        expected = squared_error(student(_inputs()), teacher(2 * _inputs())).mean()
        assert _value(losses.auxiliary["match"]) == pytest.approx(_value(expected), 1e-6)

    def test_it_runs_once_a_batch_however_many_strategies_share_it(self) -> None:
        teacher, student = _models()
        strategies: list[Any] = [Match, Hint, {"name": Hint, "label": "again"}, Gram]
        distiller = Distiller(teacher, student, strategies, sample_input=_inputs())
        teacher.passes = student.passes = 0
        distiller(_inputs())
        assert (teacher.passes, student.passes) == (1, 1)

    def test_a_student_that_shares_weights_with_it_is_refused(self) -> None:
        teacher, student = _models()
        teacher.body = student.body
        with pytest.raises(ModelError, match="share weights"):
            Distiller(teacher, student, [Match], sample_input=_inputs())

    def test_one_that_is_given_other_samples_is_refused(self) -> None:
        distiller = _distiller(Match)
        with pytest.raises(DataError, match=r"batch has 11 samples, teacher was given .* 10"):
            distiller(_inputs(), teacher_inputs=_inputs()[:10])

    def test_one_that_nobody_learns_from_is_refused_and_none_is_legal(self) -> None:
        teacher, student = _models()
        with pytest.raises(ConfigError, match="no strategy learns from 'teacher'"):
            Distiller(teacher, student)
        assert Distiller(None, student).members == ()


class TestTeachers:
    def _two(self, *strategies: Any) -> tuple[Distiller, dict[str, Net], Net]:
        teachers, student = {"small": _models()[0], "large": Net(9)}, _models()[1]
        return Distiller(teachers, student, strategies, sample_input=_inputs()), teachers, student

    def test_each_strategy_learns_from_its_own(self) -> None:
        distiller, teachers, student = self._two(
            {"name": Match, "teacher": "large"}, {"name": Match, "teacher": "small", "label": "s"}
        )
        losses = distiller(_inputs())
        x = _inputs()
        for label, name in (("match", "large"), ("s", "small")):
            expected = squared_error(student(x), teachers[name](x)).mean()
            assert _value(losses.auxiliary[label]) == pytest.approx(_value(expected), 1e-6)

    def test_all_is_one_instance_a_teacher_with_the_weight_shared(self) -> None:
        distiller, _, _ = self._two({"name": Hint, "teacher": "all", "weight": 3.0})
        losses = distiller(_inputs())
        assert losses.weights == {"hint@small": 1.5, "hint@large": 1.5}
        shapes = [tuple(p.shape) for p in distiller.strategies.parameters() if p.ndim == 2]
        assert shapes == [(7, 5), (9, 5)]

    def test_which_one_must_be_said_where_there_are_several(self) -> None:
        with pytest.raises(ConfigError, match="does not say which teacher it learns from"):
            self._two(Match)

    def test_one_that_nobody_learns_from_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="no strategy learns from 'small'"):
            self._two({"name": Match, "teacher": "large"})

    def test_one_model_under_two_names_is_put_back_into_its_mode(self) -> None:
        teacher, student = _models()
        strategies = [{"name": Match, "teacher": "all"}]
        with Distiller({"a": teacher, "b": teacher}, student, strategies, sample_input=_inputs()):
            assert not teacher.training
        assert all(module.training for module in teacher.modules())
        assert _hooks(teacher, student) == 0


class TestStart:
    def test_adapters_change_neither_the_students_weights_nor_the_global_stream(self) -> None:
        teacher, student = _models()
        weights = copy.deepcopy(student.state_dict())
        before = torch.get_rng_state()
        Distiller(teacher, student, [Hint, Match, Gram], sample_input=_inputs())
        assert torch.equal(before, torch.get_rng_state())
        assert _largest_difference(weights, student.state_dict()) == 0
        regressor(torch.Size([2, 5]), torch.Size([2, 7]))  # the control
        assert not torch.equal(before, torch.get_rng_state())

    def test_adapters_are_among_the_parameters_and_learn(self) -> None:
        distiller = _distiller(Hint)
        adapters = list(distiller.strategies.parameters())
        assert [tuple(parameter.shape) for parameter in adapters] == [(7, 5), (7,)]
        own = {id(parameter) for parameter in distiller.parameters()}
        assert {id(parameter) for parameter in adapters} < own
        _backward(distiller(_inputs()))
        assert all(p.grad is not None and bool(p.grad.any()) for p in adapters)

    def test_what_each_strategy_looks_at_is_told(self) -> None:
        ((member, student, teacher),) = _distiller(Hint).tapped()
        assert member.label == "hint"
        assert student == ["hint: body [5] -> Linear, 42 trained parameters"]
        assert teacher == ["hint: body [7]"]

    def test_the_optimizers_step_and_the_epoch_are_told(self) -> None:
        Told.seen.clear()
        distiller = _distiller({"name": Told, "label": "told"})
        distiller(_inputs()[:2], torch.tensor([1, UNLABELLED]))
        distiller.advance()
        distiller.epoch = 4
        distiller(_inputs()[:1])
        assert Told.seen == [
            ("told", 0, 0, [2, CLASSES], [1, UNLABELLED]),
            ("told", 4, 1, [1, CLASSES], [UNLABELLED]),
        ]


class TestPrecision:
    def test_a_double_student_has_double_adapters_features_and_losses(self) -> None:
        Gram.seen.clear()
        distiller = _distiller(Hint, Gram, dtype=torch.float64)
        losses = distiller(_inputs(torch.float64))
        assert {p.dtype for p in distiller.strategies.parameters()} == {torch.float64}
        assert set(Gram.seen) == {torch.float64}
        assert losses.total.dtype == torch.float64

    @pytest.mark.parametrize("of_teacher", [torch.float64, torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("of_student", [torch.float64, torch.float32, torch.bfloat16])
    def test_models_of_different_precision_meet_in_the_students_full_one(
        self, of_student: torch.dtype, of_teacher: torch.dtype
    ) -> None:
        Gram.seen.clear()
        teacher, student = _models()
        teacher, student = teacher.to(of_teacher), student.to(of_student)
        own, other = _inputs(of_student), _inputs(of_teacher)
        distiller = Distiller(
            teacher, student, [Hint, Gram], sample_input=own, teacher_sample_input=other
        )
        losses = distiller(own, teacher_inputs=other)
        _backward(losses)
        expected = torch.float64 if of_student == torch.float64 else torch.float32
        assert set(Gram.seen) == {expected}
        assert losses.total.dtype == losses.logits.dtype == expected
        assert {p.dtype for p in student.parameters()} == {of_student}
        assert {p.dtype for p in teacher.parameters()} == {of_teacher}

    def test_under_autocast_features_and_what_is_computed_of_them_are_single(self) -> None:
        Gram.seen.clear()
        distiller = _distiller(Gram, Hint)
        kinds: list[torch.dtype] = []
        distiller.student.get_submodule("head").register_forward_hook(
            lambda _, __, output: kinds.append(output.dtype)
        )
        with torch.autocast("cpu", torch.bfloat16):
            losses = distiller(_inputs(), _targets())
            x = torch.ones(2, 2)
            kinds.append((x @ x.T).dtype)
        _backward(losses)
        assert kinds == [torch.bfloat16, torch.bfloat16]  # the control: autocast was on
        assert set(Gram.seen) == {torch.float32}
        assert losses.logits.dtype == losses.total.dtype == losses.task.dtype == torch.float32
        assert {p.grad.dtype for p in distiller.parameters() if p.grad is not None} == {
            torch.float32
        }


class TestMoving:
    def test_everything_that_a_run_holds_moves_with_it(self) -> None:
        teacher, student = _models()
        setup = Setup(sample_count=SAMPLES, targets=torch.zeros(SAMPLES, dtype=torch.int64))
        distiller = Distiller(teacher, student, [Memory, Hint], sample_input=_inputs(), setup=setup)
        # The meta device has no random streams; the streams' move needs an accelerator.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("kdcore.assembly.stream", lambda *_, **__: torch.Generator())
            distiller.to("meta")
        assert distiller.device.type == "meta"
        state = distiller.get_extra_state()["state"]["memory"]
        tensors = [*teacher.parameters(), *distiller.parameters(), *state.values()]
        assert {tensor.device.type for tensor in tensors} == {"meta"}

    def test_its_precision_stays_as_it_was_settled(self) -> None:
        distiller = _distiller(Hint)
        with pytest.raises(ModelError, match=r"stays torch\.float32: convert student and teacher"):
            distiller.double()
        assert distiller.to(torch.float32) is distiller
        assert {p.dtype for p in distiller.parameters()} == {torch.float32}
        _backward(distiller(_inputs()))


class TestMemory:
    def _step(self, distiller: Distiller, *batches: list[int]) -> None:
        for batch in batches:
            indices = torch.tensor(batch)
            _backward(distiller(_inputs()[indices], indices=indices))
        distiller.advance()

    def test_all_micro_batches_of_a_step_read_the_same_and_writes_come_with_it(self) -> None:
        Memory.seen.clear()
        distiller = _distiller(Memory)
        self._step(distiller, [0, 4], [4, 7])
        self._step(distiller, [1])
        first, second, third = Memory.seen
        assert first == second == [0.0] * SAMPLES
        logits = distiller.student(_inputs())
        expected = [
            _value((logits[i] + 1).sum()) if i in (0, 4, 7) else 0.0 for i in range(SAMPLES)
        ]
        assert third == pytest.approx(expected, abs=1e-5)

    def test_writes_replace_each_other_within_a_step(self) -> None:
        distiller = _distiller(Memory)
        self._step(distiller, [0], [1], [2])
        state = distiller.get_extra_state()["state"]["memory"]
        assert int(state["writes"]) == 1
        assert distiller.step == 1

    def test_a_method_that_asks_for_indices_is_not_given_invented_ones(self) -> None:
        distiller = _distiller(Memory)
        with pytest.raises(UserError, match=r"strategy 'memory' asks for indices: pass indices="):
            distiller(_inputs())
        _distiller(Match)(_inputs())  # who does not ask needs none

    def test_what_it_needs_to_know_and_nobody_said_is_an_error(self) -> None:
        with pytest.raises(KdcoreError, match=r"needs setup\.sample_count, which is not known"):
            _distiller(Memory, setup=None)

    def test_memory_is_written_under_no_grad_within_the_loss(self) -> None:
        distiller = _distiller(Careful)
        self._step(distiller, [0, 4])
        assert distiller.get_extra_state()["state"]["careful"]["seen"].tolist() == [2.0]

    def test_evaluating_leaves_the_memory_and_the_writes_of_training_alone(self) -> None:
        distiller = _distiller(Memory)
        indices = torch.tensor([0, 4])
        _backward(distiller(_inputs()[indices], indices=indices))
        with torch.no_grad():
            distiller(_inputs(), indices=torch.arange(SAMPLES))
        distiller.advance()
        bank = distiller.get_extra_state()["state"]["memory"]["bank"]
        assert bank.abs().sum(1).nonzero().flatten().tolist() == [0, 4]

    @pytest.mark.parametrize("what", ["student", "teacher", "logits", "state"])
    def test_a_loss_that_changes_in_place_what_others_read_is_refused(self, what: str) -> None:
        distiller = _distiller({"name": Careless, "what": what})
        with pytest.raises(StrategyError, match=r"^strategy 'careless'.* in place, which others"):
            distiller(_inputs())

    def test_one_that_changes_nothing_is_legal(self) -> None:
        _backward(_distiller({"name": Careless, "what": "nothing"})(_inputs()))

    def _trained(self) -> Distiller:
        distiller = _distiller(Memory, Hint, seed=1)
        distiller.epoch = 2
        self._step(distiller, [0, 4], [4, 7])
        self._step(distiller, [3])
        return distiller

    def _saved(self, distiller: Distiller) -> dict[str, Any]:
        file = io.BytesIO()
        torch.save(distiller.state_dict(), file)
        file.seek(0)
        saved: dict[str, Any] = torch.load(file, weights_only=True)
        return saved

    def test_it_is_saved_and_restored_bit_for_bit_with_everything_that_learns(self) -> None:
        trained, resumed = self._trained(), _distiller(Memory, Hint, seed=2)
        resumed.load_state_dict(self._saved(trained))
        one, other = trained.get_extra_state(), resumed.get_extra_state()
        assert (other["epoch"], other["step"]) == (2, 2)
        bank = other["state"]["memory"]["bank"]
        assert torch.equal(one["state"]["memory"]["bank"], bank)
        assert bank[[0, 3, 4, 7]].abs().sum(1).min() > 0
        assert int(other["state"]["memory"]["writes"]) == 2
        weights = dict(resumed.named_parameters())
        for name, parameter in trained.named_parameters():
            assert torch.equal(parameter, weights[name]), name

    def test_a_resumed_run_goes_on_with_the_same_bits(self) -> None:
        trained, resumed = self._trained(), _distiller(Memory, Hint, seed=2)
        resumed.load_state_dict(self._saved(trained))
        for distiller in (trained, resumed):
            distiller.zero_grad()
        indices = torch.arange(SAMPLES)
        losses = [d(_inputs(), _targets(), indices=indices) for d in (trained, resumed)]
        fresh = _distiller(Memory, Hint, seed=2)(_inputs(), _targets(), indices=indices)
        assert torch.equal(losses[0].total, losses[1].total)
        assert not torch.equal(losses[0].total, fresh.total)  # the control
        for one in losses:
            _backward(one)
        assert _largest_difference(_gradients(trained), _gradients(resumed)) == 0

    def test_memory_of_another_shape_is_refused(self) -> None:
        other = _distiller(Memory, Hint, setup=Setup(sample_count=SAMPLES + 1))
        with pytest.raises(StrategyError, match=r"saved state 'bank' is \[11, 3\]"):
            other.load_state_dict(self._saved(self._trained()))


WRONG: list[tuple[str, Callable[[Tensor], Any]]] = [
    (r"is \[11, 3\]; return one value a sample \[11\]", lambda logits: logits.square()),
    (r"is \[11, 1\]; return one value", lambda logits: logits.mean(1, keepdim=True)),
    (r"is \[1\]; return one value", lambda logits: logits.mean().reshape(1)),
    (r"is \[10\]; return one value", lambda logits: logits.mean(1)[:10]),
    (r"is \[3\]; return one value", lambda logits: logits.mean(0)),
    (r"the loss 'returns' has no gradient; it must depend", lambda _: torch.ones(SAMPLES)),
    (r"has no gradient", lambda logits: logits.detach().mean()),
    (r"the loss 'returns' is float; return a floating tensor", lambda logits: logits.mean().item()),
    (r"is torch\.int64; return a floating tensor", lambda logits: logits.argmax(1)),
    (r"returned an empty mapping", lambda _: {}),
    (r"compute_auxiliary_loss returned nothing", lambda _: None),
    (
        r"the loss 'returns.b' has no gradient",
        lambda logits: {"a": logits.mean(), "b": logits[0, 0].detach()},
    ),
    (
        r"failed in epoch 0, step 0 \(test_distiller\.py, line \d+\): ZeroDivisionError",
        lambda _: 1 / 0,
    ),
]
LEGAL: list[Callable[[Tensor], AuxiliaryLoss]] = [
    lambda logits: logits.mean(1),
    lambda logits: logits.mean(),
    lambda logits: {"a": logits.mean(), "b": logits.square().mean(1)},
]


class TestRefused:
    @pytest.mark.parametrize(("words", "loss"), WRONG, ids=[words for words, _ in WRONG])
    def test_what_is_no_loss_of_the_student_names_the_strategy(
        self, words: str, loss: Callable[[Tensor], Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(RETURNED, "loss", loss)
        distiller = _distiller(Returns)
        with pytest.raises(StrategyError, match=rf"^strategy 'returns' \(Returns, .*{words}"):
            distiller(_inputs())

    @pytest.mark.parametrize("loss", LEGAL)
    def test_a_vector_a_scalar_and_a_mapping_of_either_are_legal(
        self, loss: Callable[[Tensor], AuxiliaryLoss], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(RETURNED, "loss", loss)
        _backward(_distiller(Returns)(_inputs()))

    def test_without_gradients_a_loss_needs_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(RETURNED, "loss", lambda logits: logits.mean(1))
        with torch.no_grad():
            losses = _distiller(Returns)(_inputs())
        assert not losses.total.requires_grad

    def test_a_weight_of_zero_logs_what_nothing_learns_from(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(RETURNED, "loss", lambda _: torch.full((SAMPLES,), 2.5))
        losses = _distiller({"name": Returns, "weight": 0.0})(_inputs(), _targets())
        assert _value(losses.auxiliary["returns"]) == 2.5
        assert _value(losses.total) == _value(losses.task)

    def test_a_label_that_pytorch_has_a_use_for_is_refused_and_leaves_no_hooks(self) -> None:
        teacher, student = _models()
        with pytest.raises(ConfigError, match="'keys'"):
            Distiller(teacher, student, [{"name": Hint, "label": "keys"}], sample_input=_inputs())
        assert _hooks(teacher, student) == 0

    def test_without_a_sample_it_is_said_how_to_give_one(self) -> None:
        teacher, student = _models()
        with pytest.raises(ModelError, match=r"pass sample_input="):
            Distiller(teacher, student, [Hint])


class Trips(Net):
    """Fails in its head when it is told to."""

    trip = False

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        if self.trip:
            raise ZeroDivisionError
        return logits


class TestHooks:
    def _running(self) -> tuple[Distiller, Net, Net]:
        teacher, student = _models()
        distiller = Distiller(teacher, student, [Hint], sample_input=_inputs())
        assert _hooks(student) == _hooks(teacher) == 1
        return distiller, teacher, student

    def test_closing_takes_them_off_and_may_be_done_twice(self) -> None:
        distiller, teacher, student = self._running()
        distiller(_inputs())
        distiller.close()
        assert _hooks(teacher, student) == 0
        assert teacher.training
        teacher.eval()
        distiller.close()
        assert not teacher.training  # what happens after it is closed is not its own

    def test_leaving_the_block_takes_them_off_after_an_exception_too(self) -> None:
        teacher, student = Trips(7), Trips(5)
        distiller = Distiller(teacher, student, [Hint], sample_input=_inputs())
        student.trip = True
        with pytest.raises(ZeroDivisionError), distiller:
            distiller(_inputs())
        assert _hooks(teacher, student) == 0

    def test_forgetting_the_distiller_takes_them_off(self) -> None:
        distiller, teacher, student = self._running()
        losses = distiller(_inputs())
        del distiller
        gc.collect()
        assert _hooks(teacher, student) == 0
        assert teacher.training
        _backward(losses)

    @pytest.mark.parametrize("which", ["student", "teacher"])
    def test_an_exception_in_a_model_leaves_a_distiller_that_works(self, which: str) -> None:
        models = {"teacher": Trips(7), "student": Trips(5)}
        distiller = Distiller(models["teacher"], models["student"], [Hint], sample_input=_inputs())
        expected = _value(distiller(_inputs()).total)
        models[which].trip = True
        with pytest.raises(ZeroDivisionError):
            distiller(_inputs())
        models[which].trip = False
        assert _value(distiller(_inputs()).total) == expected
        distiller.close()
        assert _hooks(*models.values()) == 0

    def test_a_set_up_that_fails_leaves_none(self) -> None:
        teacher, student = _models()
        with pytest.raises(TapError, match="unknown module 'neck'"):
            Distiller(teacher, student, [Hint, Necks], sample_input=_inputs())
        assert _hooks(teacher, student) == 0
        assert teacher.training

    def test_the_student_may_run_on_its_own_between_the_steps(self) -> None:
        distiller, _, student = self._running()
        expected = _value(distiller(_inputs()).total)
        student.eval()
        with torch.no_grad():
            student(_inputs())
            student(3 * _inputs())
        student.train()
        assert _value(distiller(_inputs()).total) == expected

    def test_two_distillers_on_one_student_do_not_meet(self) -> None:
        teacher, student = _models()
        one = Distiller(teacher, student, [Hint], sample_input=_inputs())
        other = Distiller(Net(9), student, [Hint], sample_input=_inputs())
        expected = _value(other(_inputs()).total)
        one.close()
        assert _value(other(_inputs()).total) == expected
        assert _hooks(student) == 1

    def test_the_student_leaves_as_it_came(self) -> None:
        distiller, _, student = self._running()
        _backward(distiller(_inputs()))
        distiller.close()
        assert type(student) is Net
        assert student.state_dict().keys() == Net(5).state_dict().keys()
        assert vars(student).keys() == vars(Net(5)).keys()
        assert torch.equal(copy.deepcopy(student)(_inputs()), student(_inputs()))


class Necks(Hint):
    @hookimpl
    def extract_features(self) -> Taps:
        return Taps({"hint": "neck"}, {"hint": "body"})
