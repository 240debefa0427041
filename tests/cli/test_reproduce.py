from pathlib import Path

import pytest
import torch
from PIL import Image

from kdcore.cli.main import run_command
from kdcore.measured import Measured
from kdcore.tables import TABLES


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of images in folders of three classes, for training and testing."""
    root = tmp_path_factory.mktemp("photos")
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", 24), ("test", 6)):
        for name in ("cat", "dog", "fox"):
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = torch.randint(0, 256, (32, 32, 3), generator=generator, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(root / part / name / f"{index}.png")
    return root


def test_without_a_table_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["reproduce"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == list(TABLES)
    assert "needs --root" in lines[list(TABLES).index("strong")]


def _short(name: str, photos: Path, out: Path, *more: str) -> Measured:
    images = ["--root", str(photos), "--data", "folder"] if TABLES[name].images else []
    arguments = ["reproduce", name, "--short", "--quiet", "--out", str(out), *images, *more]
    assert run_command([*arguments, "--save", str(out.parent / "table.json")]) == 0
    return Measured.read(out.parent / "table.json")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("demo", "few-labels") else [pytest.mark.slow])
        for name in TABLES
    ],
)
def test_every_table_is_made_in_short(name: str, photos: Path, tmp_path: Path) -> None:
    found = _short(name, photos, tmp_path / "out")
    rows = dict.fromkeys(each.name for each in found.results)
    assert list(rows)[:2] == ["teacher", "student"]
    assert len(rows) > 2
    assert all(len(found.scores(row)) == 2 for row in rows)
    assert (tmp_path / "out" / "report.html").is_file()


def test_the_student_alone_needs_no_teacher_and_the_rest_is_added(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = _short("strong", photos, tmp_path / "out", "--alone")
    assert {each.name for each in alone.results} == {"student"}
    assert alone.missing == 2
    said = capsys.readouterr().out
    assert "left out: 2 students; the same command without --alone adds them" in said
    assert "its numbers say nothing" in said
    whole = _short("strong", photos, tmp_path / "out")
    assert whole.missing == 0
    assert all(each.kept for each in whole.results if each.name == "student")
    assert whole.scores("student") == alone.scores("student")
    assert set(whole.scores("distilled")) == {42, 43}
    said = capsys.readouterr().out
    assert "minutes of training" in said
    assert "left out" not in said


def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save = str(tmp_path / "missing" / "table.json")
    assert run_command(["reproduce", "demo", "--save", save]) == 2
    assert "--save" in capsys.readouterr().err
