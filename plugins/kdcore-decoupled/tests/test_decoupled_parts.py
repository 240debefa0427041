"""Both parts against the formulas of Zhao et al. 2022, written out in numpy's float64."""

import copy

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

import kdcore
from kdcore import Distiller, Features
from kdcore.errors import ConfigError, ModelError, StrategyError
from kdcore.testing import StrategyTests
from kdcore_decoupled import Decoupled

Array = NDArray[np.float64]


class TestConformance(StrategyTests):
    strategy = "decoupled"


class TestConformanceOfOtherSettings(StrategyTests):
    strategy = "decoupled"
    settings = {"alpha": 0.5, "beta": 2.0, "temperature": 1.0}  # noqa: RUF012


def _parts(
    student: Tensor, teacher: Tensor, targets: Tensor, **settings: float
) -> tuple[Tensor, Tensor]:
    parts = Decoupled(**settings).compute_auxiliary_loss(
        student=Features({}, student), teacher=Features({}, teacher), targets=targets
    )
    assert set(parts) == {"target", "nontarget"}
    return parts["target"], parts["nontarget"]


def _loss(student: Tensor, teacher: Tensor, targets: Tensor, **settings: float) -> Tensor:
    target, nontarget = _parts(student, teacher, targets, **settings)
    return target + nontarget


def _sample(classes: int = 5, scale: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = scale * torch.randn(2, 4, classes, generator=generator).double()
    return student, teacher, torch.arange(4) % classes


def _softened(logits: Array, temperature: float) -> Array:
    exponentials = np.exp(logits / temperature)
    softened: Array = exponentials / exponentials.sum()
    return softened


def _expected(v: Array, z: Array, label: int, temperature: float) -> tuple[float, float]:
    """Return ``TCKD`` and ``NCKD`` of one row."""
    p, q = _softened(v, temperature), _softened(z, temperature)
    tckd = p[label] * np.log(p[label] / q[label])
    tckd += (1 - p[label]) * np.log((1 - p[label]) / (1 - q[label]))
    nckd = 0.0
    for i in range(len(p)):
        if i != label:
            others_p, others_q = p[i] / (1 - p[label]), q[i] / (1 - q[label])
            nckd += others_p * np.log(others_p / others_q)
    return float(tckd), nckd


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 8.0), (0.5, 2.0), (0.0, 1.0)])
def test_it_is_the_formula_row_by_row(temperature: float, alpha: float, beta: float) -> None:
    student, teacher, targets = _sample()
    target, nontarget = _parts(
        student, teacher, targets, alpha=alpha, beta=beta, temperature=temperature
    )
    for row, label in enumerate(targets.tolist()):
        tckd, nckd = _expected(teacher[row].numpy(), student[row].numpy(), label, temperature)
        assert target[row].item() == pytest.approx(temperature**2 * alpha * tckd, rel=1e-10)
        assert nontarget[row].item() == pytest.approx(temperature**2 * beta * nckd, rel=1e-10)


def test_weighted_by_what_the_teacher_leaves_to_the_others_it_is_soft_targets() -> None:
    # Zhao et al. 2022, equation 6: KD = TCKD + (1 - p_t) NCKD, with the teacher's p_t.
    student, teacher, targets = _sample()
    tckd, nckd = _parts(student, teacher, targets, alpha=1.0, beta=1.0, temperature=1.0)
    p_t = teacher.softmax(1).gather(1, targets[:, None]).squeeze(1)
    soft = F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="none").sum(1)
    assert torch.allclose(tckd + (1 - p_t) * nckd, soft, rtol=1e-10)


