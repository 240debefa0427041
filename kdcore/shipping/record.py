"""What was exported and what was measured of it, as ``export.json`` has it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from kdcore.card import Weights
from kdcore.files import size_text, write_json
from kdcore.tasks import Metric

EXPORT = "export.json"
FOLDER = "export"
"""Where a run's exported files are, in its own folder."""


@dataclass(frozen=True)
class ShippedFile:
    """One file of a student.

    Attributes:
        name: of the file.
        format: ``"safetensors"``, ``"torch.export"``, ``"onnx"`` or ``"onnx int8"``.
        bytes: its size.
        sha256: of its content.
        max_difference: largest difference of a logit to the student's.
        largest_logit: the student's, without its sign: what the difference is to be seen against.
        bound: what the difference had to stay within; None where a file is not equal by design.
        agreement: share of the samples, in per cent, that it puts into the student's class; None
            where there are no classes.
        scores: on the test samples, by name.
        latency_p50_ms: median time of one sample, in milliseconds.
        latency_p95_ms: of 95 in 100 samples at most.
        runtime: what ran it, with its version and threads.
        versions: of what wrote it, by name.
    """

    name: str
    format: str
    bytes: int
    sha256: str
    max_difference: float
    largest_logit: float
    bound: float | None
    agreement: float | None
    scores: Mapping[str, float]
    latency_p50_ms: float
    latency_p95_ms: float
    runtime: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Shipment:
    """A student's exported files.

    Attributes:
        run: what its run is called.
        seed: of it.
        weights: which of the run's they are.
        samples: test samples that every file was run on.
        metrics: what the scores are: name, unit and whether more is better.
        scores: of the student itself on them, in PyTorch, by name.
        calibrated_on: training samples that int8 was calibrated on; 0 without it.
        machine: where latencies were measured.
        kdcore: the version that exported it.
        files: the files.
        latency_p50_ms: median time of one sample of the student itself, in PyTorch, in
            milliseconds; None where it was not measured.
        latency_p95_ms: of 95 in 100 samples at most, the like.
    """

    run: str
    seed: int
    weights: Weights
    samples: int
    metrics: tuple[Metric, ...]
    scores: Mapping[str, float]
    calibrated_on: int
    machine: str
    kdcore: str
    files: tuple[ShippedFile, ...]
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None

    def save(self, folder: Path) -> None:
        """Write it into the folder of its files."""
        write_json(folder / EXPORT, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> "Shipment | None":
        """Read what `save` wrote; None where it is not there or not whole."""
        try:
            return _FORM.validate_json((folder / EXPORT).read_bytes(), strict=True)
        except (OSError, ValidationError):
            return None

    def lines(self) -> list[str]:
        """Say for people what each file came to."""
        width = max(len(file.name) for file in self.files)
        return [f"{file.name:{width}}  {_said(file, self.metrics)}" for file in self.files]


_FORM = TypeAdapter(Shipment)


def _said(file: ShippedFile, metrics: Sequence[Metric]) -> str:
    parts = [size_text(file.bytes)]
    parts.append(
        f"largest difference {file.max_difference:.1e} of logits to {file.largest_logit:.3g}"
    )
    if file.bound is None and file.agreement is not None:
        parts.append(f"agrees in {file.agreement:.2f} %")
    parts += [each.text(file.scores[each.name]) for each in metrics if each.name in file.scores]
    parts.append(f"{file.latency_p50_ms:.2f} ms, p95 {file.latency_p95_ms:.2f} ms ({file.runtime})")
    return "; ".join(parts)
