"""The teachers of an experiment that are models of their own: loaded or trained, and measured.

What they say ahead of training is kept from here, too. Students are in `run`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape
from torch import nn

from kdcore.asking import Identity
from kdcore.automatic import find
from kdcore.context import RunContext
from kdcore.devices import device_of
from kdcore.distiller import Distiller
from kdcore.errors import ModelError, TapError
from kdcore.evaluation import evaluate
from kdcore.files import load_weights, make_folder, save_weights
from kdcore.fingerprint import fingerprint_of, fingerprint_of_facts
from kdcore.history import History
from kdcore.job import OUTCOME, TEACHER_WEIGHTS, RunResult
from kdcore.models.build import code_of
from kdcore.nested import to_device
from kdcore.pooling import scores_of
from kdcore.probe import trace
from kdcore.saving import Seconds
from kdcore.tasks import ACCURACY, Classification, Task, has_target
from kdcore.teacher_sections import EnsembleConfig, TeacherConfig
from kdcore.teachers import TEACHER, title_of
from kdcore.training import Lesson, finished_before, signals_of, train_job

OUTCOMES = "teachers"
"""Folder of what teachers said that came trained."""


@dataclass(frozen=True)
class Teacher:
    """A teacher that is ready to teach.

    Attributes:
        model: the model with its weights.
        identity: who it is, and whether its weights are missing but what it said is kept.
        weights: the file that they are in; None where they come with a library.
        result: how it came about.
    """

    model: nn.Module
    identity: Identity
    weights: Path | None
    result: RunResult


def run_teachers(context: RunContext, seed: int) -> dict[str, Teacher]:
    """Load or train every teacher of the experiment that is a model of its own."""
    return {name: run_teacher(context, seed, name) for name in context.experiment.model_teachers}


def run_teacher(context: RunContext, seed: int, name: str = TEACHER) -> Teacher:
    """Load a teacher of the experiment, take the one trained before, or train it."""
    config = context.experiment.model_teachers[name]
    model = context.new_teacher(seed, name)
    if context.kept_answers[name] is None and (not config.comes_trained or config.fit):
        own = config.own_seed(seed)
        teacher = _trained(context, own, name, model.to(context.device))
        teacher = replace(teacher, result=replace(teacher.result, seed=seed))
    else:
        teacher = _loaded(context, seed, name, model)
    _tell_of_guessing(context, name, teacher.result)
    return teacher


def _tell_of_guessing(context: RunContext, name: str, result: RunResult) -> None:
    """Say, where a teacher's score is new, that it has learned nothing of the classes."""
    accuracy = result.scores.get(ACCURACY.name)
    task = context.task(context.experiment.train)
    if accuracy is None or result.kept or not isinstance(task, Classification):
        return
    targets = context.data.teachers[name].test.targets
    counts = targets[has_target(targets)].bincount()
    share = 100 * int(counts.max()) / int(counts.sum())
    if accuracy <= share:
        context.note(
            f"the {title_of(name)} is no better than guessing the most frequent class: "
            f"{ACCURACY.text(accuracy)}, and {share:.2f} % of the test samples are of that class"
        )


def _loaded(context: RunContext, seed: int, name: str, model: nn.Module) -> Teacher:
    """Measure a teacher that came trained; where its file is missing, it was measured before."""
    title, known = title_of(name), context.kept_answers[name]
    weights = context.experiment.model_teachers[name].weights
    origin = str(weights) if weights else context.built(title).origin
    other = context.built(title).head == "other"
    task = context.task(context.experiment.train)
    if known is None:
        data = context.data.teachers[name]
        config = context.experiment.model_teachers[name]
        fingerprint = _answering(fingerprint_of(model, data.given), config)  # of it whole
        # One that is spread over processes runs on none of them alone.
        spread = context.experiment.model_teachers[name].shard
        costs = None if spread else context.costs(title, model.to(context.device), data.test)
        asked = context.to_ask(name, model)
        scores = {} if other else evaluate(asked, data.test, task)
        file = make_folder(context.out / OUTCOMES) / f"{title}-{fingerprint[:8]}.safetensors"
        outcome = None if other else context.keep_outcome(asked, file, data.test, None)
        section = TEACHER if context.experiment.teachers is None else f"teachers.{name}"
        unused = [f"\\[{section}.train]"] if config.train else []
        unused += ["its seed"] if config.seed is not None else []
        said = f", {origin}" if weights is None else f" from {weights}"
        if other:
            said += ": its classes are others; it serves methods that compare features alone"
        elif context.built(title).head == "own" and weights is None:
            names = context.built(title).names
            shown = f"{escape(names[0])} to {escape(names[-1])}"
            said += f"; its classes, {shown}, are taken for the data's"
        said += _said(task, scores, ": {}") if scores else ""
        said += f"; not used: {' and '.join(unused)}" if unused else ""
    else:
        scores, fingerprint, costs, outcome = known["scores"], known["teacher"], None, None
        said = f": {weights} is missing; its kept answers serve{_said(task, scores, ' ({})')}"
    context.console.print(f"[bold]{title}[/]{said}", soft_wrap=True)
    measured = _measured(title, seed, scores, weights.parent if weights else context.out, task)
    result = replace(measured, outcome=outcome, costs=costs, origin=origin)
    return _known(context, name, model, fingerprint, weights, result, absent=known is not None)


