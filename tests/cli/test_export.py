import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from kdcore.cli.main import run_command
from kdcore.shipping import extras
from kdcore.shipping.record import Shipment
from tests.extras import needed
from tests.shipping.photos import CLASSES, make_photos, trained, write_experiment

needed("onnx")
needed("onnxscript")
needed("onnxruntime")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a run, export it in all formats, and return its folder."""
    folder = trained(tmp_path_factory.mktemp("export"))
    assert run_command(["export", str(folder), "--torch-export", "--int8"]) == 0
    return folder


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    """Return a function that runs a command line and returns what it prints, and its errors."""

    def say(*arguments: str | Path, code: int = 0) -> tuple[str, str]:
        capsys.readouterr()
        assert run_command([str(argument) for argument in arguments]) == code
        return capsys.readouterr()

    return say


Said = Callable[..., tuple[str, str]]


def test_every_format_is_written_and_told(run: Path, said: Said, tmp_path: Path) -> None:
    out, err = said("export", run, "--onnx", "--out", tmp_path / "files", "--samples", "40")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "student.safetensors",
        "student.onnx",
        "student:",
    ]
    assert "largest difference" in lines[1]
    assert "accuracy" in lines[1]
    count = torch.get_num_threads()
    assert re.search(rf", {count} thread{'s' if count > 1 else ''}\b", lines[1])
    assert "comparing with the student on 40 test images" in err
    assert (tmp_path / "files" / "README.md").exists()
    shipment = Shipment.load(run / "export")
    assert shipment is not None
    assert [file.name for file in shipment.files] == [
        "student.safetensors",
        "student.pt2",
        "student.onnx",
        "student.int8.onnx",
    ]


def test_json_is_the_record(run: Path, said: Said, tmp_path: Path) -> None:
    out, _ = said("export", run, "--json", "--best", "--out", tmp_path)
    assert json.loads(out) == json.loads((tmp_path / "export.json").read_text())
    assert json.loads(out)["weights"] == "best"


def test_what_cannot_be_exported_is_one_line(
    run: Path, said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments, says in (
        (["export", tmp_path], "no folder of a run"),
        (["export", run, "--tolerance", "-1"], "expected 0 or more"),
        (["export", run, "--root", tmp_path / "none"], "does not exist"),
    ):
        _, err = said(*arguments, code=2)
        assert says in err.splitlines()[-1]
        assert err.splitlines()[-1].startswith("error: ")
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    _, err = said("export", run, "--int8", code=2)
    assert (
        err == "error: --int8 needs onnx and onnxscript and onnxruntime: pip install "
        '"kdcore[export]", or in a clone uv sync --extra export\n'
    )
    said("export", run, "--out", tmp_path / "plain")  # which needs none of them


def test_a_file_out_of_bounds_fails_the_run(run: Path, said: Said, tmp_path: Path) -> None:
    _, err = said("export", run, "--onnx", "--tolerance", "0", "--out", tmp_path, code=3)
    assert "student.onnx is not the student" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["student.onnx", "student.int8.onnx", "student.pt2", "student.safetensors", ""]
)
def test_images_are_predicted_by_every_file_and_by_the_run(
    name: str, run: Path, said: Said
) -> None:
    photos = run.parents[1] / "photos" / "test"
    files = [photos / CLASSES[0] / "0.png", photos / CLASSES[2] / "1.jpg"]
    file = run / "export" / name if name else run
    out, err = said("predict", file, *files, "--top", "2")
    lines = out.splitlines()
    assert len(lines) == 2
    for line, photo in zip(lines, files, strict=True):
        assert line.startswith(f"{photo}: {photo.parent.name} ")
        assert line.count("%") == 2
    assert ("which runs what is in it" in err) is (name == "student.pt2")
    told = json.loads(said("predict", file, *files, "--json")[0])["images"]
    assert [each["image"] for each in told] == list(map(str, files))
    assert [list(each["values"]) for each in told] == [[CLASSES[0]], [CLASSES[2]]]


def test_unreadable_images_are_told_and_the_others_predicted(
    run: Path, said: Said, tmp_path: Path
) -> None:
    good = run.parents[1] / "photos" / "test" / CLASSES[1] / "0.png"
    bad, none = tmp_path / "bad.jpg", tmp_path / "none.png"
    bad.write_bytes(b"no image")
    file = run / "export" / "student.onnx"
    out, err = said("predict", file, bad, good, none, code=2)
    assert len(out.splitlines()) == 1
    assert out.startswith(str(good))
    assert [line.startswith("error: cannot read image") for line in err.splitlines()] == [True] * 2
    told = json.loads(said("predict", file, bad, good, "--json", code=2)[0])["images"]
    assert "cannot read image" in told[0]["error"]
    assert told[1]["values"]


def test_an_image_is_turned_as_its_file_says(run: Path, said: Said, tmp_path: Path) -> None:
    upright = Image.open(run.parents[1] / "photos" / "test" / CLASSES[1] / "0.png").convert("RGB")
    turned = Image.Exif()
    turned[0x0112] = 3  # upside down
    upright.save(tmp_path / "upright.png")
    upright.rotate(180).save(tmp_path / "turned.png", exif=turned)
    upright.rotate(180).save(tmp_path / "untold.png")
    names = ("upright.png", "turned.png", "untold.png")
    files = [tmp_path / name for name in names]
    out = said("predict", run / "export" / "student.onnx", *files, "--json", "--top", "3")[0]
    values = [each["values"] for each in json.loads(out)["images"]]
    assert values[0] == values[1] != values[2]


def test_what_cannot_predict_is_one_line(run: Path, said: Said, tmp_path: Path) -> None:
    harmed = Path(shutil.copy(run / "export" / "student.onnx", tmp_path))
    harmed.write_bytes(harmed.read_bytes()[:1000])
    for file, says in (
        (harmed, "cannot be opened by onnxruntime"),
        (tmp_path / "none.onnx", "does not exist"),
        (run / "config.toml", "ends in .onnx, .pt2, .safetensors"),
        (tmp_path, "no folder of a run"),
    ):
        _, err = said("predict", file, "photo.png", code=2)
        assert says in err
        assert len(err.splitlines()) == 1
    onnx = run / "export" / "student.onnx"
    assert "--best would be ignored" in said("predict", onnx, "photo.png", "--best", code=2)[1]


def test_a_run_exports_its_own_student(said: Said, tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 12, 12)
    file = write_experiment(tmp_path, more='[export]\nformats = ["torch"]')
    out, _ = said("run", file, "--out", tmp_path / "out", "--quiet", "--set", "train.epochs=2")
    (folder,) = (tmp_path / "out").glob("student-*")
    shipment = Shipment.load(folder / "export")
    assert shipment is not None
    assert (shipment.weights, shipment.files[1].name) == ("best", "student.pt2")
    assert f"student to ship: student, seed 3, in {folder / 'export'}" in out


COMPARED = """
[[candidates]]
label = "{0}"
strategies = [{{ name = "logits" }}]
[[candidates]]
label = "{1}"
strategies = [{{ name = "logits", weight = 0.0001, label = "weak" }}]
[export]
formats = []
"""


def test_a_comparison_exports_the_student_that_validation_chooses(
    said: Said, tmp_path: Path
) -> None:
    make_photos(tmp_path / "photos", 12, 12)
    file = write_experiment(tmp_path, more=COMPARED.format("kd", "weak"))
    text = file.read_text().replace("seed = 3", "seeds = [3]")
    file.write_text(text.replace("[student]", '[teacher]\nmodel = "lightnn"\n[student]'))
    arguments = ["compare", file, "--out", tmp_path / "out", "--set", "train.epochs=2"]
    json_file = tmp_path / "result.json"
    out, _ = said(*arguments, "--quiet", "--json", json_file)
    rows = [r for r in json.loads(json_file.read_text())["rows"] if r["name"] != "teacher"]
    best = {
        row["name"]: row["epochs"][row["best_epoch"] - 1]["validation"]["accuracy"] for row in rows
    }
    (chosen,) = (tmp_path / "out").glob("*/export")
    name = chosen.parent.name.partition("-seed")[0]
    assert best[name] == max(best.values())
    assert f"student to ship: {name}, seed 3" in out
    assert "best on the validation split" in out
    _, err = said(*arguments, "--set", "data.validation=0", code=2)
    assert "hold out some images, as data.validation = 0.2" in err


def test_missing_libraries_are_noticed_before_training(
    said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_photos(tmp_path / "photos", 12, 12)
    file = write_experiment(tmp_path, more="[export]")
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    _, err = said("run", file, "--out", tmp_path / "out", code=2)
    assert 'pip install "kdcore[export]"' in err
    assert not (tmp_path / "out").exists()
