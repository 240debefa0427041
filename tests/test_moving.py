"""A moving teacher begins as the student, follows it, and can be taken up again."""

import copy
import threading

import pytest
import torch
from torch import Tensor, nn

from kdcore.errors import ModelError
from kdcore.frozen_teacher import FrozenTeacher
from kdcore.moving import MovingTeacher, copy_of

X = torch.linspace(-1, 1, 12).reshape(3, 4)


def _student() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3))


def _moving(student: nn.Module, decay: float = 0.9) -> MovingTeacher:
    return MovingTeacher(FrozenTeacher(copy_of(student, "t"), {}, "teacher t"), student, decay)


def _learn(student: nn.Module, seed: int) -> None:
    """Change weights, running statistics and the count of batches."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    student.train()(X + seed)


def _logits(teacher: MovingTeacher) -> Tensor:
    logits = teacher.signals(X).logits
    assert logits is not None
    return logits


def test_it_begins_as_the_student_in_evaluation_and_without_gradients() -> None:
    student = _student()
    teacher = _moving(student)
    assert torch.equal(_logits(teacher), copy.deepcopy(student).eval()(X))
    assert student.training
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    assert not _logits(teacher).requires_grad


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.999])
def test_it_is_the_exponential_average_of_weights_and_statistics(decay: float) -> None:
    student = _student()
    teacher = _moving(student, decay)
    by_hand = {name: each.double() for name, each in student.state_dict().items()}
    for step in range(1, 6):
        _learn(student, step)
        teacher.update()
        kept = min(decay, (1 + step) / (10 + step))
        for name, each in student.state_dict().items():
            by_hand[name] = kept * by_hand[name] + (1 - kept) * each.double()
    for name, each in teacher.model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert int(each) == 5  # the student's own, for there is no mean of counts
        else:
            assert torch.allclose(each.double(), by_hand[name], atol=1e-6), name
    if decay:
        assert not torch.allclose(
            teacher.model.state_dict()["0.weight"], student.state_dict()["0.weight"]
        )


def test_it_goes_on_from_what_was_saved() -> None:
    student = _student()
    teacher = _moving(student)
    _learn(student, 1)
    teacher.update()
    saved = copy.deepcopy(teacher.state_dict())
    other = _student()
    resumed = _moving(other)
    other.load_state_dict(student.state_dict())
    assert not torch.equal(_logits(resumed), _logits(teacher))  # the control
    resumed.load_state_dict(saved)
    for each, model in ((teacher, student), (resumed, other)):
        _learn(model, 2)
        each.update()
    ours, theirs = teacher.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_it_follows_a_student_whose_tensors_were_replaced() -> None:
    student = _student()
    teacher = _moving(student, 0.0)
    student._apply(lambda tensor: tensor.clone())  # type: ignore[no-untyped-call]  # as moving to a device does with buffers
    teacher.move(torch.device("cpu"))
    for step in (1, 2):
        _learn(student, step)
        teacher.update()
    ours, theirs = teacher.model.state_dict(), student.state_dict()
    assert all(torch.allclose(ours[name], theirs[name]) for name in ours)


def test_a_student_that_cannot_be_copied_is_named() -> None:
    student = _student()
    vars(student)["lock"] = threading.Lock()
    with pytest.raises(ModelError, match="teacher self: a moving average needs a copy of the stud"):
        copy_of(student, "teacher self")
