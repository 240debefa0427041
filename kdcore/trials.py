"""One try of a candidate: what Optuna proposes, how it is watched, and what became of it.

What a search consists of is in `tuning`.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kdcore.errors import UserError, missing_extra
from kdcore.history import EpochRecord
from kdcore.readings import StepRecord
from kdcore.space import Dimension, Value
from kdcore.tasks import Metric

JOURNAL = "tune.journal"
"""Optuna's own record, from which a search goes on."""

STARTUP = 4
"""So many trials of a candidate are the file's own or random; none of them is stopped early."""

STATES = {"COMPLETE": "complete", "PRUNED": "stopped early", "FAIL": "failed"}


@dataclass(frozen=True)
class Trial:
    """One try of a candidate.

    Attributes:
        number: from 0, within its candidate; 0 is what it would be without a search.
        state: ``"complete"``, ``"stopped early"`` or ``"failed"``.
        score: mean over the tuning seeds of the best on the validation split; None where it was
            not reached.
        values: by path, see `kdcore.space.Dimension`.
        epochs: validation scores of the first tuning seed, by epoch from 1; None of one that is
            no number.
        why: it failed.
    """

    number: int
    state: str
    score: float | None
    values: Mapping[str, Value]
    epochs: Mapping[int, float | None]
    why: str = ""


class Tried(Protocol):
    """What of Optuna's trial is used."""

    def report(self, value: float, step: int) -> None:
        """Take a score after so many epochs."""

    def should_prune(self) -> bool:
        """Return whether others did better by then."""


def check_installed() -> None:
    """Refuse to search where Optuna is missing.

    Raises:
        UserError: it is.
    """
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise UserError(missing_extra("kdcore tune", "Optuna", "tune")) from None


def open_study(file: Path, name: str, metric: Metric, epochs: int) -> Any:
    """Return Optuna's study of a candidate, begun or found begun.

    Args:
        file: Optuna's record, of all candidates.
        name: of the study, which says what its trials depend on.
        metric: the score that counts.
        epochs: of a trial.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = optuna.storages.journal.JournalFileBackend(str(file))
    return optuna.create_study(
        study_name=name,
        storage=optuna.storages.JournalStorage(journal),
        direction="maximize" if metric.higher_is_better else "minimize",
        pruner=optuna.pruners.MedianPruner(
            n_startup_trials=STARTUP, n_warmup_steps=max(1, epochs // 4)
        ),
        load_if_exists=True,
    )


def told(number: int, trial: Any, dimensions: Iterable[Dimension]) -> Trial:
    """Return what Optuna has of a trial that ended, the so-many-th of its candidate from 0."""
    state = STATES[trial.state.name]
    # Of one that was stopped, Optuna has the last score that it heard.
    score = trial.value if state == "complete" else None
    heard = trial.intermediate_values.items()
    epochs = {epoch: None if math.isnan(value) else value for epoch, value in heard}
    values = {each.path: each.value(trial.params[each.path]) for each in dimensions}
    return Trial(number, state, score, values, epochs, trial.user_attrs["why"])


class Watch:
    """Hears of a training's epochs, and stops it where others did better by then.

    Args:
        metric: the score that counts.
        trial: that stops; None of trainings that run to their end.
    """

    def __init__(self, metric: Metric, trial: Tried | None) -> None:
        self._metric, self._trial = metric, trial
        self.best: float | None = None

    def on_step(self, record: StepRecord) -> None:
        """Hear of a step; nothing is decided by one."""

    def on_epoch(self, record: EpochRecord) -> None:
        """Hear of an epoch; see `kdcore.history.Observer`."""
        import optuna

        score = record.validation[self._metric.name]
        if self.best is None or math.isnan(self.best) or self._metric.better(score, self.best):
            self.best = score
        if self._trial is None:
            return
        self._trial.report(score, record.epoch)
        if self._trial.should_prune():
            raise optuna.TrialPruned


def ended(study: Any) -> list[Any]:
    """Return the trials that came to an end, in their order; not those that a death cut off."""
    return [
        each
        for each in study.get_trials(deepcopy=False)
        if each.state.is_finished() and each.user_attrs.get("ended")
    ]


def suggested(trial: Any, dimension: Dimension) -> Value:
    """Return what a trial of Optuna's shall try of a dimension."""
    path, low, high = dimension.path, dimension.low, dimension.high
    if dimension.choices:
        chosen: Value = trial.suggest_categorical(path, dimension.choices)
        return chosen
    assert low is not None
    assert high is not None
    if dimension.whole:
        return int(trial.suggest_int(path, int(low), int(high), log=dimension.log))
    ends = sorted(float(dimension.coordinate(end)) for end in (low, high))
    log = dimension.log or dimension.from_one
    return dimension.value(trial.suggest_float(path, *ends, log=log))
