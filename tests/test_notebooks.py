"""The notebooks run, each from a fresh start, and are kept without what they print."""

import json
from pathlib import Path

import pytest

from tests.extras import needed

FOLDER = Path(__file__).parent.parent / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SHORTEST = FOLDER / "2-soft-targets.ipynb"
each = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


def _code(notebook: Path) -> list[str]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def _run(cells: list[str]) -> dict[str, object]:
    names: dict[str, object] = {"__name__": "__main__"}
    for cell in cells:
        exec(compile(cell, "notebook", "exec"), names)
    return names


def test_there_is_one_for_each_chapter_of_the_tutorial() -> None:
    stems = [notebook.stem for notebook in NOTEBOOKS]
    assert stems == ["1-cross-entropy", "2-soft-targets", "3-cosine", "4-fitnets"]


@each
def test_a_notebook_is_kept_as_it_was_written(notebook: Path) -> None:
    written = json.loads(notebook.read_text(encoding="utf-8"))
    assert written["nbformat"] == 4
    code = [cell for cell in written["cells"] if cell["cell_type"] == "code"]
    assert len(code) >= 4
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert written["cells"][0]["cell_type"] == "markdown"


@each
def test_a_notebook_holds_its_two_loops_against_each_other(notebook: Path) -> None:
    assert "assert furthest < 1e-9" in _code(notebook)[-1]


def test_the_shortest_notebook_runs_and_its_loops_agree(capsys: pytest.CaptureFixture[str]) -> None:
    names = _run(_code(SHORTEST))
    assert len(names["plain"]) == len(names["ours"]) == 40  # type: ignore[arg-type]  # lists
    printed = capsys.readouterr().out
    assert "largest difference of 40 steps" in printed
    assert "by hand" in printed


def test_another_temperature_in_one_of_the_loops_is_noticed() -> None:
    cells = [cell.replace("for epoch in range(4)", "for epoch in []") for cell in _code(SHORTEST)]
    cells = [cell.replace("EPOCHS, BATCH = 4", "EPOCHS, BATCH = 1") for cell in cells]
    _run(cells)  # of a teacher that has learned nothing, in fewer steps
    assert sum("T = 2\n" in cell for cell in cells) == 1
    with pytest.raises(AssertionError):
        _run([cell.replace("T = 2\n", "T = 2.01\n") for cell in cells])


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # what the kernel's machinery uses of others
@each
def test_a_notebook_runs_in_a_fresh_kernel(notebook: Path, tmp_path: Path) -> None:
    needed("ipykernel")
    nbclient, nbformat = needed("nbclient"), needed("nbformat")
    book = nbformat.read(notebook, as_version=4)
    nbformat.validate(book)
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(book, timeout=300, kernel_name="python3", resources=where).execute()
    last = "".join(out.get("text", "") for out in book.cells[-2].outputs)
    assert "largest difference" in last
    assert list(tmp_path.iterdir()) == []
