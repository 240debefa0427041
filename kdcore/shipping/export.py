"""Exporting a student: files, the proof of each, what was measured, and the model card."""

import hashlib
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from kdcore.bench.measure import describe_machine
from kdcore.card import Card
from kdcore.catalog import own_version
from kdcore.errors import RunError
from kdcore.files import make_folder, save_weights, write_bytes
from kdcore.job import OUTCOME
from kdcore.latency import Latency, latencies
from kdcore.nested import map_tensors
from kdcore.outcome import Outcome
from kdcore.probe import evaluating
from kdcore.sections import ExportConfig
from kdcore.shipping.extras import check_formats
from kdcore.shipping.formats import capture, write_onnx, write_torch
from kdcore.shipping.graph import inputs_at
from kdcore.shipping.opened import Opened, open_onnx, open_student, open_torch
from kdcore.shipping.quantize import calibration_samples, quantize
from kdcore.shipping.readme import README, readme
from kdcore.shipping.record import FOLDER, Shipment, ShippedFile
from kdcore.shipping.student import FinishedRun
from kdcore.shipping.verify import Comparison, Finding, batches
from kdcore.taps import logits_of, run_model

BOUNDS: Mapping[str, float | None] = MappingProxyType(
    {"safetensors": 1e-6, "torch.export": 1e-6, "onnx": 1e-4, "onnx int8": None}
)
"""How far a logit may be from the student's, by format; None where that is not asked."""

SHARES: Mapping[str, float] = MappingProxyType(
    {"safetensors": 1e-6, "torch.export": 1e-6, "onnx": 1e-5}
)
"""The same as a share of the student's largest logit, where that is more: numbers of 32 bits have
seven digits, so that of logits of a thousand a millionth cannot be told."""

NAMES: Mapping[str, str] = MappingProxyType(
    {
        "safetensors": "student.safetensors",
        "torch.export": "student.pt2",
        "onnx": "student.onnx",
        "onnx int8": "student.int8.onnx",
    }
)


COMPARED = 64
"""So many test samples show whether a model is the one that was trained."""

OTHER = 0.01
"""Share by which logits or scores may differ between devices; other code differs by more."""


@dataclass(frozen=True)
class _Made:
    """A file that was written and opened again."""

    format: str
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
        tolerance: how far a logit may be from the student's, in place of `BOUNDS` and `SHARES`.
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
            _measured(each, finding, _bound(each.format, finding, tolerance), time)
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
        train, card = self.run.data.student, self.card
        paths = {format_: self.folder / name for format_, name in NAMES.items()}
        two = inputs_at(train, torch.arange(2) % len(train), card.image)
        save_weights(paths["safetensors"], student.state_dict(), card.metadata())
        made = [_made("safetensors", paths, self._built)]
        if not config.formats:
            return made
        self.note(f"exporting: {', '.join(config.formats)}")
        program = capture(student, card.image, two)
        if "torch" in config.formats:
            write_torch(paths["torch.export"], program, card)
            made.append(_made("torch.export", paths, open_torch))
        if "onnx" in config.formats:
            write_onnx(paths["onnx"], program, card)
            made.append(_made("onnx", paths, open_onnx))
        if config.int8:
            indices = calibration_samples(train)
            self.note(f"quantizing, calibrated on {len(indices)} training {self.run.data.things}")
            quantize(paths["onnx"], paths["onnx int8"], train, indices, card.image)
            made.append(_made("onnx int8", paths, open_onnx))
        return made

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


def _made(format_: str, paths: Mapping[str, Path], opener: Callable[[Path], Opened]) -> _Made:
    return _Made(format_, paths[format_], opener(paths[format_]))


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


def _bound(format_: str, finding: Finding, tolerance: float | None) -> float | None:
    """Return how far a file's logits may be from the student's; None where that is not asked."""
    bound = BOUNDS[format_]
    if bound is None:
        return None
    return max(bound, SHARES[format_] * finding.largest_logit) if tolerance is None else tolerance


def _refuse_different(
    made: Sequence[_Made], findings: Sequence[Finding], tolerance: float | None
) -> None:
    for each, finding in zip(made, findings, strict=True):
        bound = _bound(each.format, finding, tolerance)
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
        made.format,
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
        _versions(made),
    )


def _versions(made: _Made) -> dict[str, str]:
    """Return what wrote a file, by name; of ONNX also the version of its operators."""
    libraries = {
        "safetensors": ("safetensors",),
        "torch.export": ("torch",),
        "onnx": ("torch", "onnx", "onnxscript"),
        "onnx int8": ("torch", "onnx", "onnxscript", "onnxruntime"),
    }
    found = {name: version(name) for name in libraries[made.format]}
    if "onnx" in found:
        import onnx

        model = onnx.load(str(made.path), load_external_data=False)
        found["opset"] = str(next(each.version for each in model.opset_import if not each.domain))
    return found


def _machine() -> str:
    machine = describe_machine()
    return f"{machine['processor']}, {machine['cores']} cores"
