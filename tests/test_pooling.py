"""How an ensemble does is measured on what each of its members is given."""

import pytest
import torch
from torch import Tensor, nn

from kdcore.data.source import Batch, Source
from kdcore.nested import TeacherInputs
from kdcore.pooling import scores_of
from kdcore.tasks import Classification
from kdcore.teachers import TeacherEnsemble


class _Given(Source):
    """Samples that are other logits to each teacher."""

    views = 1

    def __init__(self, targets: list[int], **logits: list[list[float]]) -> None:
        self.targets = torch.tensor(targets)
        self.logits = {name: torch.tensor(values) for name, values in logits.items()}

    def batch(self, indices: Tensor, view: int = 0, *, teacher: bool = True) -> Batch:
        inputs = {name: each[indices] for name, each in self.logits.items()} if teacher else {}
        return Batch(
            torch.zeros(len(indices)), TeacherInputs(inputs), self.targets[indices], indices, view
        )


class _Says(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def test_the_mean_of_logits_is_measured_by_shares() -> None:
    source = _Given(
        [0, 0, 1, -100],
        big=[[3.0, 0.0], [0.0, 3.0], [0.0, 3.0], [0.0, 0.0]],
        small=[[0.0, 1.0], [5.0, 0.0], [4.0, 0.0], [0.0, 0.0]],
    )
    models = {"big": _Says(), "small": _Says(), "other": _Says()}
    task = Classification()
    # Means, times two: (3, 1), (5, 3), (4, 3): the third is wrong.
    equal = TeacherEnsemble(("big", "small"))
    assert scores_of(equal, models, source, task)["accuracy"] == pytest.approx(66.67, abs=0.01)
    # Of shares 3 and 1, times four: (9, 1), (5, 9), (4, 9): the second is wrong.
    unequal = TeacherEnsemble(("big", "small"), (3.0, 1.0))
    assert scores_of(unequal, models, source, task)["accuracy"] == pytest.approx(66.67, abs=0.01)
    only = TeacherEnsemble(("small", "big"), (99.0, 1.0))
    assert scores_of(only, models, source, task)["accuracy"] == pytest.approx(33.33, abs=0.01)


def test_a_member_may_have_any_name() -> None:
    source = _Given([0])
    source.logits = {"self": torch.tensor([[2.0, 1.0]]), "inputs": torch.tensor([[0.0, 0.5]])}
    models = {"self": _Says(), "inputs": _Says()}
    ensemble = TeacherEnsemble(("self", "inputs"))
    assert scores_of(ensemble, models, source, Classification())["accuracy"] == 100.0