def _trained(context: RunContext, seed: int, name: str, model: nn.Module) -> Teacher:
    """Train a teacher, or take the one that was trained before."""
    experiment, data, title = context.experiment, context.data.teachers[name], title_of(name)
    config, given = experiment.teacher_train(name), data.given
    facts: dict[str, object] = {
        "start": fingerprint_of(model, given),
        "code": code_of(experiment.model_teachers[name].model),
        "train": config.model_dump(mode="json"),
        "views_of": data.view_size if experiment.augment.active else None,
    }
    fit = experiment.model_teachers[name].fit
    trainable = (_head_of(model, given, title),) if fit and fit.mode == "head" else ()
    if fit:
        facts |= {"fit": fit.mode, "trained": list(trainable)}
    job = context.job(title, seed, facts, teacher=name)
    with job.alone(context.note):
        finished = finished_before(context, job)
        if finished is None:
            how, task = context.execution(config), context.task(config)
            history, seconds, untrained = History(), Seconds(), None
            if task.learns:
                with Distiller(
                    None,
                    model,
                    task=task,
                    device=context.device,
                    execution=how,
                    trainable=trainable,
                ) as distiller:
                    trained = train_job(
                        context, job, Lesson(distiller, config, data.train), data.test
                    )
                    history, seconds = trained
            else:  # there is nothing to train it by: it is taken as it was built
                untrained = evaluate(model, data.test, task)
            save_weights(job.folder / TEACHER_WEIGHTS, model.state_dict())
            context.keep_outcome(model, job.folder / OUTCOME, data.test, None)
            costs = context.costs(title, model, data.train)
            finished = job.finish(
                history,
                seconds,
                None,
                task.metrics,
                untrained,
                costs=costs,
                origin=context.built(title).origin,
            )
            job.forget()
        else:
            load_weights(model, job.folder / TEACHER_WEIGHTS, title)
    file, fingerprint = (job.folder / TEACHER_WEIGHTS).absolute(), fingerprint_of(model, given)
    return _known(context, name, context.to_ask(name, model), fingerprint, file, finished)


def _answering(fingerprint: str, config: TeacherConfig) -> str:
    """Return who a teacher is, with how its logits are made of its output."""
    said = config.model_dump(mode="json", include={"output", "class_map"}, exclude_none=True)
    return fingerprint_of_facts({"model": fingerprint, **said}) if said else fingerprint


def _head_of(model: nn.Module, given: Any, title: str) -> str:
    """Return the name of a teacher's head, which alone is fitted."""
    sample = torch.zeros(2, 3, given, given) if isinstance(given, int) else given
    try:
        (head,) = find("embedding", trace(model, to_device(sample, device_of(model)), title))
    except TapError as error:
        raise ModelError(
            f"{title}: which of its modules is its head cannot be told; fit all of it "
            f"(teacher.fit.mode = 'full'): {error}"
        ) from error
    return head.module


def _known(
    context: RunContext,
    name: str,
    model: nn.Module,
    fingerprint: str,
    weights: Path | None,
    result: RunResult,
    *,
    absent: bool = False,
) -> Teacher:
    """Say who a teacher is, and by what else its answers shall be found again."""
    labels = {
        "weights": str(weights or result.origin),
        "scores": dict(result.scores),
        "measured_on": context.data.teachers[name].fingerprint,
        "model": context.experiment.model_teachers[name].model,
        "images": context.data.name,
    }
    return Teacher(model, Identity(fingerprint, labels, absent), weights, result)


def _measured(
    title: str, seed: int, scores: Mapping[str, float], folder: Path, task: Task
) -> RunResult:
    """Return the row of a teacher that was not trained here."""
    return RunResult.untrained(title, seed, scores, task.metrics, str(folder))


def _said(task: Task, scores: Mapping[str, float], form: str) -> str:
    """Return the score that counts in some words, nothing where there is none."""
    return form.format(task.metric.text(scores[task.metric.name])) if task.metric else ""


def teacher_rows(
    context: RunContext, seed: int, teachers: Mapping[str, Teacher]
) -> list[RunResult]:
    """Return a row of each teacher that has one, and measure ensembles of those that are here."""
    rows = [teacher.result for teacher in teachers.values()]
    models = {name: teacher.model for name, teacher in teachers.items()}
    for name, config in context.experiment.teachers_by_name.items():
        if not isinstance(config, EnsembleConfig) or not set(config.ensemble) <= set(models):
            continue
        title = title_of(name)
        if missing := [each for each in config.ensemble if teachers[each].identity.absent]:
            context.note(f"{title} is not measured: {missing[0]}'s weights are missing")
            continue
        task = context.task(context.experiment.train)
        scores = scores_of(config.spec, models, context.data.test, task)
        said = f"{config.summary}{_said(task, scores, ': {}')}"
        context.console.print(f"[bold]{title}[/], {said}", soft_wrap=True)
        rows.append(_measured(title, seed, scores, context.out, task))
    return rows


def keep_answers(context: RunContext, seed: int) -> None:
    """Have the teachers of a seed say all that the experiment's students want, and keep it."""
    teachers = run_teachers(context, seed)
    models = {name: teacher.model for name, teacher in teachers.items()}
    stages = [stage for plan in context.experiment.plans for stage in plan if stage.strategies]
    for stage in stages:
        student = context.new_student(seed)
        with context.distiller(seed, student, models, stage) as distiller:
            context.cache.expect(distiller.teachers)
    identities = {name: teacher.identity for name, teacher in teachers.items()}
    source, asked = context.data.student, set[tuple[object, ...]]()
    for stage in stages:  # in the first of a teacher, what others want of it is computed too
        config = context.experiment.stage_train(stage)
        how = config.micro_batch, config.precision, config.compile
        names = models.keys() & context.teachers_of(stage.strategies).keys()
        if asked >= {(name, *how) for name in names}:
            continue
        student = context.new_student(seed)
        with context.distiller(seed, student, models, stage) as distiller:
            signals_of(context, Lesson(distiller, config, source, identities))
            asked |= {(name, *how) for name in distiller.teachers}
