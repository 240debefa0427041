"""One training as a thing to be done: what it is called, where its files are, what it came to."""

import hashlib
import math
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from datetime import date
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, Self

from kdcore.costs import Costs
from kdcore.errors import NonFiniteLossError, ResumeError
from kdcore.files import locked, make_folder, read_json, write_json
from kdcore.fingerprint import CONTINUED, ENVIRONMENT, difference, fingerprint_of_facts
from kdcore.history import History, accuracy_of
from kdcore.saving import Seconds, check_origin
from kdcore.sections import RANDOM
from kdcore.tasks import Metric
from kdcore.teachers import TEACHER, title_of

BEGUN = "job.json"
RESULT = "result.json"
FAILURE = "failure.json"
CHECKPOINTS = "checkpoints"
CONFIG = "config.toml"
METRICS = "metrics.jsonl"
TEACHER_WEIGHTS = "teacher.safetensors"
STUDENT_WEIGHTS = "student.safetensors"
BEST_WEIGHTS = "best.safetensors"
OUTCOME = "outcome.safetensors"
"""What a run's model said of the test samples."""

MARKDOWN = "report.md"
"""A report in short."""
ROWS = "report.json"
"""What a report said, by which it is made again."""

STUDENT = "student"
"""Name of the row of the student alone."""

Role = Literal["teacher", "alone", "candidate"]

NO_MACHINE = "a machine that was not noted"


@dataclass(frozen=True)
class RunResult:
    """What one run came to.

    Attributes:
        name: ``"teacher"``, of several ``"teacher NAME"``, ``"student"`` for the student alone, or
            the candidate's label.
        seed: its seed.
        scores: of the last weights on the test samples, by name; the first heads reports.
        loss: mean total loss of the last epoch; None of a teacher that came trained.
        seconds: from the first step to the last evaluation; 0 of a teacher that came trained.
        epochs: the records of all epochs, as dictionaries.
        best_epoch: of the best validation score, from 1; None without validation.
        best_scores: of the weights after it, on the test samples; None without validation.
        folder: where its files are.
        metrics: what its scores are: name, unit and whether more is better.
        outcome: the file of what its model said of the test samples; None where there is none.
        costs: of its model where it is used; None where they were not measured.
        origin: where its model's weights began.
        kept: whether it was finished before and not repeated.
        teacher_seconds: of asking teachers once for all that is kept of what they say, which the
            run that asked first did for all; 0 where they answer step by step, within `seconds`,
            and of results that were saved before it was told apart from these.
        made: the day on which it was finished, nothing where that was not noted.
        machine: what it was finished on, in a line; nothing where that was not noted.
        samples: hash of the samples that it was trained and tested on, as `PreparedData` has it;
            nothing where that was not noted.
    """

    name: str
    seed: int
    scores: Mapping[str, float]
    loss: float | None
    seconds: float
    epochs: tuple[dict[str, Any], ...]
    best_epoch: int | None
    best_scores: Mapping[str, float] | None
    folder: str
    metrics: tuple[Metric, ...]
    outcome: str | None = None
    costs: Costs | None = None
    origin: str = RANDOM
    kept: bool = False
    teacher_seconds: float = 0.0
    made: str = ""
    machine: str = ""
    samples: str = ""

    @classmethod
    def of_history(
        cls,
        name: str,
        seed: int,
        history: History,
        seconds: float,
        metrics: tuple[Metric, ...],
        *,
        best_scores: Mapping[str, float] | None = None,
        folder: str = "",
    ) -> Self:
        """Make it of the history of a training, of an epoch at least."""
        last = history.epochs[-1]
        return cls(
            name=name,
            seed=seed,
            scores=last.scores,
            loss=last.loss,
            seconds=seconds,
            epochs=tuple(asdict(record) for record in history.epochs),
            best_epoch=history.best_epoch,
            best_scores=best_scores,
            folder=folder,
            metrics=metrics,
        )

    @classmethod
    def untrained(
        cls,
        name: str,
        seed: int,
        scores: Mapping[str, float],
        metrics: tuple[Metric, ...],
        folder: str = "",
    ) -> Self:
        """Make it of the scores of a model that was taken as it came."""
        return cls(
            name=name,
            seed=seed,
            scores=scores,
            loss=None,
            seconds=0.0,
            epochs=(),
            best_epoch=None,
            best_scores=None,
            folder=folder,
            metrics=metrics,
        )

    @classmethod
    def of(cls, saved: Mapping[str, Any]) -> Self:
        """Make it of what `dataclasses.asdict` and JSON made of it."""
        metrics = tuple(Metric(**metric) for metric in saved["metrics"])
        costs = saved.get("costs") and Costs(**saved["costs"])
        whole = {"epochs": tuple(saved["epochs"]), "metrics": metrics, "costs": costs}
        return cls(**{**saved, **whole})

    @property
    def metric(self) -> Metric | None:
        """What the score is that heads reports; None where the task has none."""
        return self.metrics[0] if self.metrics else None

    @property
    def accuracy(self) -> float:
        """The accuracy in per cent; a `ScoreError` where there is none."""
        return accuracy_of(self.scores)

    @property
    def role(self) -> Role:
        """Whose run it is: no label of a candidate has a space."""
        if self.name == TEACHER or self.name.startswith(title_of("")):
            return "teacher"
        return "alone" if self.name == STUDENT else "candidate"

    @property
    def validation_score(self) -> float | None:
        """The score that counts of the best weights, on the validation split; None without one."""
        if self.best_epoch is None or self.metric is None:
            return None
        score = self.epochs[self.best_epoch - 1].get("validation", {}).get(self.metric.name)
        return None if score is None else float(score)


