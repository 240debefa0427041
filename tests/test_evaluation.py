import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from kdcore.data.source import DatasetSource
from kdcore.errors import DataError
from kdcore.evaluation import evaluate, tally
from kdcore.tasks import Classification


class _Echo(nn.Module):
    """Predicts the class that its input names; draws a random number, as dropout would."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.9)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.dropout(nn.functional.one_hot(x.long(), 3).float())
        return logits


def _source(inputs: list[int], targets: list[int]) -> DatasetSource:
    return DatasetSource(TensorDataset(torch.tensor(inputs), torch.tensor(targets)), "test")


def test_accuracy_is_the_share_of_right_predictions_among_labelled_samples() -> None:
    scores = evaluate(_Echo(), _source([0, 1, 2, 0], [0, 1, 1, -100]), Classification())
    assert scores["accuracy"] == pytest.approx(100 * 2 / 3)


def test_more_samples_than_a_batch_are_all_counted() -> None:
    labels = [index % 3 for index in range(700)]
    everything = torch.arange(700)
    found = tally(_Echo(), _source(labels, labels), Classification(), everything)
    samples = [labels.count(index) for index in range(3)]
    assert found.view(3, -1)[:, :3].tolist() == [samples] * 3
    assert found.sum() == 3 * 700


def test_tallies_of_parts_add_up_to_that_of_the_whole() -> None:
    labels = [index % 3 for index in range(50)]
    source, task = _source(labels, [1, *labels[1:]]), Classification()
    parts = [
        tally(_Echo(), source, task, part) for part in torch.split(torch.arange(50), [7, 1, 42])
    ]
    whole = tally(_Echo(), source, task, torch.arange(50))
    assert torch.equal(torch.stack(parts).sum(0), whole)


def test_samples_without_any_target_cannot_be_scored() -> None:
    with pytest.raises(DataError, match="no targets to score predictions against"):
        evaluate(_Echo(), _source([0, 1], [-100, -100]), Classification())


def test_evaluation_uses_evaluation_mode_and_puts_the_mode_back() -> None:
    model = _Echo().train()
    assert evaluate(model, _source([0, 1], [0, 1]), Classification())["accuracy"] == 100
    assert model.training
    assert model.dropout.training
