from pathlib import Path

import pytest
import torch

from kdcore.report.analysis import (
    agreement,
    calibration_error,
    confusion,
    fitted_temperature,
    reliability,
)
from kdcore.report.rows import Sheet
from kdcore.report.study import Calibration, Study
from tests.report.runs import SAMPLES, comparison, run, said

NAMES = ("cat", "dog", "eel")


def test_each_row_is_what_its_runs_say_together(tmp_path: Path) -> None:
    study = Study.of(Sheet.of(comparison(tmp_path, ["a"], [1, 2], NAMES)))
    assert [row.title for row in study.rows] == ["teacher", "student alone", "a"]
    assert (study.classes, study.samples) == (NAMES, SAMPLES)
    targets = torch.arange(SAMPLES) % 3
    teacher = [said(seed * 31 + len("teacher"), 3) for seed in (1, 2)]
    own = [said(seed * 31 + len("a"), 3) for seed in (1, 2)]
    row = study.rows[2]
    counts = sum(confusion(each.argmax(1), targets, 3) for each in own)
    assert torch.equal(row.counts, counts)  # type: ignore[arg-type]
    assert row.agreements["teacher"] == [
        agreement(*pair, targets) for pair in zip(teacher, own, strict=True)
    ]
    assert row.calibration.errors == [calibration_error(reliability(e, targets)) for e in own]
    validation = [said(seed + 7, 3, 40, 1.0) for seed in (1, 2)]
    expected = [fitted_temperature(each, torch.arange(40) % 3) for each in validation]
    assert row.temperatures == expected
    assert row.fitted_on == [40, 40]
    assert study.rows[0].temperatures == []  # a teacher is not asked of validation samples
    assert [len(each) for each in row.shares] == [3, 3]


def test_bins_of_several_runs_are_those_of_all_their_samples() -> None:
    logits = said(3, 4, 100)
    targets = torch.arange(100) % 4
    both = Calibration()
    for part in (slice(0, 37), slice(37, 100)):
        both.add(logits[part], targets[part])
    for ours, whole in zip(both.bins, reliability(logits, targets), strict=True):
        assert ours.count == whole.count
        assert ours.accuracy == pytest.approx(whole.accuracy)
        assert ours.confidence == pytest.approx(whole.confidence)


def test_worst_samples_know_what_teachers_took_them_for(tmp_path: Path) -> None:
    study = Study.of(Sheet.of(comparison(tmp_path, ["a"], [1], NAMES)))
    teacher = said(31 + len("teacher"), 3)
    for sample in study.rows[2].worst:
        index = int(sample.name.split()[1].removesuffix(".png"))
        assert sample.target == index % 3
        assert sample.teacher == {"teacher": int(teacher[index].argmax())}
        assert sample.picture is not None


def test_a_run_of_other_classes_or_without_an_outcome_is_left_out(tmp_path: Path) -> None:
    results = comparison(tmp_path, ["a"], [1], NAMES)
    other = run(tmp_path, "b", 1, ("x", "y"))
    (Path(results[1].folder) / "outcome.safetensors").unlink()
    study = Study.of(Sheet.of([*results, other]))
    assert [row.title for row in study.said] == ["teacher", "a"]
