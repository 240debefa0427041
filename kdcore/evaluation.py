"""How well a model does on a source of samples."""

import torch
from torch import Tensor, nn

from kdcore.data.source import Source
from kdcore.devices import device_of
from kdcore.errors import DataError, ModelError
from kdcore.probe import evaluating
from kdcore.processes import here
from kdcore.taps import logits_of, run_model
from kdcore.tasks import Task


def evaluate(model: nn.Module, source: Source, task: Task) -> dict[str, float]:
    """Score a model on all samples of a source that have a target, in evaluation mode.

    Where several processes call it together, each takes its share and all return the whole.

    Args:
        model: the model; its mode is put back.
        source: the samples; the model is given the student's inputs.
        task: what is scored, and how.

    Returns:
        The task's scores by name; none where it has none.

    Raises:
        DataError: no sample has a target, or outputs and targets do not fit each other.
        ModelError: the model's output holds no logits.
    """
    if not task.metrics:
        return {}
    processes = here()
    tallies = []
    # All run the model equally often, which one that is spread over them needs.
    for samples in torch.split(torch.arange(len(source)), task.evaluated * processes.count):
        (mine,), idle = processes.parts(samples, 1)
        own = tally(model, source, task, mine)
        tallies.append(torch.zeros_like(own) if idle else own)
    scores = task.scores(processes.summed(torch.stack(tallies).sum(0)))
    if not scores:
        raise DataError("there are no targets to score predictions against")
    return scores


def tally(model: nn.Module, source: Source, task: Task, indices: Tensor) -> Tensor:
    """Return what scores are made of, added up over batches; see `Task.tally`.

    Args:
        model: as `evaluate` takes it.
        source: the like.
        task: the like.
        indices: of the samples, ``int64 [samples]``.

    Returns:
        ``float64 [n]``, on the CPU; that of parts of the samples adds up to that of all.
    """
    device = device_of(model)
    parts: list[Tensor] = []
    with evaluating(model):
        for part in torch.split(indices, task.evaluated):
            batch = source.batch(part, teacher=False).to(device)
            logits, targets = logits_of(run_model(model, batch.inputs)), batch.targets
            if logits is None:
                raise ModelError("the model's output holds no logits")
            if device.type == "mps":  # which has no float64
                logits, targets = logits.cpu(), targets.cpu()
            parts.append(task.tally(logits, targets))
    return torch.stack(parts).cpu().sum(0)
