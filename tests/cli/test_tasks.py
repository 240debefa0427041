"""Tasks beside classification from the command line: a file in, a student and a report out."""

import csv
import importlib
import json
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from kdcore.cli.main import run_command
from kdcore.job import CONFIG, STUDENT_WEIGHTS

MODULE = '''
import torch
from torch import nn

torch.manual_seed(0)
VOCABULARY, TOKENS = 7, 5


def sequences():
    """Counting up, from anywhere; some lines are shorter, some have no targets."""
    starts = torch.randint(VOCABULARY, (40, 1), generator=torch.Generator().manual_seed(1))
    lines = (starts + torch.arange(TOKENS + 1)) % VOCABULARY
    inputs, targets = lines[:, :-1], lines[:, 1:].clone()
    targets[::3, 3:] = -100
    targets[20:25] = -100
    return (inputs[:30], targets[:30]), (inputs[30:], targets[30:])


class Next(nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.embedding = nn.Embedding(classes, width)
        self.body = nn.Sequential(nn.Linear(width, width), nn.Tanh())
        self.head = nn.Linear(width, classes)

    def forward(self, tokens):
        return self.head(self.body(self.embedding(tokens)))


def teacher(num_classes):
    return Next(16, num_classes)


def student(num_classes):
    return Next(4, num_classes)


def pixels():
    """Where an image is bright."""
    images = torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    masks = (images.mean(1) > 0.5).long()
    masks[:, 0] = -100
    return (images[:16], masks[:16]), (images[16:], masks[16:])


def segmenter(num_classes):
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, num_classes, 1))


def closeness(outputs, targets):
    return -(outputs.argmax(1) - targets).abs().double()


def points():
    inputs = torch.randn(24, 4, generator=torch.Generator().manual_seed(1))
    return (inputs[:16], (inputs[:16, 0] > 0).long()), (inputs[16:], (inputs[16:, 0] > 0).long())


def trained():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def narrow():
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
'''

TRAIN = """
device = "cpu"
[train]
epochs = 2
batch_size = 8
lr = 0.02
"""

