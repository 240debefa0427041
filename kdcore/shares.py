"""Which share each loss has in the gradient that the student follows, measured now and then.

A loss of small values may have a gradient that drowns the others', or none to speak of.
"""

import torch
from torch import Tensor

from kdcore.distiller import Distiller, Losses
from kdcore.weights import weight_at

FEWEST_STEPS = 30
"""Optimizer steps between two measurements, or more."""

TINY = torch.finfo(torch.float32).tiny

MOST_MEASURED = 40
"""Measurements of a training, or fewer."""


class GradientShares:
    """Measures the losses of a training's steps.

    Each measurement goes back through the student once more a loss; it changes nothing.

    Args:
        distiller: whose losses they are.
        steps: optimizer steps of the whole training.
        plain: whether gradients are all here and can be had twice: they are in one process,
            without compilation or scaled losses.
    """

    def __init__(self, distiller: Distiller, steps: int, *, plain: bool) -> None:
        self._distiller = distiller
        self._every = max(FEWEST_STEPS, -(-steps // MOST_MEASURED)) if plain else 0

    @property
    def due(self) -> bool:
        """Whether the step that is about to be taken shall be measured."""
        return bool(self._every) and self._distiller.step % self._every == 0

    def of(self, losses: Losses) -> dict[str, Tensor]:
        """Return the share of each weighted loss, before its step is taken.

        The share is the norm of its gradient over the student's parameters, divided by the sum
        of all losses' norms. Losses may point in different directions: their sum's norm is less.

        Args:
            losses: of a batch, or of the first part of one.

        Returns:
            By label, ``"task"`` among them, each without dimensions; nothing for one loss alone.
        """
        distiller = self._distiller
        weights = {"task": weight_at(distiller.task_weight, distiller.epoch), **losses.weights}
        terms = {"task": losses.task, **losses.auxiliary}
        live = {name: each for name, each in terms.items() if each.requires_grad}
        parameters = [each for each in distiller.student.parameters() if each.requires_grad]
        if len(live) < 2 or not parameters:
            return {}
        norms = {name: weights[name] * _norm(each, parameters) for name, each in live.items()}
        whole = torch.stack(list(norms.values())).sum()
        # Where no loss has a gradient there is nothing to have a share in.
        return {name: each / whole.clamp_min(TINY) for name, each in norms.items()}


def _norm(loss: Tensor, parameters: list[torch.nn.Parameter]) -> Tensor:
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    norms = [gradient.float().norm() for gradient in found if gradient is not None]
    return torch.stack(norms).norm() if norms else loss.new_zeros(())
