import pytest
import torch

from kdcore.shipping.verify import FIRST_BATCHES, Comparison, batches
from kdcore.tasks import Classification
from kdcore.values import Regression


def test_batches_go_through_all_samples_once_in_several_sizes() -> None:
    found = list(batches(100))
    assert torch.equal(torch.cat(found), torch.arange(100))
    assert [len(each) for each in found[:3]] == list(FIRST_BATCHES)
    assert 1 in FIRST_BATCHES
    assert len({len(each) for each in found}) >= 4
    assert [len(each) for each in batches(2)] == [1, 1]


def test_a_comparison_finds_the_largest_difference_of_all_batches() -> None:
    comparison = Comparison(Classification())
    expected = torch.tensor([[3.0, -8.0], [0.0, 1.0]])
    comparison.add(
        expected + torch.tensor([[0.0, 0.25], [0.0, 0.0]]), expected, torch.tensor([0, 1])
    )
    comparison.add(torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 2.0]]), torch.tensor([0]))
    finding = comparison.finding()
    assert (finding.max_difference, finding.largest_logit) == (1.0, 8.0)
    assert finding.agreement == pytest.approx(200 / 3)
    assert finding.scores["accuracy"] == 100.0


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_what_is_no_number_is_infinitely_far(wrong: float) -> None:
    comparison = Comparison(Classification())
    comparison.add(torch.tensor([[wrong, 0.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    assert comparison.finding().max_difference == float("inf")


def test_other_shapes_are_infinitely_far() -> None:
    comparison = Comparison(Classification())
    comparison.add(torch.zeros(1, 2), torch.zeros(2, 2), torch.tensor([0, 0]))
    assert comparison.finding().max_difference == float("inf")


def test_a_task_without_classes_has_no_agreement() -> None:
    comparison = Comparison(Regression())
    comparison.add(torch.zeros(2, 1), torch.zeros(2, 1), torch.ones(2, 1))
    assert comparison.finding().agreement is None
    assert comparison.finding().scores
