import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from kdcore.data.source import DatasetSource
from kdcore.evaluation import evaluate
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
    score = evaluate(_Echo(), _source([0, 1, 2, 0], [0, 1, 1, -100]), Classification())
    assert (score.correct, score.total) == (2, 3)
    assert score.accuracy == 100 * 2 / 3


def test_more_samples_than_a_batch_are_all_counted() -> None:
    labels = [index % 3 for index in range(700)]
    assert evaluate(_Echo(), _source(labels, labels), Classification()).total == 700


def test_evaluation_uses_evaluation_mode_and_puts_the_mode_back() -> None:
    model = _Echo().train()
    assert evaluate(model, _source([0, 1], [0, 1]), Classification()).accuracy == 100
    assert model.training
    assert model.dropout.training
