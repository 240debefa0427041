"""The three hooks: all that the core asks of a distillation method. Read this file first.

A method is a `kdcore.Strategy` whose methods, marked with `hookimpl`, implement these hooks. An
implementation names those arguments that it wants, in any order, and gets only what is its own:
the taps it asked for, its adapters, its memory, the teacher it is bound to.
"""

from collections.abc import Mapping

import pluggy
import torch
from torch import Tensor, nn

from kdcore.contract import Adapters, AuxiliaryLoss, Features, Setup, Shapes, State, Taps

PROJECT = "kdcore"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a method as the implementation of the hook of its name."""


class Hooks:
    """The specifications. They are never called: pluggy reads their signatures."""

    @hookspec
    def extract_features(self, setup: Setup, label: str) -> Taps:  # type: ignore[empty-body]
        """Say which activations the strategy needs. Optional: without it, the logits alone.

        Called once, at set-up, before any model has run. The core joins what all strategies ask
        for, so that each model runs once a step however many share a tap.

        Args:
            setup: what is known before training: sample count, class count, targets, task.
            label: the strategy's name in this run; two instances of a method have two.

        Returns:
            `Taps`: for student and teacher, addresses by role. A role is a name of the
            strategy's own choice, under which it finds the activation again.
        """

    @hookspec
    def adapt_shapes(  # type: ignore[empty-body]
        self, setup: Setup, label: str, student: Shapes, teacher: Shapes
    ) -> Adapters:
        """Build what the loss needs to compare the activations. Optional.

        Called once, after one small batch has gone through both models in evaluation mode. It
        draws from a random stream of its own, so that modules built here leave the student's
        initial weights alone. What it returns is moved to the right device and type, trained
        with the student, saved and resumed by the core.

        Args:
            setup: as above; the class count is known from here on.
            label: as above.
            student: shapes by role, batch first: ``student["hint"]`` may be
                ``[2, 16, 8, 8]``; ``student.logits`` is ``[rows, classes]``.
            teacher: the same of the teacher that the strategy is bound to.

        Returns:
            `Adapters`: modules that activations go through before the loss sees them, by role;
            `modules` and `state` that the loss uses itself, by name.
        """

    @hookspec
    def compute_auxiliary_loss(  # type: ignore[empty-body]
        self,
        setup: Setup,
        label: str,
        student: Features,
        teacher: Features,
        modules: Mapping[str, nn.Module],
        state: State,
        targets: Tensor,
        indices: Tensor,
        epoch: int,
        step: int,
        generator: torch.Generator,
    ) -> AuxiliaryLoss:
        """Compute what the strategy adds to the task's loss. Required.

        Called each forward pass of the distiller, with autocast off and all features in float32.
        Gradients flow to the student, the adapters and `modules`; the teacher's are cut off.

        Args:
            setup: as above.
            label: as above.
            student: adapted activations by role, and ``student.logits`` ``[rows, classes]``.
            teacher: the same of the teacher, without gradient.
            modules: `Adapters.modules`, trained.
            state: `Adapters.state` as of the last optimizer step; ``state.write`` hands back.
            targets: the batch's targets, as the task has them; -100, or NaN among numbers,
                where there is no label.
            indices: ``int64 [batch]``, each sample's index in the training set.
            epoch: from 0.
            step: optimizer steps taken, from 0.
            generator: random stream of this strategy in this run, on the device of the batch.

        Returns:
            One value a sample or a row (``[batch]`` or ``[rows]``), of which the core takes the
            mean over the whole optimizer step; or a scalar, where the method relates samples
            within the batch; or a mapping of names to either, whose sum is what is weighted.
            Anything else, None included, is an error.
        """


HOOKS = ("extract_features", "adapt_shapes", "compute_auxiliary_loss")
