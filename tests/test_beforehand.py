"""What is made sure of before any training: equal starts, and losses that can be computed."""

import pytest
import torch
from torch import nn

from kdcore.beforehand import TRIED_SAMPLES, Starts, try_losses
from kdcore.data.named import source_from
from kdcore.distiller import Distiller
from kdcore.errors import ModelError


def test_students_of_a_seed_begin_alike_whatever_was_drawn_before() -> None:
    starts = Starts(lambda: nn.Linear(3, 2), "the student")
    first = starts.new(5)
    torch.rand(7)
    again, other = starts.new(5), starts.new(6)
    assert isinstance(first, nn.Linear)
    assert isinstance(again, nn.Linear)
    assert isinstance(other, nn.Linear)
    assert again is not first
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)
    assert starts.seeds == (5, 6)


def test_a_student_that_was_trained_meanwhile_is_refused() -> None:
    model = nn.Linear(3, 2)
    starts = Starts(lambda: model, "student 'mine'")
    starts.new(5)
    with torch.no_grad():
        model.weight.add_(1)
    with pytest.raises(ModelError, match=r"^student 'mine' began with other weights than before"):
        starts.new(5)
    starts.new(6)  # of another seed nothing is known yet


def test_losses_are_tried_on_a_few_samples_as_in_training() -> None:
    seen: list[tuple[int, bool]] = []

    class Student(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            seen.append((len(input), self.training))
            return super().forward(input)

    inputs, targets = torch.randn(20, 3), torch.arange(20) % 2
    with Distiller(None, Student(3, 2), sample_input=inputs[:2]) as distiller:
        seen.clear()
        try_losses(distiller, source_from((inputs, targets), "train_data"))
        assert seen == [(TRIED_SAMPLES, True)]
        try_losses(distiller, source_from((inputs[:3], targets[:3]), "train_data"))
        assert seen[1:] == [(3, True)]
        assert distiller.step == 0
