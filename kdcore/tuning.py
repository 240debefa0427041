"""Searching for an experiment's settings on its validation split, candidate by candidate.

What is searched for is in `seeking`, one try of it in `trials`. The test samples are never looked
at here.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from kdcore import space
from kdcore.catalog import own_version
from kdcore.context import RunContext
from kdcore.errors import (
    ConfigError,
    Interrupted,
    KdcoreError,
    RunError,
)
from kdcore.experiment import CandidateConfig, ComparisonConfig, StageConfig
from kdcore.files import locked, write_json
from kdcore.fingerprint import fingerprint_of, fingerprint_of_facts, source_of
from kdcore.job import STUDENT
from kdcore.joblist import students
from kdcore.models.build import code_of
from kdcore.randomness import derive_seed
from kdcore.seeking import Range, Seeker, Sought
from kdcore.space import Dimension, Value
from kdcore.stages import through_stages
from kdcore.tasks import Metric
from kdcore.teacher_runs import Teacher, run_teachers
from kdcore.teachers import TEACHER
from kdcore.trainer import train
from kdcore.training import Lesson, signals_of
from kdcore.trials import (
    JOURNAL,
    STARTUP,
    STATES,
    Trial,
    Tried,
    Watch,
    check_installed,
    ended,
    open_study,
    suggested,
    told,
)

TRIALS = "tune.json"


@dataclass(frozen=True)
class Tuned:
    """What a search came to for one candidate.

    Attributes:
        sought: the candidate, and what was searched for.
        trials: all of them.
        best: the best one.
    """

    sought: Sought
    trials: tuple[Trial, ...]
    best: Trial

    @property
    def label(self) -> str:
        """The candidate's label; ``"student"`` is the student alone."""
        return self.sought.label

    @property
    def searched(self) -> tuple[Dimension, ...]:
        """What was searched for."""
        return self.sought.dimensions


def tuning_seeds(config: ComparisonConfig, given: Sequence[int] | None = None) -> list[int]:
    """Return the seeds of trials, which are none of those that are reported.

    Args:
        config: the comparison.
        given: seeds that are wanted; one that is derived from the comparison's if not given.

    Raises:
        ConfigError: they overlap, or one is given twice or cannot be a seed.
    """
    if given is None:
        numbered = (derive_seed(config.seeds[0], "tuning", each) % 2**31 for each in range(100))
        return [next(seed for seed in numbered if seed not in config.seeds)]
    if both := sorted(set(given) & set(config.seeds)):
        raise ConfigError(
            f"--seeds: {both[0]} is a seed that the file reports: what is chosen on a seed looks "
            "better on it than it is; take others"
        )
    if len(set(given)) != len(given) or not given or min(given) < 0:
        listed = ",".join(map(str, given))
        raise ConfigError(f"--seeds {listed}: expected whole numbers from 0, each once")
    return list(given)


def check_searchable(config: ComparisonConfig) -> None:
    """Refuse to search where nothing is held out to choose on.

    Raises:
        ConfigError: nothing is.
    """
    if not config.data.validation and not config.data.named:
        raise _nothing_held_out()


def _nothing_held_out() -> ConfigError:
    return ConfigError(
        "tune chooses on a validation split, never on the test samples: hold some of the training "
        "samples out (data.validation = 0.2)"
    )


