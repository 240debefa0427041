"""What is made sure of before anything is trained: equal starts, and losses that can be computed.

How a run is set up is decided in `context` and `api.distill`.
"""

from collections.abc import Callable

import torch
from torch import nn

from kdcore.data.source import Source
from kdcore.distiller import Distiller
from kdcore.errors import ModelError
from kdcore.fingerprint import digest_of

TRIED_SAMPLES = 8
"""Samples that losses are computed of before any training."""


class Starts:
    """New students, all of one seed with the same initial weights.

    Args:
        build: returns a new student each time, which draws its weights from torch's random stream.
        who: the student in errors.
    """

    def __init__(self, build: Callable[[], nn.Module], who: str) -> None:
        self._build = build
        self._who = who
        self._digests: dict[int, str] = {}

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of which students were built, the first one first."""
        return tuple(self._digests)

    def new(self, seed: int) -> nn.Module:
        """Build a student with the initial weights of a seed.

        Raises:
            ModelError: one of the same seed began with other weights.
        """
        torch.manual_seed(seed)
        student = self._build()
        start = digest_of(student.state_dict())
        if self._digests.setdefault(seed, start) != start:
            raise ModelError(
                f"{self._who} began with other weights than before: return a new model each time, "
                "and draw its weights from torch's random stream"
            )
        return student


def try_losses(distiller: Distiller, source: Source) -> None:
    """Compute all losses of a few samples, so that what cannot work fails before any training.

    Args:
        distiller: a run that is set up, and not trained after this.
        source: what its student would learn from.

    Raises:
        StrategyError: a strategy fails, or its loss is none.
    """
    few = torch.arange(min(TRIED_SAMPLES, len(source)))
    batch = source.batch(few).to(distiller.device)
    distiller.train()
    distiller(
        batch.inputs,
        batch.targets,
        indices=batch.indices,
        teacher_inputs=batch.teacher_inputs,
        mixed=batch.mixed,
    )
