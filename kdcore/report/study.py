"""What a report says beyond its table: each row's predictions over its seeds, looked at once.

One outcome after the other is read and let go: there may be many, of many classes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from kdcore.job import Role
from kdcore.outcome import Outcome
from kdcore.report.analysis import (
    Agreement,
    Bin,
    agreement,
    calibration_error,
    confusion,
    fitted_temperature,
    negative_log_likelihood,
    predictions,
    reliability,
)
from kdcore.report.folder import Shares, outcome_of, shares_of
from kdcore.report.rows import Entry, Sheet
from kdcore.tasks import UNLABELLED, has_target

TEMPERATURES = (1, 2, 4, 8)
"""At which a teacher's probabilities are shown."""


@dataclass(frozen=True)
class Sample:
    """One test sample, and what was said of it.

    Attributes:
        name: of its file, or its index.
        picture: ``uint8 [3, side, side]``; None where samples are no images.
        target: index of its class.
        logits: that were said of it, ``float32 [classes]``.
        teacher: class that each teacher took it for, by title.
    """

    name: str
    picture: Tensor | None
    target: int
    logits: Tensor
    teacher: Mapping[str, int] = field(default_factory=dict)


@dataclass
class Calibration:
    """How sure a row's models are, and how often right, one value a run.

    Attributes:
        errors: expected calibration errors, in per cent.
        losses: cross-entropies, in nats.
        bins: of all runs together.
    """

    errors: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    bins: list[Bin] = field(default_factory=list)

    def add(self, logits: Tensor, targets: Tensor, temperature: float = 1.0) -> None:
        """Count a run in."""
        bins = reliability(logits, targets, temperature)
        self.errors.append(calibration_error(bins))
        self.losses.append(negative_log_likelihood(logits, targets, temperature))
        before = self.bins or [replace(each, count=0) for each in bins]
        self.bins = [_joined(*pair) for pair in zip(before, bins, strict=True)]


def _joined(one: Bin, other: Bin) -> Bin:
    count = one.count + other.count
    shares = [each.count / count if count else 0.0 for each in (one, other)]
    return Bin(
        one.low,
        one.high,
        count,
        shares[0] * one.confidence + shares[1] * other.confidence,
        shares[0] * one.accuracy + shares[1] * other.accuracy,
    )


@dataclass
class RowStudy:
    """What the runs of a row say, over their seeds.

    Attributes:
        title: of the row.
        role: whose runs they are.
        counts: confusion of all runs together, ``int64 [classes, classes]``.
        calibration: as they are.
        temperatures: fitted on validation samples, one a run that has some.
        fitted_on: so many labelled ones, by run.
        scaled: calibration at these.
        agreements: with each teacher by title, one a run.
        parted: how often a teacher said one class (rows) and the row's model another, by the
            teacher's title, ``int64 [classes, classes]``.
        worst: labelled samples of the first run, most wrong first.
        examples: a few samples of the first run.
        seed: of the first run.
        shares: measured shares of losses in the gradient, by run.
    """

    title: str
    role: Role
    seed: int
    counts: Tensor | None = None
    calibration: Calibration = field(default_factory=Calibration)
    temperatures: list[float] = field(default_factory=list)
    fitted_on: list[int] = field(default_factory=list)
    scaled: Calibration = field(default_factory=Calibration)
    agreements: dict[str, list[Agreement]] = field(default_factory=dict)
    parted: dict[str, Tensor] = field(default_factory=dict)
    worst: list[Sample] = field(default_factory=list)
    examples: list[Sample] = field(default_factory=list)
    shares: list[list[Shares]] = field(default_factory=list)

    def add(self, outcome: Outcome, teachers: Mapping[str, Outcome]) -> None:
        """Count a run in.

        Args:
            outcome: of the run.
            teachers: of its teachers by title, on the same samples.
        """
        logits, targets = outcome.logits, outcome.targets
        said, classes = predictions(logits), logits.shape[1]
        counts = confusion(said, targets, classes)
        if self.counts is None:
            self.counts = counts
            known = [Sample(*each, {}) for each in _shown(outcome)]
            few = len(outcome.examples)
            indices = outcome.worst.tolist()
            self.examples = known[:few]
            self.worst = [
                Sample(
                    each.name,
                    each.picture,
                    each.target,
                    each.logits,
                    {name: int(other.logits[at].argmax()) for name, other in teachers.items()},
                )
                for each, at in zip(known[few:], indices, strict=True)
            ]
        else:
            self.counts += counts
        self.calibration.add(logits, targets)
        if outcome.validation_logits is not None and outcome.validation_targets is not None:
            found = fitted_temperature(outcome.validation_logits, outcome.validation_targets)
            if found is not None:
                self.temperatures.append(found)
                self.fitted_on.append(int(has_target(outcome.validation_targets).sum()))
                self.scaled.add(logits, targets, found)
        for name, other in teachers.items():
            self.agreements.setdefault(name, []).append(agreement(other.logits, logits, targets))
            both = confusion(said, predictions(other.logits), classes)
            self.parted[name] = self.parted[name] + both if name in self.parted else both


