"""Checks on steps of training, on several strategies in a run, and on what is left behind."""

import io
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.contract import Features
from kdcore.hookspecs import hookimpl
from kdcore.losses import squared_error
from kdcore.processes import Processes
from kdcore.strategy import Strategy
from kdcore.testing.case import LABEL, SAMPLES, Batch, Case, Trial
from kdcore.testing.check import NotApplicableError, draws


def teacher_is_untouched(case: Case) -> Iterator[str]:
    """Find strategies that change the teacher, or have it train."""
    before = _snapshot(case.models()[1])
    with Trial(case) as trial:
        trial.learn(2)
        if any(module.training for module in trial.teacher.modules()):
            yield "the teacher was put into training mode"
        if any(parameter.grad is not None for parameter in trial.teacher.parameters()):
            yield "the teacher was given gradients"
    after = _snapshot(trial.teacher)
    changed = [name for name in before if not _equal(before[name], after.get(name))]
    if changed or len(before) != len(after):
        yield f"of the teacher was changed: {', '.join(changed) or 'its modules'}"


def equal_seeds_give_equal_values(case: Case) -> Iterator[str]:
    """Find losses that depend on more than the run."""
    with Trial(case) as first:
        expected = first.learn(3)
    with Trial(case) as second:
        yield from _differ(expected, second.learn(3), "a run and its repetition")


def random_stream_is_left_alone(case: Case) -> Iterator[str]:
    """Find hooks that draw from the stream of the student's weights and dropout."""
    before = torch.get_rng_state()
    with Trial(case) as trial:
        if not torch.equal(before, torch.get_rng_state()):
            yield "set-up draws from the global random stream"
        # The student's own dropout would draw from it in training mode; an adapter's must not.
        trial.student.eval()
        before = torch.get_rng_state()
        trial.losses()
        if not torch.equal(before, torch.get_rng_state()):
            yield "the loss draws from the global random stream"


def a_resumed_run_goes_on_alike(case: Case) -> Iterator[str]:
    """Find what a run remembers and does not save."""
    saved = io.BytesIO()
    with Trial(case) as trial:
        trial.learn(2)
        torch.save([trial.distiller.state_dict(), trial.optimizer.state_dict()], saved)
        expected = trial.learn(2)
    saved.seek(0)
    with Trial(case, seed=1) as resumed:
        distiller, optimizer = torch.load(saved, weights_only=True)
        resumed.distiller.load_state_dict(distiller)
        resumed.optimizer.load_state_dict(optimizer)
        yield from _differ(expected, resumed.learn(2), "a run and the same one resumed")


def memory_is_of_its_samples(case: Case) -> Iterator[str]:
    """Find memory by sample that is written at other samples' rows."""
    with Trial(case) as trial:
        before = _by_sample(trial)
        if not before:
            raise NotApplicableError("it has no memory with a row a sample")
        batch = trial.batch(start=5)
        trial.losses(batch)
        trial.distiller.advance()
        others = torch.ones(SAMPLES, dtype=torch.bool).scatter(0, batch.indices, False)
        for name, tensor in _by_sample(trial).items():
            changed = (tensor != before[name]).reshape(SAMPLES, -1).any(1)
            if bool((changed & others).any()):
                yield f"the memory {name!r} was changed at samples that are not in the batch"


def micro_batches_leave_the_same_memory(case: Case) -> Iterator[str]:
    """Find memory in which the last micro-batch of a step takes the place of those before it."""
    if not case.strategy.exact_in_micro_batches:
        raise NotApplicableError("it says that it is not (exact_in_micro_batches)")
    whole, drew = _remembered(case, 1)
    if not whole:
        raise NotApplicableError("it has no memory")
    parts, _ = _remembered(case, 2)
    different = [name for name in whole if not _near(whole[name], parts[name])]
    if different and drew:
        raise draws("part to part")
    for name in different:
        yield f"the memory {name!r} is another after two micro-batches than after the whole batch"


def _remembered(case: Case, micro_batches: int) -> tuple[dict[str, Tensor], bool]:
    """Return the memory after one step, and whether random numbers were drawn in it."""
    with Trial(case) as trial:
        # Dropout differs from part to part, and batch normalisation relates the samples of each.
        trial.distiller.eval()
        batch = trial.batch()
        places, _ = Processes().parts(torch.arange(len(batch.indices)), micro_batches)
        counts = trial.distiller.task.count(len(batch.indices), batch.targets)
        for rows in places:
            trial.losses(Batch(*(tensor[rows] for tensor in batch)), counts)
        trial.distiller.advance()
        return _memory(trial), trial.onlooker.drew