class Search:
    """The search of one comparison.

    All trials learn from the same teachers, those of the first tuning seed, whose answers are
    computed once.

    Args:
        context: made from the same experiment.
        config: the comparison; images must be held out for validation.
        seeds: of trials.
        ranges: other ranges, by ``candidates.LABEL.strategies.NAME.KEY``,
            ``candidates.LABEL.task_weight`` or ``train.lr``.

    Raises:
        ConfigError: there is no validation split, or no score, or a range is of nothing.
        UserError: Optuna is missing, or a candidate cannot be set up as it is.
    """

    def __init__(
        self,
        context: RunContext,
        config: ComparisonConfig,
        seeds: Sequence[int],
        ranges: Mapping[str, Range] | None = None,
    ) -> None:
        check_installed()
        check_searchable(config)
        if context.data.validation is None:
            raise _nothing_held_out()
        metric = context.task(config.train).metric
        if metric is None:
            raise ConfigError("tune: the task has no score to choose by; give it one (task.metric)")
        self.metric: Metric = metric
        self._context, self._config, self._seeds = context, config, tuple(seeds)
        context.cache.say_lines_once()  # or each trial would
        self._validation = context.data.validation
        self._seeker = Seeker(context, config, self._seeds[0])
        self._sought = self._seeker.candidates(ranges or {})

    def describe(self) -> Iterator[str]:
        """Say what is searched for."""
        for sought in self._sought:
            for each in sought.dimensions:
                named = sought.named(each.path)
                shown = f"{named} of {title(sought.label)}" if each.path == space.LR else named
                yield str(replace(each, path=shown))
            for path, value, why in sought.fixed:
                yield f"not searched: {sought.named(path)} stays {value}: {why}"

    def changes(self, tuned: Tuned) -> Iterator[str]:
        """Say what was found of each setting of a candidate, and with what its trials began."""
        for each in tuned.searched:
            found = tuned.best.values[each.path]
            was = "as at first" if found == each.default else f"{_short(each.default)} at first"
            yield f"{tuned.sought.named(each.path)} {_short(found)}, {was}"

    def run(self, trials: int) -> list[Tuned]:
        """Search, or go on where it was stopped; every candidate gets equally many trials.

        Args:
            trials: of each candidate.

        Raises:
            RunError: of a candidate no trial was finished.
        """
        out, note = self._context.out, self._context.note
        tuned: list[Tuned] = []
        with locked(out, lambda: note(f"another process searches in {out}: waiting for it")):
            for sought in self._sought:
                tuned.append(self._candidate(sought, trials))
                write_json(out / TRIALS, self._record(tuned))
        return tuned

    def _record(self, tuned: Sequence[Tuned]) -> dict[str, object]:
        return {
            "metric": self.metric.name,
            "seeds": list(self._seeds),
            "candidates": [self._told(each) for each in tuned],
        }

    def _told(self, tuned: Tuned) -> dict[str, object]:
        """Return what a candidate came to, its settings named as users name them."""
        names = tuned.sought.names
        trials = [
            {
                **asdict(trial),
                "values": {names[path]: value for path, value in trial.values.items()},
            }
            for trial in tuned.trials
        ]
        return {
            "label": tuned.label,
            "best": tuned.best.number,
            "searched": [{**asdict(each), "path": names[each.path]} for each in tuned.searched],
            "trials": trials,
        }

    def _candidate(self, sought: Sought, trials: int) -> Tuned:
        import optuna

        states, label, dimensions = optuna.trial.TrialState, sought.label, sought.dimensions
        name = f"{label}-{self._key(sought)[:12]}"
        file, epochs = self._context.out / JOURNAL, self._config.train.epochs
        study = open_study(file, name, self.metric, epochs)
        # One that ran when the process died is done again.
        for stale in study.get_trials(deepcopy=False, states=(states.RUNNING,)):
            study.tell(stale.number, state=states.FAIL)
        while (done := len(ended(study))) < trials:
            # Of the trial's own number, so that a search that goes on is that of one piece.
            seed = derive_seed(self._config.seeds[0], "tune", label, done) % 2**32
            study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP)
            if not done and not study.get_trials(deepcopy=False, states=(states.WAITING,)):
                study.enqueue_trial(
                    {each.path: each.coordinate(each.default) for each in dimensions}
                )
            trial = study.ask()
            values = {each.path: suggested(trial, each) for each in dimensions}
            state, score, why = states.COMPLETE, None, ""
            try:
                score = self._tried(sought, values, trial)
                if math.isnan(score):
                    state, score, why = states.FAIL, None, f"{self.metric.name} is not a number"
            except optuna.TrialPruned:
                state = states.PRUNED
            except Interrupted:
                raise
            except KdcoreError as error:
                state, why = states.FAIL, " ".join(str(error).split())
            trial.set_user_attr("why", why)
            trial.set_user_attr("ended", True)
            study.tell(trial, score, state=state)
            shown = STATES[state.name] if score is None else self.metric.text(score)
            said = f": {why}" if why else ""
            self._context.note(f"{title(label)}, trial {done + 1} of {trials}: {shown}{said}")
        return self._tuned(sought, ended(study)[:trials])

    def _tuned(self, sought: Sought, tried: Sequence[Any]) -> Tuned:
        found = [told(number, each, sought.dimensions) for number, each in enumerate(tried)]
        best: Trial | None = None
        for trial in found:
            if trial.score is None:
                continue
            if best is None or best.score is None or self.metric.better(trial.score, best.score):
                best = trial
        if best is None:
            reasons = [trial.why for trial in found if trial.why]
            said = f"; the first failed: {reasons[0]}" if reasons else ""
            raise RunError(f"{title(sought.label)}: no trial was finished{said}")
        return Tuned(sought, tuple(found), best)

    def _key(self, sought: Sought) -> str:
        """Return the hash of what a candidate's trials depend on."""
        config, plan = self._config, sought.plan
        apart = {"candidates", "seeds", "device", "checkpoint", "processes", "log", "export"}
        facts = {
            "experiment": config.model_dump(mode="json", exclude={*apart, "cache", "data"}),
            "signals": config.cache.dtype,
            "data": self._context.data.fingerprint,
            "taught": {
                name: [each.fingerprint, str(each.preprocess)]
                for name, each in self._context.data.teachers.items()
            },
            "split": config.data.model_dump(mode="json", exclude={"root", "keep", "workers"}),
            "plan": [stage.model_dump(mode="json") for stage in plan],
            "methods": [
                source_of(type(member.strategy))
                for stage in plan
                for member in self._seeker.members(stage)
            ],
            "space": [asdict(each) for each in sought.dimensions],
            "seeds": [config.seeds[0], *self._seeds],
            "code": [code_of(name) for name in config.model_names],
            "models": self._starts,
            "kdcore": own_version(),
            **self._callables(),
        }
        return fingerprint_of_facts(facts)

    def _callables(self) -> dict[str, object]:
        """Return the hashes of a user's metric and wrappers; where there are none, nothing."""
        metric, wrappers = self._config.task.metric, self._context.wrappers
        found: dict[str, object] = {"metric": code_of(metric)} if metric else {}
        if wrappers:
            found["wrappers"] = {name: source_of(each) for name, each in wrappers.items()}
        return found

    @cached_property
    def _starts(self) -> list[str]:
        """The hashes of the models as they begin, with weights that come from files."""
        data, seed = self._context.data, self._seeds[0]
        student = fingerprint_of(self._context.new_student(seed), data.student_given)
        teachers = [
            fingerprint_of(self._context.new_teacher(seed, name), data.teachers[name].given)
            for name in self._config.model_teachers
        ]
        return [student, *teachers]

    def _tried(self, sought: Sought, values: Mapping[str, Value], trial: Tried) -> float:
        """Train a candidate with some values, on each tuning seed; return its mean score."""
        plan, scores = self._seeker.plan(sought, values), []
        for place, seed in enumerate(self._seeds):
            watch = Watch(self.metric, None if place else trial)
            self._train(sought.label, plan, seed, watch)
            assert watch.best is not None  # there is a validation split, and an epoch at least
            scores.append(watch.best)
        return sum(scores) / len(scores)

    def _train(self, label: str, plan: Sequence[StageConfig], seed: int, watch: Watch) -> None:
        context = self._context

        def learn(lesson: Lesson) -> None:
            train(
                lesson.distiller,
                lesson.source,
                lesson.config,
                seed,
                validation=self._validation,
                signals=signals_of(context, lesson),
                workers=context.data.workers,
                observers=(watch,),
                epochs_before=lesson.epochs_before,
            )

        taught = {} if label == STUDENT else self._teachers
        through_stages(context, context.new_student(seed), seed, plan, taught, learn)

    @cached_property
    def _teachers(self) -> dict[str, Teacher]:
        return run_teachers(self._context, self._seeds[0])


