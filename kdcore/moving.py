"""A teacher that is the student's own moving average: how it begins, follows and is saved."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from kdcore.averaging import averaged, copied, follow
from kdcore.errors import ModelError
from kdcore.frozen_teacher import FrozenTeacher
from kdcore.processes import here
from kdcore.signals import Signals


def copy_of(student: nn.Module, where: str) -> nn.Module:
    """Return a copy of a student in evaluation mode and without gradients.

    Raises:
        ModelError: it cannot be copied.
    """
    try:
        model = copy.deepcopy(student)
    except Exception as error:  # a user's module may hold anything
        reason = " ".join(str(error).split())
        raise ModelError(
            f"{where}: a moving average needs a copy of the student, which cannot be copied "
            f"({type(error).__name__}: {reason})"
        ) from error
    return model.eval().requires_grad_(False)


class MovingTeacher:
    """A copy of a student that follows it, step by step.

    Parameters and floating-point buffers are averaged; other buffers are the student's last.

    Args:
        teacher: the copy, which is asked as any teacher is.
        student: the model that learns.
        decay: what it keeps of itself a step.
    """

    def __init__(self, teacher: FrozenTeacher, student: nn.Module, decay: float) -> None:
        self.decay = decay
        self._teacher = teacher
        self._student = student
        self._updates = 0
        self._bind()

    @property
    def model(self) -> nn.Module:
        """The average."""
        return self._teacher.model

    def _bind(self) -> None:
        """Find the tensors, which a module that is moved replaces."""
        self._average, self._own = averaged(self.model), averaged(self._student)
        self._copies = list(zip(copied(self.model), copied(self._student), strict=True))

    def signals(self, inputs: Any) -> Signals:
        """Return what it says of the student's inputs, as it is now."""
        return self._teacher.signals(inputs)

    @torch.no_grad()
    def update(self) -> None:
        """Take the student's weights of one more optimizer step into the average.

        Among several processes the first one's running statistics count, as they do for the
        student: all have one average.
        """
        self._updates += 1
        here().copy_from(0, list(self._student.buffers()))
        follow(self._average, self._own, self.decay, self._updates)
        for mine, theirs in self._copies:
            mine.copy_(theirs)

    def move(self, device: torch.device) -> None:
        """Go where the student went."""
        self.model.to(device)
        self._bind()

    def release(self) -> None:
        """Take the hooks off the copy."""
        self._teacher.release()

    def state_dict(self) -> dict[str, Any]:
        """Return what its next steps depend on."""
        return {
            "average": list(self._average),
            "copies": [mine for mine, _ in self._copies],
            "updates": self._updates,
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned, in the layout that the copy has."""
        self._updates = state["updates"]
        own = (*self._average, *(mine for mine, _ in self._copies))
        for mine, saved in zip(own, (*state["average"], *state["copies"]), strict=True):
            mine.copy_(saved)