def _shown(outcome: Outcome) -> Iterable[tuple[str, Tensor | None, int, Tensor]]:
    indices = torch.cat([outcome.examples, outcome.worst]).tolist()
    for place, (name, index) in enumerate(zip(outcome.names, indices, strict=True)):
        picture = outcome.pictures[place] if len(outcome.pictures) else None
        yield name, picture, int(outcome.targets[index]), outcome.logits[index]


@dataclass(frozen=True)
class Study:
    """What the runs of a report say.

    Attributes:
        rows: those of which something is known, in order.
        classes: names of the classes by index; none where nothing was said.
        samples: test samples that were looked at.
    """

    rows: tuple[RowStudy, ...]
    classes: tuple[str, ...]
    samples: int

    @property
    def said(self) -> list[RowStudy]:
        """The rows whose models' predictions are known."""
        return [row for row in self.rows if row.counts is not None]

    @classmethod
    def of(cls, sheet: Sheet) -> "Study":
        """Look at every run of a report."""
        rows = {
            title: RowStudy(title, entries[0].role, entries[0].result.seed)
            for title in sheet.titles
            if (entries := sheet.of_row(title))
        }
        classes: tuple[str, ...] = ()
        samples = 0
        for entries in _together(sheet.entries):
            teachers: dict[str, Outcome] = {}
            for entry in entries:  # the teachers come first
                row = rows[entry.title]
                if entry.role == "candidate" and (found := shares_of(entry.result)):
                    row.shares.append(found)
                outcome = outcome_of(entry.result)
                if outcome is None or not _of(outcome, classes):
                    continue
                classes, samples = classes or outcome.classes, len(outcome.targets)
                if entry.role == "teacher":
                    teachers[entry.title] = outcome
                    row.add(outcome, {})
                    continue
                same = {
                    name: other
                    for name, other in teachers.items()
                    if torch.equal(other.targets, outcome.targets)
                }
                row.add(outcome, same)
        return cls(tuple(rows.values()), classes, samples)


def _of(outcome: Outcome, classes: Sequence[str]) -> bool:
    """Return whether an outcome is of these classes, and its parts fit each other."""
    count = outcome.logits.shape[1]
    fits = len(outcome.targets) == len(outcome.logits) and len(outcome.classes) == count
    known = bool((outcome.targets != UNLABELLED).any())
    return fits and known and (not classes or tuple(classes) == outcome.classes)


def _together(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Return the runs of each place and seed, the teachers first."""
    found: dict[tuple[str, int], list[Entry]] = {}
    for entry in entries:
        found.setdefault((entry.place, entry.result.seed), []).append(entry)
    return [
        sorted(each, key=lambda entry: entry.role != "teacher")  # stable
        for each in found.values()
    ]