@dataclass(frozen=True)
class Choice:
    """What the validation split chooses of some runs.

    Attributes:
        row: the row whose best weights score best on it, in the mean over its runs.
        mean: that mean.
        run: the best of the row's runs.
    """

    row: str
    mean: float
    run: RunResult


def best_on_validation(results: Iterable[tuple[str, RunResult]]) -> Choice | None:
    """Choose a student, the one alone included, on the validation split; of equal ones the first.

    A row is compared by all of its runs: where one has no score on it, or a score that is no
    number, the row is not chosen, since the others' mean would be one of other seeds.

    Args:
        results: what a run's row is called, and the run; teachers may be among them.

    Returns:
        What is chosen; None where no student has a score.
    """
    rows: dict[str, list[RunResult]] = {}
    for row, run in results:
        if run.role != "teacher":
            rows.setdefault(row, []).append(run)
    best: Choice | None = None
    for row, runs in rows.items():
        scored = [(score, run) for run in runs if (score := run.validation_score) is not None]
        if len(scored) < len(runs):
            continue
        score, own = scored[0]
        metric, mean = own.metric, fmean(each for each, _ in scored)
        assert metric is not None  # or it had no score
        if math.isnan(mean) or (best is not None and not metric.better(mean, best.mean)):
            continue
        for each, run in scored[1:]:
            if metric.better(each, score):
                score, own = each, run
        best = Choice(row, mean, own)
    return best


def machines_of(results: Iterable[RunResult]) -> list[str]:
    """Return what some runs were trained on, each machine once; nothing of what came trained."""
    return list(dict.fromkeys(each.machine or NO_MACHINE for each in results if each.seconds))


