"""Students of an experiment: from a seed to a folder of files.

Their teachers are in `teacher_runs`, what all runs share in `context`. How they are compared is in
`comparison`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn

from kdcore.card import CARD, card_of
from kdcore.configfile import as_toml
from kdcore.context import RunContext
from kdcore.evaluation import evaluate
from kdcore.experiment import StageConfig
from kdcore.files import save_weights, write_bytes
from kdcore.fingerprint import fingerprint_of, source_of
from kdcore.history import History
from kdcore.job import BEST_WEIGHTS, CONFIG, OUTCOME, STUDENT, STUDENT_WEIGHTS, Job, RunResult
from kdcore.models.build import code_of
from kdcore.resolved import resolve, resolve_stage
from kdcore.saving import Seconds
from kdcore.stages import through_stages
from kdcore.teacher_runs import Teacher
from kdcore.teacher_sections import AnyTeacherConfig, TeacherConfig
from kdcore.training import Lesson, finished_before, train_job


def run_student(
    context: RunContext,
    seed: int,
    name: str,
    plan: Sequence[StageConfig],
    teachers: Mapping[str, Teacher],
) -> RunResult:
    """Train one student from the initial weights of its seed, or take what was trained before.

    Args:
        context: what it shares with others.
        seed: of weights, order and dropout.
        name: of its row; also of its folder.
        plan: its stages, one after the other.
        teachers: by name, those that it learns from among them.
    """
    data, models = context.data, {each: teachers[each].model for each in teachers}
    student = context.new_student(seed)
    stages, methods, used = [], [], dict[str, object]()
    for stage in plan:
        used |= _facts(context, context.teachers_of(stage.strategies), teachers)
        with context.distiller(seed, student, models, stage) as distiller:
            stages.append(resolve_stage(stage, distiller))
            for member in distiller.members:
                methods.append([str(member.origin), source_of(type(member.strategy))])
    weights = {each: teachers[each].weights for each in teachers}
    resolved = resolve(context.experiment, data, stages, seed, used, weights)
    chosen = resolved.model_dump(mode="json", include={"task_weight", "strategies", "stages"})
    facts = {
        "start": fingerprint_of(student, data.student_given),
        "code": code_of(context.experiment.student.model),
        "train": context.experiment.train.model_dump(mode="json"),
        "teachers": used,
        "signals": context.experiment.cache.dtype if used else None,
        "methods": methods,
        **chosen,
    }
    job = context.job(name, seed, facts)
    with job.alone(context.note):
        kept = finished_before(context, job)
        if kept is not None:
            return kept
        write_bytes(job.folder / CONFIG, as_toml(resolved).encode())
        history, seconds = _learn(context, student, job, stages, teachers)
        origin = context.built(STUDENT).origin
        best_scores, task = None, context.task(context.experiment.train)
        last = history.epochs[-1].scores
        card = card_of(context.experiment, data, name, seed, last, origin=origin)
        save_weights(job.folder / STUDENT_WEIGHTS, student.state_dict(), card.metadata())
        card.save(job.folder / CARD)
        context.keep_outcome(student, job.folder / OUTCOME, data.test, data.validation)
        if history.best_weights is not None:
            student.load_state_dict(history.best_weights)
            best_scores = evaluate(student, data.test, task)
            best = replace(card, weights="best", scores=best_scores)
            save_weights(job.folder / BEST_WEIGHTS, history.best_weights, best.metadata())
        costs = context.costs(STUDENT, student, data.student)
        result = job.finish(history, seconds, best_scores, task.metrics, costs=costs, origin=origin)
        job.forget()
        return result


def _facts(
    context: RunContext,
    used: Mapping[str, AnyTeacherConfig],
    teachers: Mapping[str, Teacher],
) -> dict[str, object]:
    """Return what of some teachers a student's result depends on, by name."""
    return {
        name: [teachers[name].identity.fingerprint, str(context.data.teachers[name].preprocess)]
        if isinstance(each, TeacherConfig)
        else each.model_dump(mode="json")
        for name, each in used.items()
    }


def _learn(
    context: RunContext,
    student: nn.Module,
    job: Job,
    stages: Sequence[StageConfig],
    teachers: Mapping[str, Teacher],
) -> tuple[History, Seconds]:
    """Go through the stages of a student; those that were finished before are read again."""

    def learn(lesson: Lesson) -> tuple[History, Seconds]:
        return train_job(context, job, lesson, context.data.test)

    history, seconds = History(), Seconds()
    for part, took in through_stages(context, student, job.seed, stages, teachers, learn):
        history.extend(part)
        seconds += took
    return history, seconds
