"""Exporting a student: files, the proof of each, what was measured, and the model card."""

import hashlib
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdcore.card import Card
from kdcore.catalog import own_version
from kdcore.errors import RunError
from kdcore.files import make_folder, write_bytes
from kdcore.job import OUTCOME
from kdcore.latency import Latency, latencies
from kdcore.machine import describe_machine
from kdcore.nested import map_tensors
from kdcore.outcome import Outcome
from kdcore.probe import evaluating
from kdcore.sections import ExportConfig
from kdcore.shipping.formats import SAFETENSORS, Draft, Format, check_formats, wanted
from kdcore.shipping.graph import inputs_at
from kdcore.shipping.opened import Opened, open_student
from kdcore.shipping.quantize import calibration_samples
from kdcore.shipping.readme import README, readme
from kdcore.shipping.record import FOLDER, Shipment, ShippedFile
from kdcore.shipping.student import FinishedRun
from kdcore.shipping.verify import Comparison, Finding, batches
from kdcore.taps import logits_of, run_model

COMPARED = 64
"""So many test samples show whether a model is the one that was trained."""

OTHER = 0.01
"""Share by which logits or scores may differ between devices; other code differs by more."""


@dataclass(frozen=True)
class _Made:
    """A file that was written and opened again."""

    format: Format
    path: Path
    opened: Opened


def export_run(
    folder: Path,
    config: ExportConfig,
    note: Callable[[str], None],
    *,
    best: bool = False,
    out: Path | None = None,
    root: Path | None = None,
    tolerance: float | None = None,
    samples: int | None = None,
) -> Shipment:
    """Export the student of a finished run, and prove each file.

    A file gets its name when it has been opened anew and has given the student's logits on the
    test samples, at several batch sizes; one that does not is removed. Files are measured on this
    machine's CPU.

    Args:
        folder: of the run.
        config: what is written beside safetensors.
        note: hears what is done.
        best: whether to take the weights that were best on the validation split, not the last.
        out: folder for the files; ``export/`` in the run's own if not given.
        root: where its data lie, if no longer where they did.
        tolerance: how far a logit may be from the student's, in place of its format's bound.
        samples: so many test samples are run, the first; all if not given.

    Returns:
        What was written and measured; also in ``export.json``.

    Raises:
        UserError: there is no such run, its data are gone, or the model cannot be exported.
        RunError: a file does not give what the student gives.
    """
    check_formats(config)
    run = FinishedRun.of(folder, root)
    card = run.card(best)
    student = run.student(card)
    target = make_folder(out or folder / FOLDER)
    with tempfile.TemporaryDirectory(dir=target, prefix=".") as working:
        shipping = _Shipping(run, card, Path(working), note, samples)
        made = shipping.write(student, config)
        findings = shipping.compare(student, made)
        _refuse_another(run, findings[0].scores if shipping.samples == len(run.data.test) else {})
        _refuse_different(made, findings[1:], tolerance)
        note("timing each file")
        own, *taken = shipping.time(student, made)
        files = tuple(
            _measured(each, finding, _bound(each, finding, tolerance), time)
            for each, finding, time in zip(made, findings[1:], taken, strict=True)
        )
        for each in made:
            each.path.replace(target / each.path.name)
    shipment = Shipment(
        card.run,
        card.seed,
        card.weights,
        shipping.samples,
        run.task.metrics,
        findings[0].scores,
        len(calibration_samples(run.data.student)) if config.int8 else 0,
        _machine(),
        own_version(),
        files,
        own.p50_ms,
        own.p95_ms,
    )
    shipment.save(target)
    write_bytes(target / README, readme(card, shipment, shipping.one).encode())
    return shipment


