"""Whether a loss is by sample or by row is found out before it is divided."""

import pytest
import torch
from torch import nn

from kdcore import Distiller, Features, Sequences, Strategy, hookimpl
from kdcore.tasks import UNLABELLED


class _Ones(Strategy):
    """One value a sample, each of them one."""

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, targets: torch.Tensor) -> torch.Tensor:
        return 1.0 + 0.0 * student.logits.sum() * torch.ones(len(targets))


class _Rows(Strategy):
    """One value a row, each of them one."""

    @hookimpl
    def compute_auxiliary_loss(self, student: Features) -> torch.Tensor:
        return 1.0 + 0.0 * student.logits.sum(1)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_mean_is_one_of_ones_whichever_micro_batch_comes_first(order: tuple[int, int]) -> None:
    # The first part has as many rows as samples, the second three times as many.
    targets = torch.full((4, 3), UNLABELLED)
    targets[:2, 0] = 1
    targets[2:] = 1
    parts = torch.split(torch.arange(4), 2)
    model, tokens = nn.Embedding(5, 4), torch.arange(12).reshape(4, 3) % 5
    counts = Sequences().count(4, targets)
    with Distiller(
        nn.Embedding(5, 4), model, [_Ones(), _Rows()], task=Sequences(), sample_input=tokens[:2]
    ) as distiller:
        sums = {"_ones": 0.0, "_rows": 0.0}
        for part in order:
            chosen = parts[part]
            losses = distiller(tokens[chosen], targets[chosen], counts=counts)
            for label in sums:
                sums[label] += float(losses.auxiliary[label].detach())
    assert sums == {"_ones": pytest.approx(1.0), "_rows": pytest.approx(1.0)}
