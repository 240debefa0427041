"""Checks on one call of the loss: what it returns, and where its gradient goes."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor

from kdcore.errors import StrategyError
from kdcore.strategy import tap_settings
from kdcore.testing.case import Batch, Case, Trial
from kdcore.testing.check import NotApplicableError, draws


def hooks_answer(case: Case) -> Iterator[str]:
    """Find hooks that are malformed, fail at set-up, or return no loss."""
    with Trial(case) as trial, torch.no_grad():
        try:
            trial.losses()
        except StrategyError as error:
            # An answer that is no loss is what the next check is about.
            if not trial.onlooker.returned:
                yield str(error)


def arguments_are_left_alone(case: Case) -> Iterator[str]:
    """Find features, logits and memory that are changed in place."""
    with Trial(case) as trial, torch.no_grad():
        # The core may refuse what was changed, or the shape of what was returned.
        with suppress(StrategyError):
            trial.losses()
        if trial.onlooker.changed:
            yield "features, logits, state, targets or indices were changed in place"


def loss_is_a_vector_or_a_scalar(case: Case) -> Iterator[str]:
    """Find losses of other types and shapes."""
    with Trial(case) as trial, torch.no_grad():
        try:
            trial.losses()
        except StrategyError as error:
            yield str(error)


def gradient_reaches_all_that_learns(case: Case) -> Iterator[str]:
    """Find a student, adapters or modules that the loss does not depend on."""
    with Trial(case) as trial:
        try:
            torch.autograd.backward(trial.auxiliary())
        except StrategyError as error:
            yield str(error)
            return
        gradients = [parameter.grad for parameter in trial.student.parameters()]
        if not any(gradient is not None and bool(gradient.any()) for gradient in gradients):
            yield "no parameter of the student has a gradient"
        for name, parameter in trial.distiller.strategies.named_parameters():
            if parameter.requires_grad and parameter.grad is None:
                yield f"the parameter {name} has no gradient"


def all_that_learns_is_known(case: Case) -> Iterator[str]:
    """Find parameters of the loss that the optimizer, checkpoints and other processes miss."""
    with Trial(case) as trial:
        loss = trial.auxiliary()
        known = {id(parameter) for parameter in trial.distiller.parameters()}
        for tensor in _leaves(loss):
            if id(tensor) not in known:
                yield f"a tensor {list(tensor.shape)} learns that no adapter or module holds"


def _leaves(loss: Tensor) -> Iterator[Tensor]:
    """Go through the tensors that a loss's gradient ends in."""
    rest, seen = [loss.grad_fn], set()
    while rest:
        node = rest.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(variable := getattr(node, "variable", None), Tensor):
            yield variable
        rest += [following for following, _ in node.next_functions]


SMALL = 1e-9
"""What is zero in float64, beside losses of about one."""


def as_declared_where_equal(case: Case) -> Iterator[str]:
    """Find losses that are not what is said of them where the student is its teacher."""
    declared = case.strategy.where_equal
    if declared is None:
        raise NotApplicableError("it does not say what its loss is for equal models (where_equal)")
    settings = case.strategy(**case.settings).settings.model_dump()
    for name in tap_settings(case.strategy.Settings):
        other = name.replace("student", "teacher", 1)
        if settings[name] != settings.get(other, settings[name]):
            raise NotApplicableError("its settings look at different places of the two models")
    with Trial(replace(case, student=case.teacher), dtype=torch.float64) as trial:
        trial.student.load_state_dict(trial.teacher.state_dict())
        trial.distiller.eval()
        loss = trial.auxiliary()
        torch.autograd.backward(loss)
        largest = max(float(value.detach().abs().max()) for value in trial.onlooker.values())
        steepest = max(
            float(each.grad.abs().max())
            for each in trial.student.parameters()
            if each.grad is not None
        )
        nearby = _moved(trial)
    if declared == "zero" and largest > SMALL:
        yield f"where the student is its teacher the loss is {largest:.3g}, not zero"
    if declared == "smallest" and steepest > SMALL**0.5:
        yield f"where the student is its teacher the loss has a gradient of {steepest:.3g}"
    elif nearby < float(loss.detach()) - SMALL:
        yield f"where the student is its teacher the loss is {loss.item():.3g}, nearby {nearby:.3g}"


