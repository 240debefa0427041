"""Which student of a comparison is shipped: chosen on the validation split, never on the test's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from kdcore.errors import KdcoreError, RunError
from kdcore.experiment import ComparisonConfig, Experiment
from kdcore.job import RunResult
from kdcore.shipping.export import export_run
from kdcore.shipping.record import FOLDER
from kdcore.teachers import TEACHER, title_of


@dataclass(frozen=True)
class Attempt:
    """What came of shipping a student after a training: told when the report is written.

    Attributes:
        lines: what to tell.
        error: why nothing was exported; None where something was.
    """

    lines: tuple[str, ...]
    error: KdcoreError | None = None

    def tell(self, say: Callable[[str], None]) -> None:
        """Say it.

        Raises:
            KdcoreError: nothing was exported.
        """
        for line in self.lines:
            say(line)
        if self.error is not None:
            raise self.error


def attempt(
    experiment: Experiment, results: Sequence[RunResult], note: Callable[[str], None]
) -> Attempt:
    """Export the student that an experiment's ``[export]`` asks for; nothing without the section.

    Args:
        experiment: a run or a comparison.
        results: its runs, teachers among them.
        note: hears what is done.
    """
    if experiment.export is None:
        return Attempt(())
    try:
        chosen, why = choose(experiment, results)
        note(f"exporting {chosen.name}, seed {chosen.seed}: {why}")
        folder, best = Path(chosen.folder), chosen.best_epoch is not None
        shipment = export_run(folder, experiment.export, note, best=best)
    except KdcoreError as error:
        return Attempt((), error)
    title = f"student to ship: {chosen.name}, seed {chosen.seed}, in {folder / FOLDER}"
    return Attempt((f"{title} ({why})", *shipment.lines()))


def choose(experiment: Experiment, results: Sequence[RunResult]) -> tuple[RunResult, str]:
    """Return the run whose student is shipped, and why.

    With a validation split it is of those students, the one alone included, whose best weights
    score best on it in the mean over the seeds; of its seeds the best. Without one there is a
    single candidate, whose first seed is taken.

    Raises:
        RunError: no run has a score on the validation split.
    """
    students = [each for each in results if not _teaches(each)]
    if not isinstance(experiment, ComparisonConfig):
        return students[-1], "its own"
    if not experiment.chosen_by_validation:
        (candidate,) = experiment.candidates
        own = next(each for each in students if each.name == candidate.label)
        return own, "the one candidate"
    scores = [(each, score) for each in students if (score := _validation(each)) is not None]
    if not scores:
        raise RunError("export: no student has a score on the validation split")
    metric = scores[0][0].metric
    assert metric is not None
    sign = 1 if metric.higher_is_better else -1
    means = {
        name: fmean(score for each, score in scores if each.name == name)
        for name in dict.fromkeys(each.name for each, _ in scores)
    }
    name = max(means, key=lambda name: sign * means[name])
    own, _ = max(
        ((each, score) for each, score in scores if each.name == name),
        key=lambda pair: sign * pair[1],
    )
    return own, f"best on the validation split, {metric.text(means[name])} in the mean"


def _teaches(result: RunResult) -> bool:
    # No label of a student has a space.
    return result.name == TEACHER or result.name.startswith(title_of(""))


def _validation(result: RunResult) -> float | None:
    """Return the score of a run's best weights on the validation split."""
    if result.best_epoch is None or result.metric is None:
        return None
    record = result.epochs[result.best_epoch - 1]
    return float(record["validation"][result.metric.name])
