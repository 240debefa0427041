import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from kdcore.comparison import compare
from kdcore.configfile import as_comparison, override, read_recipe
from kdcore.context import RunContext
from kdcore.errors import StrategyError, TapError
from kdcore.experiment import ComparisonConfig
from kdcore.job import MARKDOWN, RunResult
from kdcore.report import Sheet
from kdcore.tasks import ACCURACY

SMALL = (
    "teacher.model=lightnn",
    "data.limit=60",
    "teacher.image_size=8",
    "student.image_size=8",
    "train.epochs=2",
    "train.batch_size=16",
)


def _config(*assignments: str, recipe: str = "tutorial") -> ComparisonConfig:
    tree = read_recipe(recipe)
    override(tree, [*SMALL, *assignments])
    return as_comparison(tree, "test")


def _compare(config: ComparisonConfig, out: Path) -> list[RunResult]:
    return compare(RunContext(config, out, Console(quiet=True)), config)


def _numbers(results: list[RunResult]) -> list[object]:
    return [
        (run.name, run.seed, run.accuracy, run.loss, [e["losses"] for e in run.epochs])
        for run in results
    ]


def test_every_seed_has_a_teacher_the_student_alone_and_each_candidate(tmp_path: Path) -> None:
    results = _compare(_config("seeds=[1, 2]", "train.epochs=1"), tmp_path)
    names = ["teacher", "student", "logits", "cosine", "fitnets"]
    assert [(run.seed, run.name) for run in results] == [(s, n) for s in (1, 2) for n in names]


def test_the_same_command_gives_the_same_table_bit_for_bit(tmp_path: Path) -> None:
    config = _config("data.labels=20", recipe="demo")
    first = _compare(config, tmp_path / "one")
    torch.rand(3)
    assert _numbers(_compare(config, tmp_path / "two")) == _numbers(first)


def test_a_finished_comparison_is_not_repeated(tmp_path: Path) -> None:
    config = _config("train.epochs=1")
    first = _compare(config, tmp_path)
    again = _compare(config, tmp_path)
    assert all(run.kept for run in again)
    assert _numbers(again) == _numbers(first)


def test_the_report_of_another_comparison_is_not_replaced_without_a_word(tmp_path: Path) -> None:
    def said(config: ComparisonConfig) -> str:
        console = Console(record=True, width=500, file=io.StringIO())
        compare(RunContext(config, tmp_path, console), config)
        return console.export_text()

    config = _config("train.epochs=1")
    assert "will be replaced" not in said(config) + said(config)
    assert "will be replaced" not in said(_config("train.epochs=1", "seeds=[44]"))  # none yet
    (tmp_path / MARKDOWN).touch()
    assert "will be replaced; keep both with --out" in said(_config("train.epochs=1", "seeds=[43]"))


def test_a_candidate_that_is_added_repeats_no_other(tmp_path: Path) -> None:
    config = _config("train.epochs=1")
    _compare(config, tmp_path)
    more = config.model_copy(
        update={
            "candidates": (
                *config.candidates,
                config.candidates[0].model_copy(update={"label": "more", "task_weight": 0.5}),
            )
        }
    )
    kept = {run.name: run.kept for run in _compare(more, tmp_path)}
    assert kept.pop("more") is False
    assert all(kept.values())


def test_what_cannot_work_fails_before_anything_is_trained(tmp_path: Path) -> None:
    config = _config("candidates.fitnets.strategies.fitnets.student_tap=featurs")
    with pytest.raises(TapError, match="did you mean 'features'"):
        _compare(config, tmp_path)
    assert not list(tmp_path.glob("*/result.json"))


def test_a_loss_that_fails_does_so_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("as its author has it")

    monkeypatch.setattr("kdcore_logits.divergence", broken)
    with pytest.raises(StrategyError, match="as its author has it"):
        _compare(_config(), tmp_path)
    assert not list(tmp_path.glob("*/result.json"))


def test_a_candidate_of_two_strategies_logs_both(tmp_path: Path) -> None:
    tree = read_recipe("tutorial")
    override(tree, [*SMALL, "train.epochs=1"])
    entries = [c["strategies"][0] for c in tree["candidates"]]
    tree["candidates"] = [{"label": "logits+fitnets", "strategies": [entries[0], entries[2]]}]
    run = _compare(as_comparison(tree, "test"), tmp_path)[-1]
    assert set(run.epochs[0]["losses"]) == {"task", "logits", "fitnets"}
    losses = run.epochs[0]["losses"]
    total = 0.75 * losses["task"] + 0.25 * losses["logits"] + 0.25 * losses["fitnets"]
    assert run.epochs[0]["loss"] == pytest.approx(total, rel=1e-6)


def _result(name: str, seed: int, accuracy: float) -> RunResult:
    scores = {"accuracy": accuracy}
    return RunResult(name, seed, scores, 1.0, 2.0, (), None, None, "", (ACCURACY,))


def test_differences_to_the_student_alone_are_paired_by_seed() -> None:
    runs = [
        _result("student", 1, 90.0),
        _result("logits", 1, 92.0),
        _result("student", 2, 80.0),
        _result("logits", 2, 84.0),
    ]
    student, logits = Sheet.of(runs).rows
    assert student.difference is None
    assert logits.difference is not None
    assert logits.difference.mean == 3.0
    assert logits.difference.sd == pytest.approx(2**0.5)
    assert logits.score is not None
    assert logits.score.mean == 88.0


def test_a_teacher_that_came_trained_has_no_loss_in_the_table() -> None:
    given = replace(_result("teacher", 1, 97.0), loss=None)
    assert Sheet.of([given, _result("student", 1, 90.0)]).rows[0].loss is None
