"""The accuracy of a model computed anew, to hold against what a run says of it."""

import torch
from torch import nn

from kdcore.data.source import Source
from kdcore.taps import logits_of, run_model


def accuracy_of(model: nn.Module, source: Source) -> float:
    """Return the share of a source's samples, all labelled, that a model puts right (%)."""
    batch = source.batch(torch.arange(len(source)), teacher=False)
    with torch.no_grad():
        logits = logits_of(run_model(model.eval(), batch.inputs))
    assert logits is not None
    return 100 * float((logits.argmax(1) == batch.targets).double().mean())