class _Shipping:
    """One export: where its samples come from and its files go."""

    def __init__(
        self,
        run: FinishedRun,
        card: Card,
        folder: Path,
        note: Callable[[str], None],
        samples: int | None,
    ) -> None:
        self.run = run
        self.card = card
        self.folder = folder
        self.note = note
        self.samples = min(samples or len(run.data.test), len(run.data.test))
        self.one = inputs_at(run.data.test, torch.arange(1), card.image)

    def write(self, student: torch.nn.Module, config: ExportConfig) -> list[_Made]:
        """Write every file, and open it anew."""
        if config.formats:
            self.note(f"exporting: {', '.join(config.formats)}")
        data = self.run.data
        draft = Draft(student, self.card, data.student, self.folder, self.note, data.things)
        return [self._made(each, draft) for each in wanted(config)]

    def _made(self, format_: Format, draft: Draft) -> _Made:
        path = self.folder / format_.file
        format_.write(path, draft)
        # Weights alone may be of a model that only their run may import.
        opener = self._built if format_ is SAFETENSORS else format_.open
        return _Made(format_, path, opener(path))

    def _built(self, path: Path) -> Opened:
        return open_student(self.run.student(self.card, path), self.card, self.one.names)

    def compare(self, student: torch.nn.Module, made: list[_Made]) -> list[Finding]:
        """Run the student as it was trained, and every file; return what each came to."""
        test, things = self.run.data.test, self.run.data.things
        self.note(f"comparing with the student on {self.samples} test {things}")
        task = self.run.task
        comparisons = [Comparison(task) for _ in (student, *made)]
        for indices in batches(self.samples):
            inputs = inputs_at(test, indices, self.card.image)
            batch = test.batch(indices, teacher=False)
            expected = _logits(student, batch.inputs)
            comparisons[0].add(expected, expected, batch.targets)
            for each, comparison in zip(made, comparisons[1:], strict=True):
                comparison.add(each.opened.run(inputs), expected, batch.targets)
        return [comparison.finding() for comparison in comparisons]

    def time(self, student: torch.nn.Module, made: Sequence[_Made]) -> list[Latency]:
        """Time the student as it was trained, and every file, on one sample."""
        bare = self.run.data.test.batch(torch.arange(1), teacher=False).inputs
        files = [partial(each.opened.run, self.one) for each in made]
        return latencies([lambda: _logits(student, bare), *files])


def _logits(student: torch.nn.Module, inputs: Any) -> Tensor:
    """Run the student on what it was trained with."""
    with evaluating(student):
        logits = logits_of(run_model(student, map_tensors(inputs, Tensor.contiguous)))
    assert logits is not None  # it has been trained
    return logits


def _refuse_another(run: FinishedRun, scores: Mapping[str, float]) -> None:
    """Refuse a model that was built again, with the same weights, and does as another did.

    Its code may have been changed since: files would equal it, and not what was trained. It is held
    against what the run's last weights said of test samples, or where that was not kept, against
    the scores.

    Args:
        run: the run.
        scores: of the student as it was built again; none to leave them out.

    Raises:
        RunError: it is another.
    """
    outcome = Outcome.load(run.folder / OUTCOME)
    if outcome is not None:
        few = torch.arange(min(COMPARED, len(outcome.logits)))
        found = _logits(run.student(run.card(best=False)), run.data.test.batch(few).inputs)
        expected = outcome.logits[few]
        same = found.shape == expected.shape and torch.allclose(
            found.float(), expected, rtol=0, atol=OTHER * max(1, float(expected.abs().max()))
        )
    else:
        own = run.result["scores"]
        same = all(
            abs(own[name] - scores[name]) <= OTHER * max(1, abs(own[name]))
            for name in scores.keys() & own.keys()
        )
    if not same:
        raise RunError(
            f"{run.folder}: the student as it is built now says something else of the test samples "
            "than when it was trained: its code or its data have been changed since, or it draws "
            "random numbers; nothing was written"
        )


def _bound(made: _Made, finding: Finding, tolerance: float | None) -> float | None:
    return made.format.allowed(finding.largest_logit, tolerance)


def _refuse_different(
    made: Sequence[_Made], findings: Sequence[Finding], tolerance: float | None
) -> None:
    for each, finding in zip(made, findings, strict=True):
        bound = _bound(each, finding, tolerance)
        most = sys.float_info.max if bound is None else bound
        if not finding.max_difference <= most:
            raise RunError(
                f"{each.path.name} is not the student: logits of up to "
                f"{finding.largest_logit:.3g} differ by up to {finding.max_difference:.2e}, where "
                f"{most:.2g} is the bound; nothing was written. A model that draws random numbers "
                "or looks at the whole batch cannot be exported; --tolerance moves the bound"
            )


def _measured(made: _Made, finding: Finding, bound: float | None, time: Latency) -> ShippedFile:
    content = made.path.read_bytes()
    return ShippedFile(
        made.path.name,
        made.format.name,
        len(content),
        hashlib.sha256(content).hexdigest(),
        finding.max_difference,
        finding.largest_logit,
        bound,
        finding.agreement,
        finding.scores,
        time.p50_ms,
        time.p95_ms,
        made.opened.runtime,
        made.format.versions(made.path),
    )


def _machine() -> str:
    machine = describe_machine()
    return f"{machine['processor']}, {machine['cores']} cores"
