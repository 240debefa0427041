import io
import json
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from kdcore.history import EpochRecord
from kdcore.progress import MetricsLog, TrainingDisplay
from kdcore.readings import StepRecord
from kdcore.tasks import ACCURACY

LOSSES = {"total": 1.5, "task": 1.0, "logits": 2.0}
STEP = StepRecord(0, 0, 4, 16, LOSSES)
EPOCH = EpochRecord(
    1, 1.5, {"task": 1.0, "logits": 2.0}, {"accuracy": 91.234}, {"accuracy": 89.5}, 1e-3, 64, 2.0
)


def test_an_epochs_line_has_each_loss_both_accuracies_and_the_speed() -> None:
    console = Console(file=io.StringIO(), width=200)
    with TrainingDisplay(console, "logits, seed 42", 10, ACCURACY) as display:
        display.on_step(STEP)
        display.on_epoch(EPOCH)
    file = console.file
    assert isinstance(file, io.StringIO)
    title, line = file.getvalue().splitlines()
    assert title == "logits, seed 42"
    assert "epoch   1/10" in line
    assert "loss 1.5000 (task 1.0000, logits 2.0000)" in line
    assert "validation 89.50 %  accuracy 91.23 %  32 images/s" in line


def test_a_terminal_gets_a_bar_with_losses_by_label() -> None:
    console = Console(file=io.StringIO(), width=200, force_terminal=True, legacy_windows=False)
    with TrainingDisplay(console, "t", 10) as display:
        display.on_step(STEP)
        display._bar.refresh()
    file = console.file
    assert isinstance(file, io.StringIO)
    assert "1/4" in file.getvalue()
    assert "logits 2.0000" in file.getvalue()


def test_the_bar_shows_the_score_that_was_reached() -> None:
    console = Console(file=io.StringIO(), width=200, force_terminal=True, legacy_windows=False)
    with TrainingDisplay(console, "t", 10, ACCURACY) as display:
        display.on_step(STEP)
        display._bar.refresh()
        assert isinstance(console.file, io.StringIO)
        assert "so far" not in console.file.getvalue()
        display.on_epoch(EPOCH)
        display.on_step(STEP)
        display._bar.refresh()
    assert "accuracy 89.50 % so far" in console.file.getvalue()


def test_the_metrics_log_has_a_line_a_step_and_a_line_an_epoch(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "m.jsonl") as log:
        log.on_step(STEP)
        log.on_epoch(EPOCH)
    step, epoch = map(json.loads, (tmp_path / "m.jsonl").read_text().splitlines())
    assert (step["kind"], step["step"], step["losses"]) == ("step", 0, LOSSES)
    assert (epoch["kind"], epoch["scores"]) == ("epoch", {"accuracy": 91.234})


def _log(path: Path, *records: StepRecord | EpochRecord) -> list[tuple[str, int]]:
    with MetricsLog(path) as log:
        for record in records:
            (log.on_step if isinstance(record, StepRecord) else log.on_epoch)(record)  # type: ignore[arg-type]
    entries = map(json.loads, path.read_text().splitlines())
    return [(each["kind"], each["step" if each["kind"] == "step" else "epoch"]) for each in entries]


def test_a_log_that_is_continued_holds_each_step_once(tmp_path: Path) -> None:
    steps = [replace(STEP, step=step, epoch=step // 2) for step in range(4)]
    first, second = EPOCH, replace(EPOCH, epoch=2)
    file = tmp_path / "m.jsonl"
    whole = [("step", 0), ("step", 1), ("epoch", 1), ("step", 2), ("step", 3), ("epoch", 2)]
    assert _log(file, *steps[:2], first, *steps[2:], second) == whole
    file.write_text(file.read_text() + '{"kind": "st')  # as a kill may leave it
    assert _log(file, *steps[2:], second) == whole
    assert _log(file, second) == whole
    assert _log(file, first, *steps[2:], second) == whole
    assert _log(file, steps[3]) == whole[:-1]
    assert _log(file, steps[0]) == whole[:1]


def test_a_loss_too_small_for_four_decimals_is_shown_all_the_same() -> None:
    console = Console(file=io.StringIO(), width=200)
    with TrainingDisplay(console, "t", 1) as display:
        display.on_epoch(replace(EPOCH, losses={"task": 1.0, "pkt": 4.2e-6, "zero": 0.0}))
    assert "pkt 4.20e-06, zero 0.0000" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_log_that_somebody_wrote_into_is_continued(tmp_path: Path) -> None:
    file = tmp_path / "m.jsonl"
    for line in ("3", "[]", '{"kind": "step"}', '{"kind": 1, "epoch": "a"}'):
        file.write_text(f"{line}\n")
        assert _log(file, STEP) == [("step", 0)]
