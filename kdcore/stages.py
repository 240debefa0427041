"""The stages of a student, one after the other; each is a training of its own.

What is set up for a stage is decided in `context`, how one is trained in `training`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from torch import nn

from kdcore.context import RunContext
from kdcore.experiment import StageConfig
from kdcore.teacher_runs import Teacher
from kdcore.training import Lesson

T = TypeVar("T")


def through_stages(
    context: RunContext,
    student: nn.Module,
    seed: int,
    plan: Sequence[StageConfig],
    teachers: Mapping[str, Teacher],
    learn: Callable[[Lesson], T],
) -> list[T]:
    """Set up each stage of a student, have it learn, and return what each came to.

    What strategies have trained and remember is handed on from stage to stage, by their labels.

    Args:
        context: what it shares with others.
        student: as it begins; it is trained in place.
        seed: of it.
        plan: its stages.
        teachers: by name, those that it learns from among them.
        learn: trains the student in one stage.
    """
    models = {name: each.model for name, each in teachers.items()}
    identities = {name: each.identity for name, each in teachers.items()}
    carried, before, results = dict[str, Mapping[str, Any]](), 0, list[T]()
    for number, stage in enumerate(plan):
        config = context.experiment.stage_train(stage)
        used = models.keys() & context.teachers_of(stage.strategies).keys()
        source = context.data.student.for_teachers(used)
        with context.distiller(seed, student, models, stage) as distiller:
            distiller.take_over(carried)
            lesson = Lesson(distiller, config, source, identities, number, len(plan), before)
            results.append(learn(lesson))
            carried |= distiller.carried()
        before += config.epochs
    return results