def test_its_gradient_is_that_of_its_value() -> None:
    student, teacher, targets = _sample()
    assert torch.autograd.gradcheck(lambda z: _parts(z, teacher, targets), student.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_zero_at_equality_with_its_gradient(dtype: torch.dtype) -> None:
    logits, _, targets = _sample()
    student = logits.to(dtype).requires_grad_()
    loss = _loss(student, student.detach(), targets)
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert loss.tolist() == [0.0] * 4
    assert float(gradient.abs().max()) < 100 * torch.finfo(dtype).eps


def test_adding_a_constant_to_the_logits_changes_nothing() -> None:
    student, teacher, targets = _sample()
    shifted = _loss(student + 7.0, teacher - 3.0, targets)
    assert torch.allclose(shifted, _loss(student, teacher, targets), rtol=1e-10)


def test_scaling_logits_and_temperature_scales_it_by_the_square() -> None:
    student, teacher, targets = _sample()
    scaled = _loss(3 * student, 3 * teacher, targets, temperature=6.0)
    assert torch.allclose(scaled, 9 * _loss(student, teacher, targets, temperature=2.0), rtol=1e-10)


def test_the_labels_logit_is_no_part_of_what_is_said_of_the_others() -> None:
    student, teacher, targets = _sample()
    raised = teacher + 5.0 * F.one_hot(targets, 5)
    before, after = (_parts(student, v, targets) for v in (teacher, raised))
    assert torch.allclose(before[1], after[1], rtol=1e-12)
    assert not torch.isclose(before[0], after[0], rtol=1e-2).any()


def test_the_order_of_the_other_classes_is_no_part_of_what_is_said_of_the_label() -> None:
    student, teacher, _ = _sample()
    targets = torch.zeros(4, dtype=torch.int64)
    shuffled = student[:, [0, 4, 2, 1, 3]]
    before, after = (_parts(z, teacher, targets) for z in (student, shuffled))
    assert torch.allclose(before[0], after[0], rtol=1e-12)
    assert not torch.isclose(before[1], after[1], rtol=1e-2).any()


def test_with_two_classes_there_is_nothing_to_say_of_the_others() -> None:
    student, teacher, targets = _sample(classes=2)
    student.requires_grad_()
    target, nontarget = _parts(student, teacher, targets, temperature=1.0, alpha=1.0)
    assert nontarget.tolist() == [0.0] * 4
    (gradient,) = torch.autograd.grad(nontarget.sum(), student, retain_graph=True)
    assert not gradient.any()
    soft = F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="none").sum(1)
    assert torch.allclose(target, soft, rtol=1e-10)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("gap", [1e3, 1e4])
def test_it_is_finite_where_one_class_leads_by_far(temperature: float, gap: float) -> None:
    leading = torch.tensor([[gap, 0.0, 1.0], [0.0, gap, 1.0]])
    even = torch.tensor([[1.0, 2.0, 3.0], [2.0, 1.0, 3.0]])
    targets = torch.tensor([0, 0])
    for z, teacher in ((leading, even), (even, leading), (leading, leading.flip(0))):
        student = z.clone().requires_grad_()
        target, nontarget = _parts(student, teacher, targets, temperature=temperature)
        (gradient,) = torch.autograd.grad((target + nontarget).sum(), student)
        assert bool(target.isfinite().all())
        assert bool(nontarget.isfinite().all())
        assert bool(gradient.isfinite().all())


def test_logarithms_of_probabilities_are_not_finite_there() -> None:
    # What is compared of the label, of the same logits, without a log-sum-exp.
    z, v = torch.tensor([1e3, 0.0, 1.0]), torch.tensor([1.0, 2.0, 3.0])
    p, q = v.softmax(0)[0], z.softmax(0)[0]
    naive = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    assert not bool(naive.isfinite())
    # The answer: the student gives the others e**-999 and e**-1000 of its probability.
    found, _ = _parts(z[None], v[None], torch.tensor([0]), temperature=1.0)
    expected = float(p * p.log() + (1 - p) * ((1 - p).log() + 999 - np.log1p(np.exp(-1.0))))
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_a_label_that_leads_by_more_than_a_thousand_still_does_not_count() -> None:
    student, teacher, _ = _sample()
    targets = torch.zeros(4, dtype=torch.int64)
    lead = torch.tensor([5000.0, 0.0, 0.0, 0.0, 0.0])
    ahead = _parts(student, teacher + lead, targets, temperature=1.0)[1]
    assert torch.allclose(ahead, _parts(student, teacher, targets, temperature=1.0)[1], rtol=1e-9)
    # With a thousand subtracted the label would still be all that counts.
    subtracted = teacher + lead - 1000.0 * F.one_hot(targets, 5)
    assert bool((subtracted.softmax(1)[:, 0] == 1).all())


