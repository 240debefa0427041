"""What a model said of the test samples, and a few of their pictures: all that reports look at.

What reports make of it is theirs.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from kdcore.data.geometry import Geometry
from kdcore.data.source import ImageSource, Source
from kdcore.devices import device_of
from kdcore.files import packed, write_bytes
from kdcore.probe import evaluating
from kdcore.taps import logits_of, run_model
from kdcore.tasks import UNLABELLED, Classification, Task

MOST_LOGITS = 20_000_000
"""Of so many logits the samples are kept, from the first on."""

EXAMPLES = 10
WORST = 12
SIDE = 96
"""Of pictures, in pixels."""


@dataclass(frozen=True)
class Outcome:
    """What one model said.

    Attributes:
        logits: of the test samples, ``float32 [samples, classes]``.
        targets: of the same, ``int64 [samples]``, -100 where there is no label.
        validation_logits: of the validation samples; None without any.
        validation_targets: the like.
        examples: indices of a few test samples, ``int64 [at most 10]``, the same for all models.
        worst: indices of those with the highest cross-entropy, ``int64 [at most 12]``, that one
            first.
        pictures: of the examples, then of the worst, ``uint8 [pictures, 3, side, side]``; none
            where samples are no images.
        names: of these samples.
        classes: names of the classes, by index.
    """

    logits: Tensor
    targets: Tensor
    validation_logits: Tensor | None
    validation_targets: Tensor | None
    examples: Tensor
    worst: Tensor
    pictures: Tensor
    names: tuple[str, ...]
    classes: tuple[str, ...]

    def save(self, path: Path) -> None:
        """Write it as one file."""
        metadata = {"names": json.dumps(self.names), "classes": json.dumps(self.classes)}
        write_bytes(path, packed(dict(self._tensors()), metadata))

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                yield name, value.contiguous()

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """Read what `save` wrote; None where it is not there or not whole."""
        try:
            with safe_open(path, "pt") as file:
                said = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            names, classes = (tuple(json.loads(said[key])) for key in ("names", "classes"))
            without = {"validation_logits": None, "validation_targets": None}
            return cls(**{**without, **tensors}, names=names, classes=classes)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None


def outcome_of(
    model: nn.Module,
    test: Source,
    validation: Source | None,
    classes: tuple[str, ...],
    task: Task,
) -> Outcome | None:
    """Ask a model of the test samples, in evaluation mode.

    Args:
        model: the model; it is given the inputs that the sources have for a student.
        test: the samples.
        validation: those that temperatures may be chosen on.
        classes: names of the classes; numbers where there are none.
        task: what the model is for.

    Returns:
        What it said; None where the task is no classification, or no sample has a label.
    """
    if not isinstance(task, Classification) or bool((test.targets == UNLABELLED).all()):
        return None
    logits = _said(model, test)
    targets = test.targets[: len(logits)]
    labelled = (targets != UNLABELLED).nonzero().flatten()
    places = torch.linspace(0, len(labelled) - 1, min(EXAMPLES, len(labelled))).round().long()
    losses = F.cross_entropy(logits, targets, reduction="none", ignore_index=UNLABELLED)
    worst = losses.argsort(descending=True, stable=True)[: min(WORST, len(labelled))]
    examples = labelled[places]
    shown = torch.cat([examples, worst])
    pictures, names = torch.empty((0, 3, SIDE, SIDE), dtype=torch.uint8), []
    if isinstance(test, ImageSource):
        images = test.data.images
        pictures = images.fitted(shown, Geometry(SIDE)).permute(0, 3, 1, 2)
        names = [images.name(index) for index in shown.tolist()]
    chosen = None if validation is None else _said(model, validation)
    return Outcome(
        logits,
        targets,
        chosen,
        None if chosen is None or validation is None else validation.targets[: len(chosen)],
        examples,
        worst,
        pictures,
        tuple(names or map(str, shown.tolist())),
        classes or tuple(map(str, range(logits.shape[1]))),
    )


def _said(model: nn.Module, source: Source) -> Tensor:
    device, parts, count = device_of(model), list[Tensor](), 0
    with evaluating(model):
        for indices in torch.split(torch.arange(len(source)), Classification.evaluated):
            batch = source.batch(indices, teacher=False).to(device)
            logits = logits_of(run_model(model, batch.inputs))
            assert logits is not None  # it has been scored
            parts.append(logits.float().cpu())
            count += logits.numel()
            if count >= MOST_LOGITS:
                break
    return torch.cat(parts)
