"""What a user sees while a training runs, and the metrics log that programs read."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from kdcore.files import write_bytes
from kdcore.history import EpochRecord
from kdcore.processes import here
from kdcore.readings import StepRecord
from kdcore.tasks import Metric


class TrainingDisplay:
    """A bar with losses, speed, time left and score on a terminal; a line an epoch everywhere.

    Args:
        console: where to print.
        title: whose training it is.
        epochs: how many epochs it has.
        metric: the score that is shown, where there is one.
        things: what samples are called.
    """

    def __init__(
        self,
        console: Console,
        title: str,
        epochs: int,
        metric: Metric | None = None,
        things: str = "images",
    ) -> None:
        self._console = console
        self._title = title
        self._epochs = epochs
        self._metric = metric
        self._things = things
        self._bar = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[speed]}"),
            TextColumn("{task.fields[losses]}"),
            TextColumn("{task.fields[score]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._score = ""

    def __enter__(self) -> Self:
        self._console.print(f"[bold]{escape(self._title)}[/]")
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def on_step(self, record: StepRecord) -> None:
        """Move the bar."""
        if self._task is None:
            self._task = self._bar.add_task(
                "steps",
                total=record.steps,
                completed=record.step,
                speed="",
                losses="",
                score=self._score,
            )
        speed = self._bar.tasks[0].speed
        self._bar.update(
            self._task,
            advance=1,
            speed=f"{speed * record.samples:,.0f} {self._things}/s" if speed else "",
            losses=escape(_losses(record.losses["total"], record.losses)),
            score=self._score,
        )

    def on_epoch(self, record: EpochRecord) -> None:
        """Print the epoch's line."""
        line = f"  epoch {record.epoch:>3}/{self._epochs}  "
        line += _losses(record.loss, record.losses)
        if self._metric and record.validation:
            shown = replace(self._metric, name="validation")
            line += f"  {shown.text(record.validation[self._metric.name])}"
        if self._metric and record.scores:
            line += f"  {self._metric.text(record.scores[self._metric.name])}"
        self._score = self._so_far(record)
        line += f"  {record.samples / record.seconds:,.0f} {self._things}/s"
        self._bar.console.print(escape(line), highlight=False, soft_wrap=True)

    def _so_far(self, record: EpochRecord) -> str:
        """Return the score that was reached: that which chooses, where there is one."""
        scores = record.validation or record.scores
        if self._metric is None or not scores:
            return ""
        return escape(f"{self._metric.text(scores[self._metric.name])} so far")


def _losses(total: float, losses: Mapping[str, float]) -> str:
    parts = {label: value for label, value in losses.items() if label != "total"}
    text = f"loss {_shown(total)}"
    if len(parts) > 1:
        text += " (" + ", ".join(f"{label} {_shown(each)}" for label, each in parts.items()) + ")"
    return text


def _shown(value: float) -> str:
    # Some methods' losses are of the order of 1e-6, with a weight of as many thousands.
    return f"{value:.4f}" if abs(value) >= 0.001 or not value else f"{value:.2e}"


class MetricsLog:
    """A file of JSON lines: one a step (``"kind": "step"``), one an epoch (``"epoch"``).

    Where shares in the gradient were measured there is one of them (``"gradients"``) after the
    step's.

    Args:
        path: the file; of what it holds, that stays which comes before the first step that is
            taken now.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def on_step(self, record: StepRecord) -> None:
        """Append the step's losses, and their shares in the gradient where they were measured."""
        entry = asdict(record)
        del entry["shares"]
        self._write({"kind": "step", **entry})
        if record.shares:
            place = {"epoch": record.epoch, "step": record.step}
            self._write({"kind": "gradients", **place, "shares": dict(record.shares)})

    def on_epoch(self, record: EpochRecord) -> None:
        """Append the epoch's losses and scores."""
        self._write({"kind": "epoch", **asdict(record)})

    def _write(self, entry: dict[str, Any]) -> None:
        if not here().first:
            return
        if self._file is None:
            before = [each for each in _entries(self._path) if _place(each) < _place(entry)]
            write_bytes(self._path, "".join(map(_line, before)).encode())
            # Line by line: what was written is there when the process dies.
            self._file = self._path.open("a", encoding="utf-8", buffering=1)
        self._file.write(_line(entry))


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry) + "\n"


def _place(entry: Mapping[str, Any]) -> tuple[int, float]:
    """Return what orders entries: an epoch's comes after those of its steps."""
    if entry["kind"] != "epoch":
        return entry["epoch"] + 1, entry["step"]
    return entry["epoch"], math.inf


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    """Read a log, but for a last line that was not written to its end."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            entry = json.loads(line)
            _ = _place(entry) < (0, 0)  # refuses what is no entry
        except (ValueError, KeyError, TypeError):
            return
        yield entry
