"""What a search goes through: of each candidate, which settings, between what.

Which settings there are is in `space`, the search itself in `tuning`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from pydantic import ValidationError

from kdcore import space
from kdcore.automatic import find
from kdcore.comparison import rehearse
from kdcore.context import RunContext
from kdcore.errors import ConfigError, KdcoreError, TapError, unknown
from kdcore.experiment import ComparisonConfig, StageConfig
from kdcore.hooks import Member
from kdcore.job import STUDENT
from kdcore.joblist import students
from kdcore.probe import trace
from kdcore.selection import select
from kdcore.space import Dimension, Value
from kdcore.teachers import TEACHER
from kdcore.validation import describe_validation

Range = tuple[float, float, bool]
"""Lowest and highest value, and whether it is searched by the logarithm."""


@dataclass(frozen=True)
class Sought:
    """A candidate whose settings are searched for.

    Attributes:
        label: of the candidate; ``"student"`` is the student alone.
        plan: its stages as they are without a search.
        dimensions: what is searched for.
        fixed: what is not: path, value, and why.
    """

    label: str
    plan: tuple[StageConfig, ...]
    dimensions: tuple[Dimension, ...] = ()
    fixed: tuple[tuple[str, Value, str], ...] = ()

    def named(self, path: str) -> str:
        """Return a path as users write it."""
        if path == space.LR:
            return "train.lr"
        number, place, *key = path.split(".", 2)
        stage = f".stages.{number}" if len(self.plan) > 1 else ""
        if not key:
            return f"candidates.{self.label}{stage}.{place}"
        entry = self.plan[int(number)].strategies[int(place)]
        return f"candidates.{self.label}{stage}.strategies.{entry.label or entry.name}.{key[0]}"

    @property
    def names(self) -> dict[str, str]:
        """The paths of what is searched for, each with what users write."""
        return {each.path: self.named(each.path) for each in self.dimensions}


class Seeker:
    """Finds what can be searched for in the candidates of a comparison.

    Args:
        context: made from the same experiment.
        config: the comparison.
        seed: of the models that are tried.
    """

    def __init__(self, context: RunContext, config: ComparisonConfig, seed: int) -> None:
        self._context, self._config, self._seed = context, config, seed

    def candidates(self, ranges: Mapping[str, Range]) -> tuple[Sought, ...]:
        """Return what is searched for of each candidate.

        Args:
            ranges: other ranges than the settings' own, by the names that users write.

        Raises:
            ConfigError: a range is of nothing.
            UserError: a candidate cannot be set up as it is.
        """
        config, maps = self._config, self._maps()
        first = [each for each in students(config) if each.seed == config.seeds[0]]
        bare = (Sought(each.name, tuple(each.plan)) for each in first)
        sought = tuple(self._with_space(each, maps) for each in bare)
        for named, range_ in ranges.items():
            sought = self._narrowed(sought, named, range_)
        return self._rehearsed(sought)

    def plan(self, sought: Sought, values: Mapping[str, Value]) -> tuple[StageConfig, ...]:
        """Return a candidate's stages with some values.

        Raises:
            ConfigError: it cannot have them.
        """
        try:
            plan = space.with_values(sought.plan, values, self._config.train.lr)
            for stage in plan:
                self._config.stage_train(stage)
        except ValidationError as error:
            raise ConfigError(describe_validation(error, sought.label, StageConfig)) from None
        return plan

    def members(self, stage: StageConfig) -> list[Member]:
        """Return one member of each entry; one that learns from all teachers is several alike."""
        names = tuple(self._config.teachers_by_name)
        return [select([entry], names, self._context.catalog)[0] for entry in stage.strategies]

    def _maps(self) -> dict[str, tuple[str, ...]]:
        """Return the stages of each model, to choose a map among beside the one that is usual."""
        context = self._context
        sample = context.data.student.batch(torch.arange(min(2, len(context.data.student))))
        models = {STUDENT: (context.new_student(self._seed), sample.inputs)}
        if self._config.teachers is None and TEACHER in self._config.model_teachers:
            models[TEACHER] = (context.new_teacher(self._seed), sample.teacher_inputs)
        found: dict[str, tuple[str, ...]] = {}
        for where, (model, given) in models.items():
            try:
                ran = trace(model.to("cpu"), given, where)
                usual, stages = find("feature_map", ran), find("stages", ran)
            except TapError:
                continue  # such a model has no maps to choose among
            found[where] = tuple(str(tap) for tap in stages if tap not in usual)
        return found

    def _with_space(self, sought: Sought, maps: Mapping[str, Sequence[str]]) -> Sought:
        """Return a candidate with what can be searched for, and what cannot."""
        task = self._config.task.kind != "none"
        stages = [(stage, self.members(stage)) for stage in sought.plan]
        dimensions, fixed = [space.of_lr(self._config.train.lr)], list[tuple[str, Value, str]]()
        for number, (stage, members) in enumerate(stages):
            dimensions += space.of_stage(number, stage, members, maps, task=task)
        found = [each.path for each in dimensions]
        for number, (stage, members) in enumerate(stages):
            fixed += space.left_out(number, stage, members, found)
        return replace(sought, dimensions=tuple(dimensions), fixed=tuple(fixed))

    def _narrowed(
        self, sought: tuple[Sought, ...], named: str, range_: Range
    ) -> tuple[Sought, ...]:
        """Give a dimension the range that a user wants: the learning rate everybody's.

        Raises:
            ConfigError: there is no such dimension, or the range is none of its.
        """
        known = [name for each in sought for name in each.names.values()]
        if named not in known:
            raise ConfigError(f"--search: {unknown('setting', named, known)}")
        return tuple(
            replace(
                one,
                dimensions=tuple(
                    self._within(one, each, range_) if one.named(each.path) == named else each
                    for each in one.dimensions
                ),
            )
            for one in sought
        )

    def _within(self, sought: Sought, dimension: Dimension, range_: Range) -> Dimension:
        """Return a dimension with another range, whose ends can be values.

        Raises:
            ConfigError: they cannot.
        """
        try:
            dimension = dimension.within(*range_)
            for end in (dimension.low, dimension.high):
                assert end is not None
                value = int(end) if dimension.whole else end
                for stage in self.plan(sought, {dimension.path: value}):
                    self.members(stage)
        except KdcoreError as error:
            raise ConfigError(f"--search {sought.named(dimension.path)}: {error}") from None
        return dimension

    def _rehearsed(self, sought: tuple[Sought, ...]) -> tuple[Sought, ...]:
        """Set everything up once, so that a teacher says in one pass all that trials may ask.

        A choice that a candidate cannot be set up with, such as a tap that does not fit its
        method, is none.
        """
        seed = self._seed
        models = self._context.new_teachers(seed)
        tried = []
        for one in sought:
            rehearse(self._context, seed, models, self.plan(one, {}))
            kept = []
            for each in one.dimensions:
                choices = []
                for choice in each.choices:
                    try:
                        if choice != each.default:
                            plan = self.plan(one, {each.path: choice})
                            rehearse(self._context, seed, models, plan)
                    except KdcoreError as error:
                        named = one.named(each.path)
                        self._context.note(f"left out: {named} = {choice}: {error}")
                        continue
                    choices.append(choice)
                if len(choices) != 1:
                    kept.append(replace(each, choices=tuple(choices)))
            tried.append(replace(one, dimensions=tuple(kept)))
        return tuple(tried)