@dataclass(frozen=True)
class Job:
    """A training to be done, or found done.

    Attributes:
        kind: whether a teacher or a student is trained.
        name: of its row and folder.
        seed: its seed.
        facts: everything that its result depends on, by name, as JSON has it.
        out: folder of all runs.
        machine: what it is done on, in a line.
        samples: hash of the samples that it is trained and tested on.
        at: its own folder, where it is not named after its key.
    """

    kind: Literal["teacher", "student"]
    name: str
    seed: int
    facts: Mapping[str, object]
    out: Path
    machine: str
    samples: str
    at: Path | None = None

    @cached_property
    def key(self) -> str:
        """The hash of all facts."""
        return fingerprint_of_facts(self.facts)

    @property
    def folder(self) -> Path:
        """The folder of its files, which is there once it is locked or begun.

        Eight digits of the key name it. A job whose key begins with the same ones has the same
        folder: what lies there counts as finished with the whole key alone.
        """
        return self.at or self.out / f"{self._stem}-seed{self.seed}-{self.key[:8]}"

    @property
    def _stem(self) -> str:
        """How its folder is called: no label has a dot."""
        return self.name.replace(" ", ".")

    def alone(self, note: Callable[[str], None]) -> AbstractContextManager[None]:
        """Keep other processes from the same job; waits for one that is at it, and says so."""
        waits = f"another process is at {self.folder}: waiting for it"
        return locked(self.folder, lambda: note(waits))

    def begin(self) -> None:
        """Write down what it begins with."""
        begun = {"kind": self.kind, "name": self.name, "seed": self.seed, "facts": self.facts}
        write_json(make_folder(self.folder) / BEGUN, begun)

    def continuing(self, folder: Path, note: Callable[[str], None], *, exact: bool) -> "Job":
        """Return the job that was begun in a folder, if it is this one.

        Args:
            folder: of its files.
            note: hears where the machine or versions differ.
            exact: whether to refuse that.

        Raises:
            ResumeError: another job was begun there.
        """
        begun = begun_in(folder)
        if begun["kind"] != self.kind:
            raise ResumeError(
                f"{folder} is of a {begun['kind']}: it goes on with the run of its student"
            )
        facts = begun["facts"]
        check_origin(facts, self.facts, str(folder), note, exact=exact)
        here = {name: self.facts.get(name) for name in sorted(ENVIRONMENT - {CONTINUED})}
        if any(facts.get(name) != value for name, value in here.items()):
            facts = {**facts, CONTINUED: here}  # and so with another key than a run of one piece
        return replace(self, facts=facts, at=folder)

    def forget(self) -> None:
        """Remove what was saved on the way: its results are written."""
        shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)

    def failed(self, error: NonFiniteLossError) -> None:
        """Write down at which samples a loss was no number."""
        write_json(
            self.folder / FAILURE, {"error": str(error), "sample_indices": list(error.indices)}
        )

    def finished(self) -> RunResult | None:
        """Return its result where it was finished before, whole and with the same key."""
        saved = read_json(self.folder / RESULT)
        if not isinstance(saved, dict) or saved.pop("key", None) != self.key:
            return None
        if saved.pop("weights", None) != self._weights():
            return None
        del saved["facts"]
        moved = {"folder": str(self.folder), "outcome": self._outcome(), "kept": True}
        return RunResult.of({**saved, **moved})

    def why_not(self) -> str | None:
        """Say why a run that seems to be finished is done again; None where none seems to be."""
        if (self.folder / RESULT).exists():
            state = "is damaged or incomplete, was changed or continued elsewhere"
            return f"what is in {self.folder} {state}"
        pattern = f"{self._stem}-seed{self.seed}-*/{RESULT}"
        for file in sorted(self.out.glob(pattern), key=lambda file: -file.stat().st_mtime):
            saved = read_json(file)
            facts = saved.get("facts") if isinstance(saved, dict) else None
            if isinstance(facts, dict):
                return f"{file.parent} is of other settings: {difference(facts, self.facts)}"
        return None

    def finish(
        self,
        history: History,
        seconds: Seconds,
        best_scores: Mapping[str, float] | None,
        metrics: tuple[Metric, ...],
        untrained: Mapping[str, float] | None = None,
        *,
        costs: Costs | None = None,
        origin: str = RANDOM,
    ) -> RunResult:
        """Write its result, the last of its files: a run without it is not finished.

        Args:
            history: of its training.
            seconds: what it took.
            best_scores: of the best weights, on the test samples.
            metrics: what its scores are.
            untrained: scores of a model that was taken as it came, whose history is empty.
            costs: of its model.
            origin: where its weights began.
        """
        who, folder = (self.name, self.seed), str(self.folder)
        if untrained is not None:
            result = RunResult.untrained(*who, untrained, metrics, folder)
        else:
            result = RunResult.of_history(
                *who, history, seconds.training, metrics, best_scores=best_scores, folder=folder
            )
        result = replace(
            result,
            outcome=self._outcome(),
            costs=costs,
            origin=origin,
            teacher_seconds=seconds.teacher,
            made=date.today().isoformat(),
            machine=self.machine,
            samples=self.samples,
        )
        proof = {"key": self.key, "weights": self._weights(), "facts": dict(self.facts)}
        write_json(self.folder / RESULT, {**asdict(result), **proof})
        (self.folder / FAILURE).unlink(missing_ok=True)
        return result

    def _outcome(self) -> str | None:
        """Return the file of what its model said, where there is one."""
        file = self.folder / OUTCOME
        return str(file) if file.exists() else None

    def _weights(self) -> dict[str, str]:
        """Return the hash of each file of weights."""
        files = sorted(self.folder.glob("*.safetensors"))
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def begun_in(folder: Path) -> dict[str, Any]:
    """Return what was begun in a folder: kind, name, seed and facts.

    Raises:
        ResumeError: nothing was.
    """
    begun = read_json(folder / BEGUN)
    kinds = {"kind": str, "name": str, "seed": int, "facts": dict}
    if not isinstance(begun, dict) or not all(
        isinstance(begun.get(key), kind) for key, kind in kinds.items()
    ):
        raise ResumeError(
            f"{folder} is no folder of a run that was begun: give one that holds {BEGUN}"
        )
    return begun