def test_rows_without_a_label_give_zero_and_have_no_gradient() -> None:
    student, teacher, targets = _sample()
    student.requires_grad_()
    some = targets.where(torch.tensor([True, False, True, False]), torch.tensor(-100))
    loss = _loss(student, teacher, some)
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    whole = _loss(student, teacher, targets)
    assert loss.tolist() == [whole[0].item(), 0.0, whole[2].item(), 0.0]
    assert not gradient[1].any()
    assert not gradient[3].any()
    assert bool(gradient[0].any())


def test_in_a_run_both_parts_are_named_and_added() -> None:
    torch.manual_seed(0)
    student, teacher = nn.Linear(3, 4).double(), nn.Linear(3, 4).double()
    inputs, targets = torch.randn(6, 3).double(), torch.tensor([0, 1, 2, 3, -100, 0])
    with Distiller(teacher, student, ["decoupled"], sample_input=inputs) as distiller:
        losses = distiller(inputs, targets)
    expected = _parts(student(inputs), teacher(inputs), targets)
    found = losses.auxiliary
    assert set(found) == {"decoupled.target", "decoupled.nontarget"}
    assert found["decoupled.target"].item() == pytest.approx(expected[0].mean().item())
    assert found["decoupled.nontarget"].item() == pytest.approx(expected[1].mean().item())
    total = losses.task + found["decoupled.target"] + found["decoupled.nontarget"]
    assert losses.total.item() == pytest.approx(total.item())


@pytest.mark.parametrize(
    "settings",
    [{"alpha": -1.0}, {"beta": -0.1}, {"temperature": 0}, {"temperature": -1}, {"beta": "much"}],
)
def test_settings_out_of_bounds_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        Decoupled(**settings)


def test_models_of_other_classes_are_refused() -> None:
    with pytest.raises(ModelError, match="student has 3 classes and the teacher 4"):
        Distiller(nn.Linear(2, 4), nn.Linear(2, 3), ["decoupled"], sample_input=torch.ones(2, 2))


def test_models_of_one_class_are_refused() -> None:
    with pytest.raises(StrategyError, match="two classes at least"):
        Distiller(nn.Linear(2, 1), nn.Linear(2, 1), ["decoupled"], sample_input=torch.ones(2, 2))


@pytest.mark.parametrize("task", [kdcore.Regression(), kdcore.MultiLabel()])
def test_tasks_whose_outputs_are_no_classes_are_refused(task: kdcore.Task) -> None:
    models = nn.Linear(3, 2), nn.Linear(3, 2)
    with pytest.raises(StrategyError, match=f"which the outputs of {task.kind} are not"):
        Distiller(*models, ["decoupled"], sample_input=torch.zeros(2, 3), task=task)


@pytest.mark.parametrize(
    ("task", "model", "inputs"),
    [
        (kdcore.Sequences(), nn.Linear(3, 2), torch.zeros(2, 5, 3)),
        (kdcore.Segmentation(), nn.Conv2d(3, 2, 1), torch.zeros(2, 3, 4, 4)),
    ],
)
def test_tasks_with_labels_by_position_are_refused(
    task: kdcore.Task, model: nn.Module, inputs: Tensor
) -> None:
    with pytest.raises(StrategyError, match=f"targets of {task.kind} are by position"):
        Distiller(copy.deepcopy(model), model, ["decoupled"], sample_input=inputs, task=task)


def test_without_settings_it_is_the_papers() -> None:
    assert Decoupled().settings.model_dump() == {"alpha": 1.0, "beta": 8.0, "temperature": 4.0}
    assert (Decoupled.recommended.weight, Decoupled.recommended.task_weight) == (1.0, 1.0)