def _moved(trial: Trial) -> float:
    """Return the loss of a student whose weights are all a little larger."""
    gradients = [parameter.grad for parameter in trial.student.parameters()]
    with torch.no_grad():
        for parameter in trial.student.parameters():
            parameter.mul_(1.01)
        moved = trial.auxiliary().item()
        for parameter in trial.student.parameters():
            parameter.div_(1.01)
    for parameter, gradient in zip(trial.student.parameters(), gradients, strict=True):
        parameter.grad = gradient
    return moved


def loss_is_finite(case: Case) -> Iterator[str]:
    """Find losses and gradients that are infinite or no numbers, in cases that do occur."""
    with Trial(case) as trial:
        yield from _not_finite(trial, trial.batch(), "ordinary samples")
    with Trial(case) as trial:
        batch = trial.batch()
        equal = batch._replace(inputs=batch.inputs[:1].expand_as(batch.inputs))
        yield from _not_finite(trial, equal, "equal samples")
    with Trial(case) as trial:
        batch = trial.batch()
        certain = batch._replace(inputs=1e4 * batch.inputs)
        yield from _not_finite(trial, certain, "a teacher whose probabilities underflow")
    with Trial(replace(case, student=case.teacher)) as trial:
        trial.student.load_state_dict(trial.teacher.state_dict())
        yield from _not_finite(trial, trial.batch(), "a student that equals its teacher")


def a_batch_of_one_works(case: Case) -> Iterator[str]:
    """Find losses that fail on one sample: an epoch's last batch may hold no more."""
    with Trial(case) as trial:
        yield from _not_finite(trial, trial.batch(count=1), "one sample")


def samples_need_no_label(case: Case) -> Iterator[str]:
    """Find losses that fail where nothing is labelled."""
    with Trial(case, labelled=False) as trial:
        yield from _not_finite(trial, trial.batch(), "samples without labels")


def float64_stays_float64(case: Case) -> Iterator[str]:
    """Find losses that fail on float64 models, or fall back to float32."""
    with Trial(case, dtype=torch.float64) as trial:
        yield from _not_finite(trial, trial.batch(), "float64 models")
        for value in trial.onlooker.values():
            if value.dtype != torch.float64:
                yield f"of float64 models the loss is {value.dtype}"


def parts_add_up_to_the_batch(case: Case) -> Iterator[str]:
    """Find losses a row that depend on which other samples are in the batch."""
    with Trial(case) as trial:
        _without_own_randomness(trial)
        batch = trial.batch()
        loss = _rows_of(trial, batch)
        if loss is None:
            raise NotApplicableError("its loss is a scalar, which relates the samples of a batch")
        if trial.onlooker.drew:
            raise draws("part to part")
        torch.autograd.backward(loss)
    whole = dict(trial.distiller.named_parameters())
    with Trial(case) as trial:
        _without_own_randomness(trial)
        total = torch.zeros(())
        for rows in (slice(0, 3), slice(3, None)):
            part = _rows_of(trial, Batch(*(tensor[rows] for tensor in batch)))
            assert part is not None
            torch.autograd.backward(part)
            total += part.detach()
    if not torch.allclose(total, loss.detach(), rtol=1e-4, atol=1e-6):
        yield f"the loss of the batch is {loss.item():.6g}, its parts add up to {total.item():.6g}"
    for name, parameter in trial.distiller.named_parameters():
        if not _close(whole[name].grad, parameter.grad):
            yield f"the gradient of {name} differs between the batch and its parts"
            return


def _rows_of(trial: Trial, batch: Batch) -> Tensor | None:
    """Return the sum of all that a loss has a value a row of; None where it has nothing such."""
    trial.losses(batch)
    rows = [value.sum() for value in trial.onlooker.values() if value.ndim]
    return torch.stack(rows).sum() if rows else None


def _without_own_randomness(trial: Trial) -> None:
    # Dropout differs from part to part, and batch normalisation relates the samples of each.
    trial.distiller.eval()


def _not_finite(trial: Trial, batch: Batch, what: str) -> Iterator[str]:
    loss = trial.auxiliary(batch)
    if not bool(loss.isfinite()):
        yield f"with {what} the loss is {loss.item()}"
        return
    torch.autograd.backward(loss)
    for name, parameter in trial.distiller.named_parameters():
        if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
            yield f"with {what} the gradient of {name} is not finite"
            return


def _close(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return float((one - other).abs().max()) <= 1e-4 * float(one.abs().max()) + 1e-7
