"""Which student of a comparison is shipped: chosen on the validation split, never on the test's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdcore.errors import KdcoreError, RunError
from kdcore.experiment import ComparisonConfig, Experiment
from kdcore.job import RunResult, best_on_validation
from kdcore.shipping.export import export_run
from kdcore.shipping.record import FOLDER


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
    students = [each for each in results if each.role != "teacher"]
    if not isinstance(experiment, ComparisonConfig):
        return students[-1], "its own"
    if not experiment.chosen_by_validation:
        (candidate,) = experiment.candidates
        own = next(each for each in students if each.name == candidate.label)
        return own, "the one candidate"
    best = best_on_validation((each.name, each) for each in students)
    if best is None:
        raise RunError("export: no student has a score on the validation split")
    metric = best.run.metric
    assert metric is not None  # or it had no score
    return best.run, f"best on the validation split, {metric.text(best.mean)} in the mean"
