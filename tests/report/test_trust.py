from pathlib import Path
from statistics import fmean, stdev

import pytest
import torch

from kdcore.report.analysis import calibration_error, fitted_temperature, reliability
from kdcore.report.rows import Sheet
from kdcore.report.study import Study
from kdcore.report.trust import agreement_lines, calibration_lines, drowned, sections
from tests.report.runs import comparison, said

NAMES = ("cat", "dog", "eel")


def _study(folder: Path, *shares: float) -> Study:
    results = comparison(folder, ["a"], [1, 2], NAMES, shares=shares or (0.2, 0.4, 0.3))
    return Study.of(Sheet.of(results))


def test_calibration_is_a_mean_over_seeds_before_and_after(tmp_path: Path) -> None:
    teacher, _, own = calibration_lines(_study(tmp_path))
    assert teacher[3:] == ["–", "–", "–"]
    targets, errors, scaled = torch.arange(60) % 3, [], []
    for seed in (1, 2):
        logits = said(seed * 31 + 1, 3)
        temperature = fitted_temperature(said(seed + 7, 3, 40, 1.0), torch.arange(40) % 3)
        assert temperature is not None
        errors.append(calibration_error(reliability(logits, targets)))
        scaled.append(calibration_error(reliability(logits / temperature, targets)))
    assert own[1] == f"{fmean(errors):.1f} ± {stdev(errors):.1f}"
    assert own[4] == f"{fmean(scaled):.1f} ± {stdev(scaled):.1f}"


def test_agreement_has_a_line_a_student_and_teacher(tmp_path: Path) -> None:
    lines = agreement_lines(_study(tmp_path))
    assert [line[:2] for line in lines] == [["student alone", "teacher"], ["a", "teacher"]]


@pytest.mark.parametrize(
    ("shares", "count"),
    [((0.99, 0.99, 0.99), 1), ((0.01, 0.01, 0.01), 1), ((0.5, 0.5, 0.99), 0)],
)
def test_either_loss_may_drown_the_other(
    tmp_path: Path, shares: tuple[float, ...], count: int
) -> None:
    assert len(drowned(_study(tmp_path, *shares))) == count


def test_too_few_measurements_warn_of_nothing(tmp_path: Path) -> None:
    assert drowned(_study(tmp_path, 0.99)) == []


def test_nothing_is_said_where_nothing_is_known() -> None:
    assert sections(Study((), (), 0)) == []
