"""Folders of runs that nobody trained, with all that a report looks at."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from kdcore.configfile import as_toml
from kdcore.costs import Costs
from kdcore.experiment import ComparisonConfig
from kdcore.files import make_folder, write_json
from kdcore.job import CONFIG, METRICS, OUTCOME, RESULT, RunResult
from kdcore.joblist import Student, record, students
from kdcore.outcome import EXAMPLES, SIDE, WORST, Outcome
from kdcore.tasks import ACCURACY, MACRO_F1

SAMPLES = 60


def said(seed: int, classes: int, samples: int = SAMPLES, sure: float = 2.0) -> Tensor:
    """Return logits that are mostly right of targets ``index % classes``."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(samples, classes, generator=generator)
    logits[torch.arange(samples), torch.arange(samples) % classes] += sure
    return logits


def outcome(
    logits: Tensor, names: Sequence[str], *, validation: Tensor | None = None, pictures: bool = True
) -> Outcome:
    """Return what a model of these logits would have said."""
    targets = torch.arange(len(logits)) % logits.shape[1]
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    worst, examples = losses.argsort(descending=True)[:WORST], torch.arange(EXAMPLES)
    shown = torch.cat([examples, worst])
    generator = torch.Generator().manual_seed(0)
    size = (len(shown), 3, SIDE, SIDE) if pictures else (0, 3, SIDE, SIDE)
    return Outcome(
        logits,
        targets,
        validation,
        None if validation is None else torch.arange(len(validation)) % logits.shape[1],
        examples,
        worst,
        torch.randint(0, 256, size, dtype=torch.uint8, generator=generator),
        tuple(f"<photo> {index}.png" for index in shown.tolist()),
        tuple(names),
    )


def run(
    out: Path,
    name: str,
    seed: int,
    names: Sequence[str],
    *,
    data: str = "d" * 64,
    lr: float = 0.1,
    logits: Tensor | None = None,
    shares: Sequence[float] = (0.2, 0.4, 0.3),
    epochs: int = 3,
    pictures: bool = True,
    models: str = "",
) -> RunResult:
    """Write the folder of a run, and return its result.

    Args:
        out: the folder of all runs.
        name: of its row.
        seed: its seed.
        names: of the classes.
        data: hash of the data.
        lr: learning rate.
        logits: of the model; random ones that are mostly right if not given.
        shares: of the gradient, by the method.
        epochs: how many there were.
        pictures: whether samples have pictures.
        models: sections of the student and its teacher, as TOML.
    """
    folder = make_folder(out / f"{name.replace(' ', '.')}-seed{seed}-{data[:4]}{lr:g}")
    teaches, classes = name.startswith("teacher"), len(names)
    logits = said(seed * 31 + len(name), classes) if logits is None else logits
    validation = None if teaches else said(seed + 7, classes, 40, 1.0)
    outcome(logits, names, validation=validation, pictures=pictures).save(folder / OUTCOME)
    right = 100 * float((logits.argmax(1) == torch.arange(len(logits)) % classes).double().mean())
    records = [
        {
            "epoch": epoch,
            "loss": 1.0 / epoch,
            "losses": {},
            "scores": {"accuracy": right - epochs + epoch, "macro-F1": right - epochs + epoch},
            "validation": {} if teaches else {"accuracy": 50.0 + len(name), "macro-F1": 50.0},
            "seconds": 1.0,
        }
        for epoch in range(1, epochs + 1)
    ]
    scores = {"accuracy": right, "macro-F1": right - 1}
    result = RunResult(
        name,
        seed,
        scores,
        0.25,
        20.0 if name == "student" else 30.0,
        tuple(records),
        None if teaches else 1,
        None if teaches else {"accuracy": right - 2, "macro-F1": right - 3},
        str(folder),
        (ACCURACY, MACRO_F1),
        str(folder / OUTCOME),
        Costs(1000, 2000, 0.5, 0.75, 4096),
        "random",
    )
    facts = {
        "name": name,
        "seed": seed,
        "data": data,
        "start": f"start {seed}",
        "train": {"lr": lr},
        "augment": None,
        "task": {"kind": "classification"},
        "torch": "9.9",
        "strategies": [] if name == "student" else [name],
        "teachers": {} if name == "student" else {"teacher": f"taught in {seed}"},
    }
    write_json(folder / RESULT, {**asdict(result), "key": "k", "weights": {}, "facts": facts})
    settings = f'name = "{name} <b>"\n{models}'
    (folder / CONFIG).write_text(settings, encoding="utf-8")
    if name not in ("student", "teacher"):
        lines = [
            {"kind": "gradients", "epoch": 0, "step": step, "shares": {"task": 1 - s, name: s}}
            for step, s in enumerate(shares)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / METRICS).write_text(text, encoding="utf-8")
    return result


def comparison(
    out: Path,
    candidates: Sequence[str] = ("a", "b"),
    seeds: Sequence[int] = (1, 2),
    names: Sequence[str] = ("cat", "dog", "<script>alert(1)</script>"),
    only: Sequence[int] = (),
    **more: object,
) -> list[RunResult]:
    """Write the folder of a comparison, and return its results in order."""
    config = ComparisonConfig.model_validate(
        {
            "seeds": seeds,
            "candidates": [{"label": c, "strategies": [{"name": "logits"}]} for c in candidates],
        }
    )
    description = as_toml(config).encode()
    (make_folder(out) / "comparison.toml").write_bytes(description)
    results = []
    teachers = {seed: run(out, "teacher", seed, names, **more) for seed in seeds}  # type: ignore[arg-type]
    for each in students(config):
        if only and each.number not in only:
            continue
        own = run(out, each.name, each.seed, names, **more)  # type: ignore[arg-type]
        recorded = [own] if each.alone else [teachers[each.seed], own]
        _record(out, description, each, recorded, str(more.get("data", "d")))
        results.append(own)
    return [
        each
        for seed in seeds
        for each in (teachers[seed], *(own for own in results if own.seed == seed))
    ]


def _record(
    out: Path, description: bytes, student: Student, results: Sequence[RunResult], data: str
) -> None:
    who = {each.name: f"teacher {student.seed}" for each in results[:-1]}
    facts = {"data": data, "teachers": who}
    record(out, description, student, results, [f"of what, in {out.name}"], facts)
