"""How well a model does on a source of samples."""

from dataclasses import dataclass

import torch
from torch import nn

from kdcore.data.source import Source
from kdcore.devices import device_of
from kdcore.errors import ModelError
from kdcore.probe import evaluating
from kdcore.processes import here
from kdcore.taps import logits_of, run_model
from kdcore.tasks import Task

BATCH_SIZE = 256


@dataclass(frozen=True)
class Score:
    """How many predictions are right, and of how many."""

    correct: int
    total: int

    @property
    def accuracy(self) -> float:
        """The share of right predictions in per cent."""
        return 100 * self.correct / self.total


def evaluate(model: nn.Module, source: Source, task: Task) -> Score:
    """Score a model on all labelled samples of a source, in evaluation mode.

    Where several processes call it together, each takes its share and all return the whole.

    Args:
        model: the model; its mode is put back.
        source: the samples; the model is given the student's inputs.
        task: what counts as right.

    Raises:
        ModelError: the model's output holds no logits.
    """
    device, processes = device_of(model), here()
    correct = total = 0
    with evaluating(model):
        for indices in torch.split(processes.share(torch.arange(len(source))), BATCH_SIZE):
            batch = source.batch(indices, teacher=False).to(device)
            logits = logits_of(run_model(model, batch.inputs))
            if logits is None:
                raise ModelError("the model's output holds no logits")
            right, counted = task.correct(logits, batch.targets)
            correct, total = correct + right, total + counted
    return Score(*processes.summed(torch.tensor([correct, total])).tolist())
