"""A comparison in one call, of models and data at hand or of an experiment's file.

What is compared how is in `comparison`; one training in one call is in `distill`.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from kdcore import configfile, report
from kdcore.api.distill import Data, Kept, Result, Training, source_of_data, task_for, training_of
from kdcore.asking import Identity
from kdcore.beforehand import Starts
from kdcore.cache import SignalCache
from kdcore.data.source import Source
from kdcore.devices import find_device
from kdcore.errors import ConfigError, ModelError
from kdcore.evaluation import evaluate
from kdcore.fingerprint import structure_of
from kdcore.frames import as_html, frame
from kdcore.frozen_teacher import AnyTeacher, models_of, named
from kdcore.job import STUDENT, RunResult
from kdcore.pooling import scores_of
from kdcore.sections import CacheConfig
from kdcore.selection import Entry, teachers_used
from kdcore.session import Session
from kdcore.tasks import Task
from kdcore.teachers import TEACHER, check_teachers, ensembles_of, title_of
from kdcore.weights import Moving

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table


@dataclass(frozen=True)
class Comparison:
    """What a comparison came to; shown as a table on terminals and in notebooks.

    Attributes:
        results: every run: teachers, the student alone, and each candidate, seed by seed.
        students: of models at hand, each trained student by name and seed; ``"student"`` is the
            one alone.
        folder: of an experiment's file, where its report is; None of models at hand.
    """

    results: tuple[RunResult, ...]
    students: Mapping[tuple[str, int], nn.Module] = field(
        default_factory=lambda: MappingProxyType({})
    )
    folder: Path | None = None

    @property
    def rows(self) -> list[report.Row]:
        """What each row of the table comes to over all seeds, by its ``title``."""
        return list(report.Sheet.of(self.results).rows)

    def to_pandas(self) -> "pd.DataFrame":
        """Return the runs as a table of pandas: a row each.

        Columns are ``name``, ``seed``, the scores by name, ``best NAME`` of the weights that were
        best on the validation data, ``loss``, ``seconds``, ``teacher seconds`` of asking
        teachers once for all runs, and ``best epoch``.
        """
        return frame(map(_flat, self.results))

    def __rich__(self) -> "Table":
        """Lay the table out for a terminal."""
        return report.terminal_table(self.results)

    def __str__(self) -> str:
        """Return the table as Markdown."""
        return report.markdown_table(self.results)

    def _repr_html_(self) -> str:
        """Return the table for a notebook."""
        return as_html(report.terminal_table(self.results))


def _flat(result: RunResult) -> dict[str, object]:
    best = {f"best {name}": value for name, value in (result.best_scores or {}).items()}
    return {
        "name": result.name,
        "seed": result.seed,
        **result.scores,
        **best,
        "loss": result.loss,
        "seconds": result.seconds,
        "teacher seconds": result.teacher_seconds,
        "best epoch": result.best_epoch,
    }


def compare(
    teacher: AnyTeacher | Mapping[str, AnyTeacher],
    student: Callable[[], nn.Module],
    train_data: Data,
    eval_data: Data,
    candidates: Mapping[str, Iterable[Entry]] | Sequence[str],
    *,
    seeds: Iterable[int] = (0, 1, 2),
    task: Task | None = None,
    validation_data: Data | None = None,
    task_weight: float | Moving | None = None,
    device: str = "auto",
    **training: Any,
) -> Comparison:
    """Train the student alone and with each candidate, from equal starts, seed by seed.

    What the teachers say is kept and shared by all runs, where samples are the same every epoch.

    Args:
        teacher: trained model to learn from, or several by name, as `distill` takes them.
        student: returns a new student each time; torch's random stream is seeded before.
        train_data: as `distill` takes it.
        eval_data: the like; it chooses nothing.
        candidates: by label, the strategies that a candidate learns by; or the names of some, of
            which each is a candidate.
        seeds: of initial weights, order, dropout and adapters.
        task: what the student is for; classification if not given.
        validation_data: to choose the best weights on.
        task_weight: weight of the task's loss in each candidate; what the strategies' papers use
            if not given.
        device: ``"auto"`` for the accelerator where there is one; or its name.
        training: keys of ``[train]``.

    Returns:
        `Comparison`.

    Raises:
        ConfigError: a key, a candidate or a seed is wrong.
        DataError: the data is empty, or its targets are not the task's.
        ModelError: the student does not begin with the same weights each time.
        NonFiniteLossError: a loss became infinite or not a number.
    """
    given = _candidates(candidates)
    chosen = _seeds(seeds)
    config = training_of(training)
    what_for = task_for(task, config)
    place = find_device(device)
    teachers = named(teacher)
    check_teachers(teachers, ensembles_of(teachers))
    source = source_of_data(train_data, "train_data")
    test = source_of_data(eval_data, "eval_data")
    held_out = (
        None if validation_data is None else source_of_data(validation_data, "validation_data")
    )
    cache = SignalCache(CacheConfig(disk=0), lambda _: None)
    models = models_of(teachers)
    kept = Kept(cache, {name: Identity(structure_of(model)) for name, model in models.items()})
    starts = Starts(lambda: _built(student), "the student")

    def prepared(entries: tuple[Entry, ...], seed: int) -> Training:
        used = teachers_used(entries, teachers, ensembles_of(teachers))
        return Training(
            teacher=used,
            student=starts.new(seed),
            entries=entries,
            train=source,
            test=test,
            validation=held_out,
            config=config,
            task=what_for,
            task_weight=task_weight if entries else None,
            seed=seed,
            device=place,
            kept=kept,
        )

    for entries in given.values():  # what cannot work fails before any training
        prepared(entries, chosen[0]).rehearse()
    teaching = list(_taught_by(teachers, test, what_for, place))
    plans: dict[str, tuple[Entry, ...]] = {STUDENT: ()} if what_for.learns else {}
    plans |= given
    results: list[RunResult] = []
    students: dict[tuple[str, int], nn.Module] = {}
    for seed in chosen:
        results += [replace(row, seed=seed) for row in teaching]
        for name, entries in plans.items():
            asked = cache.asking_seconds
            result = prepared(entries, seed).run()
            students[name, seed] = result.student
            run = _run(name, seed, result, test, what_for)
            results.append(replace(run, teacher_seconds=cache.asking_seconds - asked))
    return Comparison(tuple(results), MappingProxyType(students))


def compare_file(
    file: Path | str, *assignments: str, out: Path | str | None = None, quiet: bool = True
) -> Comparison:
    """Run the comparison of an experiment file, as ``kdcore compare FILE`` does.

    Args:
        file: of a comparison.
        assignments: keys to override, as ``"train.epochs=3"``.
        out: folder for all files; ``kdcore-runs/`` and the file's name if not given.
        quiet: whether to print nothing on the way.

    Raises:
        UserError: the file, the data or a model cannot be used.
        RunError: a run failed; those that were finished are kept, and the same call continues.
    """
    from rich.console import Console

    file = Path(file)
    tree = configfile.read_file(file)
    configfile.override(tree, list(assignments))
    config = configfile.as_comparison(tree, str(file))
    folder = Path(out) if out is not None else Path("kdcore-runs") / file.stem
    done = Session(folder, quiet).compare(config, file.stem)
    console = Console(quiet=quiet, highlight=False, emoji=False)
    done.shipped.tell(lambda line: console.print(line, markup=False, soft_wrap=True))
    return Comparison(done.results, folder=done.folder)


def _run(name: str, seed: int, result: Result, test: Source, task: Task) -> RunResult:
    """Return what a training came to as a row's run, its best weights scored."""
    history, best = result.history, None
    if history.best_weights is not None:
        choice = copy.deepcopy(result.student)
        choice.load_state_dict(history.best_weights)
        best = evaluate(choice, test, task)
    return RunResult.of_history(name, seed, history, result.seconds, task.metrics, best_scores=best)