def _near(one: Tensor, other: Tensor) -> bool:
    if not one.is_floating_point():
        return torch.equal(one, other)
    return torch.allclose(one, other, rtol=1e-4, atol=1e-6, equal_nan=True)


def _memory(trial: Trial) -> dict[str, Tensor]:
    memory: dict[str, Tensor] = trial.distiller.get_extra_state()["state"][LABEL]
    return {name: each.clone() for name, each in memory.items()}


def _by_sample(trial: Trial) -> dict[str, Tensor]:
    return {name: each for name, each in _memory(trial).items() if each.shape[:1] == (SAMPLES,)}


def instances_do_not_interfere(case: Case) -> Iterator[str]:
    """Find what two instances of a strategy share."""
    labels = ("one", "other")
    with Trial(case, *map(case.entry, labels)) as pair:
        together = _values(pair)
    for label in labels:
        with Trial(case, case.entry(label)) as trial:
            for name, values in _values(trial).items():
                what = f"{label!r} alone and beside another instance"
                yield from _differ(values, together[name], what)


def total_is_the_weighted_sum(case: Case) -> Iterator[str]:
    """Find strategies that other strategies in the run have an effect on, or the reverse."""
    company = {"name": Company, "label": "company", "weight": 0.25}
    with Trial(case) as trial:
        alone = _values(trial)
    with Trial(case, company) as trial:
        alone |= _values(trial)
    with Trial(case, case.entry(LABEL, weight=0.5), company, task_weight=0.75) as trial:
        together = _values(trial)
        losses = trial.losses()
    for name, values in alone.items():
        yield from _differ(values, together[name], f"{name!r} alone and in company")
    weighted = [losses.weights[name] * value for name, value in losses.auxiliary.items()]
    expected = 0.75 * losses.task + torch.stack(weighted).sum()
    if not torch.allclose(losses.total, expected, rtol=1e-5, equal_nan=True):
        yield f"the total is {losses.total.item()}, the weighted sum {expected.item()}"


def models_leave_clean(case: Case) -> Iterator[str]:
    """Find hooks and modules that a closed run has left on the models."""
    before = [(_hooks(model), list(model.state_dict())) for model in case.models()]
    with Trial(case) as trial:
        trial.learn(1)
    models = {"student": trial.student, "teacher": trial.teacher}
    for (whose, model), (hooks, names) in zip(models.items(), before, strict=True):
        if _hooks(model) != hooks:
            yield f"hooks were left on the {whose}"
        if list(model.state_dict()) != names:
            yield f"the {whose} holds other tensors than before"


class Company(Strategy):
    """Another strategy in the run: the squared error of the logits."""

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        """Return ``[batch]``."""
        return squared_error(student.logits, teacher.logits)


def _values(trial: Trial) -> dict[str, list[list[float]]]:
    """Return each auxiliary loss of two steps that change memory but no weights."""
    values: dict[str, list[list[float]]] = {}
    for start in (0, 3):
        for name, value in trial.losses(trial.batch(start=start)).auxiliary.items():
            values.setdefault(name, []).append([value.item()])
        trial.distiller.advance()
    return values


def _differ(one: Sequence[Any], other: Sequence[Any], what: str) -> Iterator[str]:
    for step, (left, right) in enumerate(zip(one, other, strict=True)):
        if not _equal(torch.tensor(left), torch.tensor(right)):
            yield f"{what} differ in step {step + 1}: {left} and {right}"
            return


def _equal(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        same = one.shape == other.shape and one.dtype == other.dtype
        return same and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
    return one == other


def _snapshot(model: nn.Module) -> dict[str, object]:
    found: dict[str, object] = {n: t.clone() for n, t in model.state_dict().items()}
    found |= {f"mode of {n or 'the model'}": m.training for n, m in model.named_modules()}
    return found | {f"requires_grad of {n}": p.requires_grad for n, p in model.named_parameters()}


def _hooks(model: nn.Module) -> int:
    # PyTorch has no public way to see hooks.
    owners: list[Any] = [*model.modules(), *model.parameters(), *model.buffers()]
    kept = [vars(owner).items() for owner in model.modules()]
    modules = sum(len(value) for item in kept for key, value in item if key.endswith("_hooks"))
    return modules + sum(len(getattr(o, "_backward_hooks", None) or ()) for o in owners)
