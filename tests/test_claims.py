"""What the documentation claims of its tables."""

from dataclasses import replace
from pathlib import Path

import pytest

from kdcore.claims import CLAIMS, gain
from kdcore.errors import UserError
from kdcore.job import RunResult
from kdcore.measured import Measured
from kdcore.tables import Images, experiment_of
from tests.documented import runs_of


def _measured(name: str, runs: list[RunResult], samples: str = "some") -> Measured:
    results = tuple(replace(each, samples=samples) for each in runs)
    return Measured(name, "", "folder", ("images: 9; cpu",), 0, "", "", 0.0, results)


def test_a_gain_over_another_table_is_paired_by_seed() -> None:
    base = _measured("tutorial", runs_of("student", [68.0, 69.0, 70.0]))
    own = _measured("strong", runs_of("distilled", [77.0, 76.0, 99.0], first=1))
    summary = gain((base, "student"), (own, "distilled"))
    assert summary.mean == ((77.0 - 69.0) + (76.0 - 70.0)) / 2
    worded = replace(own, about=("the same, told in other words",))
    assert gain((base, "student"), (worded, "distilled")) == summary
    other = _measured("strong", list(own.results), "others")
    with pytest.raises(UserError, match="are of different samples"):
        gain((base, "student"), (other, "distilled"))
    partly = replace(own, results=(replace(own.results[0], samples=""), *own.results[1:]))
    for unknown in (partly, _measured("strong", list(own.results), "")):
        with pytest.raises(UserError, match="strong does not say which samples row distilled is"):
            gain((base, "student"), (unknown, "distilled"))
    with pytest.raises(UserError, match="have no seed in common"):
        gain((base, "student"), (own, "student"))


def test_claims_are_of_rows_that_tables_have() -> None:
    for claim in CLAIMS:
        for table, row in (claim.over, claim.of):
            config = experiment_of(table, Images(Path("images"), "folder"))
            assert row in {"student", *(each.label for each in config.candidates)}