def _taught_by(
    teachers: Mapping[str, AnyTeacher], test: Source, task: Task, place: torch.device
) -> Iterator[RunResult]:
    """Score the teachers that have logits, and the ensembles of these."""
    scored: dict[str, nn.Module] = {}
    for name, model in models_of(teachers).items():
        try:
            scores = evaluate(model.to(place), test, task)
        except ModelError:  # one without logits serves methods on features
            continue
        scored[name] = model
        yield RunResult.untrained(title_of(name), 0, scores, task.metrics)
    for name, ensemble in ensembles_of(teachers).items():
        if scored.keys() >= set(ensemble.members):
            scores = scores_of(ensemble, scored, test, task)
            yield RunResult.untrained(title_of(name), 0, scores, task.metrics)


def _candidates(
    given: Mapping[str, Iterable[Entry]] | Sequence[str],
) -> dict[str, tuple[Entry, ...]]:
    if not isinstance(given, Mapping):
        if len(set(given)) != len(given):
            raise ConfigError(f"candidates: {', '.join(given)}: one stands twice; give labels")
        given = {name: [name] for name in given}
    found = {label: tuple(entries) for label, entries in given.items()}
    for label, entries in found.items():
        if label in (STUDENT, TEACHER) or label.startswith(title_of("")):
            raise ConfigError(f"candidates: {label!r} is kdcore's own row: give it another label")
        if not entries:
            raise ConfigError(
                f"candidates: {label!r} has no strategies; the student alone is compared anyway"
            )
    if not found:
        raise ConfigError("candidates: there are none to compare")
    return found


def _seeds(given: Iterable[int]) -> tuple[int, ...]:
    seeds = tuple(given)
    if not seeds or len(set(seeds)) != len(seeds):
        raise ConfigError(f"seeds: {list(seeds)}: give one or more, each once")
    return seeds


def _built(student: Callable[[], nn.Module]) -> nn.Module:
    model = student()
    if not isinstance(model, nn.Module):
        raise ModelError(f"student returned {type(model).__name__}, not an nn.Module")
    return model
