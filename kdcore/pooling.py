"""How an ensemble of teachers does: its members on the same samples, each as it is given them.

How an ensemble teaches is in `frozen_teacher`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from kdcore.data.source import Batch, Source
from kdcore.evaluation import evaluate
from kdcore.frozen_teacher import mean_of
from kdcore.nested import inputs_of
from kdcore.signals import Signals
from kdcore.taps import logits_of, run_model
from kdcore.tasks import Task
from kdcore.teachers import TeacherEnsemble


class _Members(nn.Module):
    """The members of an ensemble as one model, which is given each one's inputs by name."""

    def __init__(self, ensemble: TeacherEnsemble, models: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.ensemble = ensemble
        self.models = nn.ModuleList(models[name] for name in ensemble.members)

    def forward(self, inputs: Mapping[str, Any]) -> Tensor:
        """Return the mean of the members' logits, ``[batch, classes]``, of each one's inputs."""
        heard = {
            name: Signals(logits_of(run_model(model, inputs[name])), {})
            for name, model in zip(self.ensemble.members, self.models, strict=True)
        }
        logits = mean_of(self.ensemble, heard).logits
        assert logits is not None
        return logits


class _MembersView(Source):
    """Samples as the members of an ensemble are given them, by name."""

    def __init__(self, source: Source, members: tuple[str, ...]) -> None:
        self.source = source
        self.members = members
        self.targets = source.targets
        self.views = source.views

    def batch(self, indices: Tensor, view: int = 0, *, teacher: bool = True) -> Batch:  # noqa: ARG002
        """Gather samples."""
        batch = self.source.batch(indices, view)
        inputs = {name: inputs_of(batch.teacher_inputs, name) for name in self.members}
        # In a tuple: a member may be called as no argument can be.
        return replace(batch, inputs=(inputs,), teacher_inputs=None)


def scores_of(
    ensemble: TeacherEnsemble, models: Mapping[str, nn.Module], source: Source, task: Task
) -> dict[str, float]:
    """Return the scores of an ensemble, by name.

    Args:
        ensemble: the ensemble.
        models: its members, by name; others may be there.
        source: the samples, as these teachers are given them.
        task: what is scored, and how.
    """
    members = _Members(ensemble, models)
    return evaluate(members, _MembersView(source, ensemble.members), task)
