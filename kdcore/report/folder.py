"""What lies in the folder of a run: what its model said, its gradients, settings and facts.

Folders may have been moved since they were written: what is not where a result says it is, is
looked for beside its comparison's other files.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdcore.files import read_json
from kdcore.job import CONFIG, METRICS, RESULT, RunResult
from kdcore.outcome import Outcome
from kdcore.shipping.record import FOLDER, Shipment


@dataclass(frozen=True)
class Shares:
    """The share of each loss in a gradient, measured once.

    Attributes:
        epoch: in which it was, from 0.
        step: before which optimizer step of its stage, from 0.
        shares: by label, of a sum of 1.
    """

    epoch: int
    step: int
    shares: Mapping[str, float]


def moved(result: RunResult, folder: Path) -> RunResult:
    """Return a result with its files where they are now.

    Args:
        result: as it was written down.
        folder: of the comparison, or of all runs.
    """
    own = _found(Path(result.folder), folder, 1)
    outcome = result.outcome and str(_found(Path(result.outcome), folder, 2))
    return replace(result, folder=str(own), outcome=outcome)


def _found(path: Path, folder: Path, names: int) -> Path:
    """Return a path by its last names below a folder; as it was, where nothing is there."""
    found = folder.joinpath(*path.parts[-names:])
    return found if path.name and found.exists() else path


def read_result(folder: Path) -> RunResult | None:
    """Return what the run of a folder came to; None where none is finished there."""
    saved = read_json(folder / RESULT)
    return result_in(saved) if isinstance(saved, dict) else None


def result_in(saved: object) -> RunResult | None:
    """Return a result that was written down; None where it is not whole."""
    if not isinstance(saved, dict):
        return None
    fields = {field.name for field in dataclasses.fields(RunResult)}
    try:
        return RunResult.of({name: saved[name] for name in saved if name in fields})
    except (KeyError, TypeError):
        return None


def outcome_of(result: RunResult) -> Outcome | None:
    """Read what a run's model said of the test samples; None where there is nothing."""
    return Outcome.load(Path(result.outcome)) if result.outcome else None


def facts_of(result: RunResult) -> Mapping[str, Any]:
    """Return what a run's result depends on, by name; nothing where it is not known."""
    saved = read_json(Path(result.folder) / RESULT) if result.folder else None
    if not isinstance(saved, dict):
        return {}
    # A teacher that came trained has the folder of its weights, in which another run may be.
    same = (saved.get("name"), saved.get("seed")) == (result.name, result.seed)
    facts = saved.get("facts")
    return facts if same and isinstance(facts, dict) else {}


def config_of(result: RunResult) -> str | None:
    """Return a run's resolved settings as they lie there; None where there are none."""
    if not result.folder:  # of models at hand
        return None
    try:
        return (Path(result.folder) / CONFIG).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def shares_of(result: RunResult) -> list[Shares]:
    """Return the measured shares of a run's losses, in order; lines that are not whole left out."""
    if not result.folder:
        return []
    found = []
    try:
        with (Path(result.folder) / METRICS).open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if '"gradients"' in line:
                    found.append(_shares(line))
    except OSError:
        return []
    return [each for each in found if each is not None]


def _shares(line: str) -> Shares | None:
    try:
        entry = json.loads(line)
        if entry["kind"] != "gradients":
            return None
        shares = {str(label): float(share) for label, share in entry["shares"].items()}
        return Shares(int(entry["epoch"]), int(entry["step"]), shares)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def shipment_of(result: RunResult) -> Shipment | None:
    """Return what was exported of a run; None where nothing was."""
    return Shipment.load(Path(result.folder) / FOLDER) if result.folder else None
