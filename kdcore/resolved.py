"""One run's experiment with everything that was decided for it written out, to run it again."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kdcore.data.prepared import PreparedData
from kdcore.data.preprocess import Preprocess
from kdcore.distiller import Distiller
from kdcore.experiment import Experiment, RunConfig, StageConfig, StrategyConfig
from kdcore.hooks import Member
from kdcore.teacher_sections import TeacherConfig
from kdcore.teachers import TEACHER


def resolve(
    experiment: Experiment,
    data: PreparedData,
    stages: Sequence[StageConfig],
    seed: int,
    taught_by: Collection[str],
    weights: Mapping[str, Path | None],
) -> RunConfig:
    """Return the experiment of one run: weights, taps, image sizes and the teachers' files.

    Of several teachers it has those that the run learns from.

    Args:
        experiment: what was given.
        data: its data.
        stages: of the run, resolved.
        seed: of the run.
        taught_by: names of the teachers that it learns from.
        weights: the files of its teachers, by name.
    """
    teachers = {
        name: _taught(each, data.teachers[name].preprocess, weights.get(name))
        if isinstance(each, TeacherConfig)
        else each
        for name, each in experiment.teachers_by_name.items()
    }
    named = {name: teachers[name] for name in teachers if name in taught_by}
    augment = experiment.augment
    if augment.active:  # of whose views a teacher that is left out may have set the size
        augment = augment.model_copy(update={"image_size": data.view_size})
    student = experiment.student.model_copy(update=_decided(data.student_preprocess))
    given = {key: getattr(experiment, key) for key in Experiment.model_fields}
    decided = {
        "student": student,
        "teacher": None if experiment.teachers else teachers[TEACHER],
        "teachers": named if experiment.teachers and named else None,
        "augment": augment,
        "seed": seed,
        "task_weight": None,
    }
    only, *more = stages
    if more or only.trainable or only.train:
        return RunConfig(**{**given, **decided, "stages": tuple(stages)})
    one = {"task_weight": only.task_weight, "strategies": only.strategies}
    return RunConfig(**{**given, **decided, **one})


def _taught(
    teacher: TeacherConfig, preprocess: Preprocess | None, weights: Path | None
) -> TeacherConfig:
    """Return a teacher with its images decided, and with the file that it was trained to."""
    decided = _decided(preprocess)
    if weights is not None:
        # What was fitted has the data's classes.
        fitted = {"fit": None, "classes": None} if teacher.fit else {}
        decided |= {"weights": weights, "pretrained": False, **fitted}
    return teacher.model_copy(update=decided)


def _decided(preprocess: Preprocess | None) -> dict[str, Any]:
    """Return the keys of a model that say how it wants its images."""
    if preprocess is None:
        return {}
    decided = asdict(preprocess)
    return {"image_size": decided.pop("size"), **decided}


def resolve_stage(stage: StageConfig, distiller: Distiller) -> StageConfig:
    """Return a stage with the weights and taps that its distiller has."""
    strategies = tuple(_entry(distiller, member) for member in distiller.members)
    decided = {"strategies": strategies, "task_weight": distiller.task_weight}
    return stage.model_copy(update=decided)


def _entry(distiller: Distiller, member: Member) -> StrategyConfig:
    settings = {
        key: _found(distiller, member, key, value)
        for key, value in member.strategy.settings.model_dump(mode="json").items()
    }
    return _written(member, settings)


def entry_of(member: Member) -> StrategyConfig:
    """Return a strategy's entry with its weight and all of its settings written out."""
    return _written(member, member.strategy.settings.model_dump(mode="json"))


def _written(member: Member, settings: Mapping[str, Any]) -> StrategyConfig:
    entry = {"name": member.name, "label": member.label, "weight": member.weight, **settings}
    if member.teacher != TEACHER:
        entry["teacher"] = member.teacher
    return StrategyConfig.model_validate(entry)


def _found(distiller: Distiller, member: Member, key: str, value: Any) -> Any:
    """Replace ``auto:KIND`` by what was found, in settings that say by name whose tap they are."""
    if isinstance(value, list):
        found = [_found(distiller, member, key, item) for item in value]
        return [tap for item in found for tap in (item if isinstance(item, list) else [item])]
    if not (isinstance(value, str) and value.startswith("auto:")):
        return value
    sides = {"student": "student", "teacher": member.teacher}
    side = sides.get(key.partition("_")[0])
    taps = distiller.automatic_taps.get(side, {}).get(value.removeprefix("auto:")) if side else None
    if taps is None:
        return value
    return taps[0] if len(taps) == 1 else list(taps)