def title(label: str) -> str:
    """Return what a candidate is called in a line for people."""
    return "the student alone" if label == STUDENT else label


def _short(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def best_of(config: ComparisonConfig, tuned: Iterable[Tuned]) -> ComparisonConfig:
    """Return a comparison with the settings that were found, and the seeds that it reports.

    Each candidate has a learning rate of its own; the student alone's is that of ``[train]``.
    Teachers keep theirs.
    """
    found = {each.label: each.best.values for each in tuned}
    plans = {each.name: each.plan for each in students(config)}
    candidates = tuple(
        CandidateConfig(
            label=each.label,
            stages=space.with_values(plans[each.label], found[each.label], config.train.lr),
        )
        for each in config.candidates
    )
    lr = float(found.get(STUDENT, {}).get(space.LR, config.train.lr))
    teachers = {
        name: each
        if each.comes_trained
        else each.model_copy(update={"train": {"lr": config.train.lr, **each.train}})
        for name, each in config.model_teachers.items()
    }
    changed: dict[str, Any] = {
        "candidates": candidates,
        "train": config.train.model_copy(update={"lr": lr}),
        "task_weight": None,  # each stage has its own
    }
    if config.teachers is None:
        changed["teacher"] = teachers[TEACHER]
    else:
        changed["teachers"] = {**config.teachers, **teachers}
    return config.model_copy(update=changed)