SEQUENCES = f"""
{TRAIN}
[task]
kind = "sequences"
[data]
name = "tried_tasks:sequences"
validation = 0.2
[teacher]
model = "tried_tasks:teacher"
[student]
model = "tried_tasks:student"
[[candidates]]
label = "both"
strategies = [{{ name = "logits" }}, {{ name = "fitnets" }}]
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import sys

    (tmp_path / "tried_tasks.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("tried_tasks", None)


def _run(*arguments: str | Path) -> list[dict[str, Any]]:
    result = Path("result.json")
    assert run_command([*map(str, arguments), "--json", str(result), "--out", "out"]) == 0
    rows: list[dict[str, Any]] = json.loads(result.read_text())["rows"]
    return rows


def _file(text: str) -> Path:
    Path("experiment.toml").write_text(text, encoding="utf-8")
    return Path("experiment.toml")


def test_sequences_are_compared_from_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    rows = _run("compare", _file(SEQUENCES))
    said = capsys.readouterr()
    for name in ("tried_tasks:sequences", "tried_tasks:teacher", "tried_tasks:student"):
        assert f"importing {name} from " in said.err
    assert "25 training and 10 test samples, 5 for validation, 7 classes" in said.out
    assert "samples/s" in said.out
    assert [row["name"] for row in rows] == ["teacher", "student", "both"]
    for row in rows:
        assert list(row["scores"]) == ["token accuracy", "perplexity"]
        assert row["scores"]["perplexity"] > 1
    assert rows[2]["best_scores"]["token accuracy"] > 0
    assert set(rows[2]["epochs"][0]["losses"]) == {"task", "logits", "fitnets"}
    report = Path("out/report.md").read_text(encoding="utf-8")
    assert "|  | token accuracy (%) | to student alone | perplexity | training loss |" in report
    assert "![Token accuracy by epoch](curves.png)" in report


def test_the_resolved_file_of_a_sequence_run_gives_the_same_run_again() -> None:
    tree = tomllib.loads(SEQUENCES)
    text = SEQUENCES.partition("[[candidates]]")[0] + '[[strategies]]\nname = "logits"\n'
    assert tree["task"]["kind"] == "sequences"
    first = _run("run", _file(text))[-1]
    config = Path(first["folder"]) / CONFIG
    assert 'kind = "sequences"' in config.read_text()
    student = (Path(first["folder"]) / STUDENT_WEIGHTS).read_bytes()
    result = Path("again.json")
    assert run_command(["run", str(config), "--out", "again", "--json", str(result)]) == 0
    again = json.loads(result.read_text())["rows"][-1]
    assert again["scores"] == first["scores"]
    assert (Path(again["folder"]) / STUDENT_WEIGHTS).read_bytes() == student


def test_segmentation_is_compared_from_a_file() -> None:
    text = SEQUENCES.replace('"sequences"', '"segmentation"').replace(":sequences", ":pixels")
    text = text.replace(":teacher", ":segmenter").replace(":student", ":segmenter")
    text = text.replace('"fitnets" }', '"fitnets", student_tap = "0", teacher_tap = "0" }')
    rows = _run("compare", _file(text))
    assert all(list(row["scores"]) == ["mean IoU", "pixel accuracy"] for row in rows)
    tried = importlib.import_module("tried_tasks")
    _, (images, masks) = tried.pixels()
    assert [row["name"] for row in rows[1:]] == ["student", "both"]
    for row in rows[1:]:
        student = tried.segmenter(2)
        student.load_state_dict(load_file(Path(row["folder"]) / STUDENT_WEIGHTS))
        with torch.no_grad():
            right = (student(images).argmax(1) == masks)[masks != -100]
        accuracy = 100 * float(right.double().mean())
        assert row["scores"]["pixel accuracy"] == pytest.approx(accuracy)


@pytest.fixture
def table() -> Path:
    """Grey images; the label is how bright they are, or names for that."""
    with Path("images.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "names"])
        for index in range(40):
            grey = index * 6
            Image.new("RGB", (8, 8), (grey, grey, grey)).save(f"{index}.png")
            names = ";".join(["dark"] * (grey < 90) + ["middling"] * (60 < grey < 180)) or "-"
            rows.writerow([f"{index}.png", "" if index % 10 == 9 else grey / 255, names])
    return Path("images.csv")


CSV = f"""
{TRAIN}
[task]
kind = "regression"
loss = "huber"
[data]
name = "csv"
root = "images.csv"
[teacher]
model = "lightnn"
[student]
model = "lightnn"
[[candidates]]
label = "cosine"
strategies = [{{ name = "cosine" }}]
"""


@pytest.mark.usefixtures("table")
def test_a_regression_learns_from_numbers_in_a_table() -> None:
    budget = ("--epochs", "20", "--lr", "0.003")
    rows = _run("compare", _file(CSV), *budget, "--validation", "0.2")
    assert all(list(row["scores"]) == ["R²", "MAE", "RMSE"] for row in rows)
    assert rows[0]["scores"]["R²"] > 0.5
    assert rows[2]["best_scores"]["MAE"] < 0.3
    report = Path("out/report.md").read_text(encoding="utf-8")
    assert "| R² | to student alone | MAE | RMSE |" in report
    assert "1 value; 8 pixels" in report


def test_several_labels_are_learned_from_names_in_a_table(table: Path) -> None:
    lines = list(csv.DictReader(table.read_text().splitlines()))
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label"])
        rows.writerows([line["path"], line["names"]] for line in lines)
    text = CSV.replace('"regression"\nloss = "huber"', '"multi-label"')
    found = _run("compare", _file(text), "--set", "train.epochs=6")
    assert all(list(row["scores"]) == ["F1", "label accuracy"] for row in found)
    assert found[0]["scores"]["label accuracy"] > 60


NONE = f"""
{TRAIN}
[task]
kind = "none"
[data]
name = "tried_tasks:points"
[teacher]
model = "tried_tasks:trained"
[student]
model = "tried_tasks:narrow"
[[candidates]]
label = "logits"
strategies = [{{ name = "logits" }}]
"""


def test_without_a_task_the_student_follows_a_teacher_that_is_taken_as_it_comes() -> None:
    rows = _run("compare", _file(NONE))
    assert [(row["name"], row["scores"]) for row in rows] == [("teacher", {}), ("logits", {})]
    assert rows[1]["epochs"][0]["losses"]["task"] == 0
    assert rows[1]["epochs"][1]["loss"] < rows[1]["epochs"][0]["loss"]
    assert "| teacher | – | – | – | 0.0 |" in Path("out/report.md").read_text(encoding="utf-8")
    assert "| logits | – | – |" in Path("out/report.md").read_text(encoding="utf-8")


def test_a_metric_of_ones_own_scores_without_a_task(capsys: pytest.CaptureFixture[str]) -> None:
    metric = 'kind = "none"\nmetric = "tried_tasks:closeness"\nmetric_name = "closeness"'
    rows = _run("compare", _file(NONE.replace('kind = "none"', metric)))
    assert "importing tried_tasks:closeness from " in capsys.readouterr().err
    assert all(-1 <= row["scores"]["closeness"] <= 0 for row in rows)
    assert "closeness" in Path("out/report.md").read_text(encoding="utf-8")


@pytest.fixture
def error(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(text: str, *arguments: str, code: int = 2) -> str:
        assert run_command(["compare", str(_file(text)), "--out", "out", *arguments]) == code
        return capsys.readouterr().err.splitlines()[-1]

    return run


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        (
            SEQUENCES.replace(":sequences", ":points"),
            2,
            "training: sequences takes targets that are whole numbers [samples, tokens], got int64",
        ),
        (
            SEQUENCES.replace('"sequences"', '"regression"'),
            2,
            "regression takes targets that are floating",
        ),
        (
            CSV.replace('{ name = "cosine" }', '{ name = "logits" }'),
            3,
            "compares probabilities of classes, which the outputs of regression are not",
        ),
        (SEQUENCES.replace(":teacher", ":trained"), 2, "cannot run on the samples of the data"),
        (SEQUENCES.replace(":student", ":segmenter"), 2, "cannot run on the samples of the data"),
        (SEQUENCES.replace("tried_tasks:student", "lightnn"), 2, "takes square RGB images"),
        (SEQUENCES.replace(":sequences", ":missing"), 2, "unknown name 'missing'"),
    ],
)
@pytest.mark.usefixtures("table")
def test_what_does_not_fit_is_one_line(
    error: Callable[..., str], text: str, code: int, words: str
) -> None:
    assert words in error(text, code=code)


def test_targets_that_are_no_class_are_named(error: Callable[..., str]) -> None:
    Path("tried_tasks.py").write_text(
        MODULE.replace(
            "return (inputs[:30]",
            """targets[2, 1] = -3
    return (inputs[:30]""",
        )
    )
    assert "training[2]: the target is -3, the student has 7 classes" in error(SEQUENCES)


def test_a_run_of_another_task_is_not_taken_for_the_same() -> None:
    assert not _run("compare", _file(NONE))[1]["kept"]
    assert _run("compare", _file(NONE))[1]["kept"]
    metric = 'kind = "none"\nmetric = "tried_tasks:closeness"'
    assert not _run("compare", _file(NONE.replace('kind = "none"', metric)))[1]["kept"]
