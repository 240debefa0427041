import json
from dataclasses import replace
from pathlib import Path

from kdcore.job import METRICS, RESULT
from kdcore.report.folder import (
    config_of,
    facts_of,
    moved,
    outcome_of,
    read_result,
    result_in,
    shares_of,
    shipment_of,
)
from tests.report.runs import run

NAMES = ("cat", "dog", "eel")


def test_what_lies_in_a_folder_is_read(tmp_path: Path) -> None:
    own = run(tmp_path, "a", 1, NAMES)
    outcome = outcome_of(own)
    assert outcome is not None
    assert outcome.classes == NAMES
    assert facts_of(own)["torch"] == "9.9"
    assert config_of(own) == 'name = "a <b>"\n'
    assert [each.shares["a"] for each in shares_of(own)] == [0.2, 0.4, 0.3]
    assert read_result(Path(own.folder)) == own
    assert shipment_of(own) is None


def test_nothing_is_read_where_nothing_is_or_it_is_of_another(tmp_path: Path) -> None:
    own = run(tmp_path, "a", 1, NAMES)
    gone = replace(own, folder=str(tmp_path / "gone"), outcome=None)
    nowhere = replace(gone, folder="")
    for each in (gone, nowhere):
        assert outcome_of(each) is None
        assert facts_of(each) == {}
        assert config_of(each) is None
        assert shares_of(each) == []
        assert shipment_of(each) is None
    # A teacher that came trained has the folder of its weights, where another run may lie.
    assert facts_of(replace(own, name="teacher")) == {}
    assert facts_of(replace(own, seed=2)) == {}


def test_lines_that_are_not_whole_are_left_out(tmp_path: Path) -> None:
    own = run(tmp_path, "a", 1, NAMES)
    with (Path(own.folder) / METRICS).open("a") as file:
        file.write('{"kind": "step", "gradients": 1}\n')
        file.write('{"kind": "gradients", "epoch": 0}\n')
        file.write('{"kind": "gradients", "epoch": 1, "step": 9, "shares": {"task": 1.0')
    assert len(shares_of(own)) == 3


def test_files_are_found_where_they_were_moved_to(tmp_path: Path) -> None:
    own = run(tmp_path / "before", "a", 1, NAMES)
    (tmp_path / "before").rename(tmp_path / "after")
    assert outcome_of(own) is None
    now = moved(own, tmp_path / "after")
    assert outcome_of(now) is not None
    assert Path(now.folder).parent == tmp_path / "after"
    # What is nowhere stays as it was written.
    assert moved(own, tmp_path / "elsewhere") == own


def test_a_result_that_is_damaged_is_none(tmp_path: Path) -> None:
    own = run(tmp_path, "a", 1, NAMES)
    file = Path(own.folder) / RESULT
    saved = json.loads(file.read_text())
    assert result_in(saved) == own
    del saved["metrics"]
    file.write_text(json.dumps(saved))
    assert read_result(Path(own.folder)) is None
    assert result_in(["no", "result"]) is None
