"""Checks on what a strategy may be given: formats, layouts, orders, shapes, classes, taps."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.errors import KdcoreError, StrategyError, TapError
from kdcore.execution import Execution
from kdcore.strategy import tap_settings
from kdcore.testing.case import LABEL, Batch, Case, Trial
from kdcore.testing.check import NotApplicableError, draws
from kdcore.testing.models import SmallCNN, SmallTokens

ROUNDING = 1e-3
"""What another layout may change in a loss, as a share of it: its sums round otherwise."""

MIXED = 0.25
"""What layers in bfloat16 may change, which has three digits."""

EPOCHS = (0, 1, 2, 5, 10, 20, 100, 1000)


def bfloat16_layers_are_fine(case: Case) -> Iterator[str]:
    """Find losses that fail where models compute in bfloat16, or that hang on the last digits."""
    with Trial(case) as plain, Trial(case, execution=Execution(torch.bfloat16)) as mixed:
        expected, loss = plain.auxiliary(), mixed.auxiliary()
        torch.autograd.backward(loss)
        if any(value.dtype != torch.float32 for value in mixed.onlooker.values()):
            yield "the loss is not float32 where layers compute in bfloat16"
        yield from _apart(expected, loss, MIXED, "layers in bfloat16")


def layouts_make_no_difference(case: Case) -> Iterator[str]:
    """Find losses that need tensors to lie in memory in one way."""
    with Trial(case) as trial:
        expected = trial.auxiliary()
    with Trial(case, laid_out=_channels_last) as trial:
        batch = trial.batch()
        if batch.inputs.ndim == 4:
            batch = batch._replace(inputs=batch.inputs.to(memory_format=torch.channels_last))
        yield from _apart(expected, trial.auxiliary(batch), ROUNDING, "channels-last memory")
    with Trial(case) as trial:
        batch = trial.batch()
        strided = torch.stack([batch.inputs, batch.inputs], dim=-1)[..., 0]
        yield from _apart(
            expected, trial.auxiliary(batch._replace(inputs=strided)), ROUNDING, "strided inputs"
        )


def _channels_last(model: nn.Module) -> nn.Module:
    return model.to(memory_format=torch.channels_last)


def _apart(expected: Tensor, loss: Tensor, allowed: float, what: str) -> Iterator[str]:
    if not bool(loss.isfinite()):
        yield f"with {what} the loss is {loss.item()}"
    elif abs(loss.item() - expected.item()) > allowed * abs(expected.item()) + allowed * 1e-2:
        yield f"with {what} the loss is {loss.item():.6g} instead of {expected.item():.6g}"


def rows_follow_their_samples(case: Case) -> Iterator[str]:
    """Find losses a row whose rows are not those of the samples in the same places."""
    with Trial(case) as trial, torch.no_grad():
        trial.distiller.eval()
        trial.losses()
        before = trial.onlooker.values()
        if all(value.ndim == 0 for value in before):
            raise NotApplicableError("its loss is a scalar, which relates the samples of a batch")
        if trial.onlooker.drew:
            raise draws("time to time")
        order = torch.arange(len(trial.batch().indices)).flip(0)
        trial.losses(Batch(*(part[order] for part in trial.batch())))
        after = trial.onlooker.values()
    for one, other in zip(before, after, strict=True):
        if one.ndim and not torch.allclose(one[order], other, rtol=1e-4, atol=1e-6):
            yield "samples in reverse order do not have the same values in reverse order"
            return


def every_epoch_has_a_loss(case: Case) -> Iterator[str]:
    """Find losses that fail, or are no numbers, in some epoch."""
    for epoch in EPOCHS:
        with Trial(case) as trial:
            trial.distiller.epoch = epoch
            loss = trial.auxiliary()
            if not bool(loss.isfinite()):
                yield f"in epoch {epoch} the loss is {loss.item()}"
                return


def two_classes_work(case: Case) -> Iterator[str]:
    """Find losses that need more than two classes."""
    _own_models_alone(case)
    two = replace(
        case,
        teacher=lambda: SmallCNN((6, 8, 10), classes=2),
        student=lambda: SmallCNN((4, 5, 6), classes=2),
        classes=2,
    )
    yield from _tried(two, "models of two classes")


def a_wider_student_works(case: Case) -> Iterator[str]:
    """Find strategies that take for granted that the teacher is the wider one."""
    yield from _tried(replace(case, teacher=case.student, student=case.teacher), "a wider student")


def other_depths_work(case: Case) -> Iterator[str]:
    """Find strategies that take for granted that maps are of one size, or stages as many."""
    _own_models_alone(case)
    for teacher, student, what in (
        (_deep, _flat, "a deeper teacher"),
        (_flat, _deep, "a deeper student"),
    ):
        yield from _tried(replace(case, teacher=teacher, student=student), what)


def _deep() -> SmallCNN:
    return SmallCNN((4, 5, 6, 6))


def _flat() -> SmallCNN:
    return SmallCNN((6, 8))


def other_ranks_work_or_are_refused(case: Case) -> Iterator[str]:
    """Find strategies that meet activations of another rank with an error of PyTorch's."""
    _own_models_alone(case)
    tokens = {"student": SmallTokens, "teacher": lambda: SmallTokens(12)}
    for which in (("student",), ("teacher",), ("student", "teacher")):
        builders: dict[str, Any] = {who: tokens[who] for who in which}
        yield from _tried(replace(case, **builders), f"token sequences of {' and '.join(which)}")


def misspelt_taps_are_named(case: Case) -> Iterator[str]:
    """Find settings of taps that accept what does not exist."""
    settings = tap_settings(case.strategy.Settings)
    if not settings:
        raise NotApplicableError("none of its settings is a tap")
    for setting in settings:
        model = case.models()[1 if setting.startswith("teacher") else 0]
        name = next(iter(dict(model.named_children())), "")
        given = getattr(case.strategy(**case.settings).settings, setting)
        several = not isinstance(case.strategy.Settings.model_fields[setting].annotation, type)
        wrong: object = f"{name}x"
        if several:  # as many as there are, the first misspelt
            wrong = (wrong, *(given[1:] if isinstance(given, tuple) else ()))
        entry = {**case.entry(LABEL), setting: wrong}
        try:
            with Trial(case, entry) as trial:
                trial.losses()
        except TapError as error:
            if name not in str(error):
                yield f"{setting} = {wrong!r}: the error does not offer {name!r}: {error}"
            continue
        except KdcoreError as error:
            yield f"{setting} = {wrong!r}: not an error about taps: {error}"
            continue
        yield f"{setting} = {wrong!r} was accepted: the setting has no effect"


def _tried(case: Case, what: str) -> Iterator[str]:
    """Try a case that may be refused, but in kdcore's words."""
    try:
        with Trial(case) as trial:
            loss = trial.auxiliary()
            torch.autograd.backward(loss)
    except StrategyError as error:
        if error.__cause__ is not None and not isinstance(error.__cause__, KdcoreError):
            yield f"{what}: {error}"
    except KdcoreError:
        return  # refused, and it says what and why
    except Exception as error:
        yield f"{what}: {type(error).__name__}: {error}"
    else:
        if not bool(loss.isfinite()):
            yield f"{what}: the loss is {loss.item()}"


def _own_models_alone(case: Case) -> None:
    if case.has_own_models:
        raise NotApplicableError("it is tried on models of its own")
