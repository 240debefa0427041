import hashlib
import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from kdcore.cli.main import run_command
from kdcore.data.files import FileImages
from kdcore.data.preprocess import Preprocess
from kdcore.errors import RunError
from kdcore.evaluation import evaluate
from kdcore.sections import ExportConfig
from kdcore.shipping import formats, writing
from kdcore.shipping.export import export_run
from kdcore.shipping.formats import FORMATS, open_file
from kdcore.shipping.graph import FromPixels
from kdcore.shipping.opened import Opened, open_onnx
from kdcore.shipping.quantize import quantize
from kdcore.shipping.record import Shipment
from kdcore.shipping.student import FinishedRun, load_student
from kdcore.shipping.verify import FIRST_BATCHES
from tests.extras import needed
from tests.shipping.photos import SIZE

needed("onnx")
needed("onnxscript")
onnxruntime = needed("onnxruntime")

ALL = ExportConfig(formats=("onnx", "torch"), int8=True)
BOTH = ExportConfig(formats=("onnx", "torch"))
ONNX = ExportConfig()


def _ignore(_: str) -> None:
    pass


@pytest.fixture(scope="session")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Shipment]:
    """Export the run in all formats, and return the folder and the record."""
    out = tmp_path_factory.mktemp("exported")
    return out, export_run(run, ALL, _ignore, out=out)


def _squares(run: Path) -> tuple[list[Path], Tensor]:
    """Return the test images, and each as Pillow and numpy read, scale and cut it."""
    files = sorted((run.parents[1] / "photos" / "test").glob("*/*"))
    return files, torch.from_numpy(np.stack([_square(file) for file in files]))


def _square(file: Path) -> NDArray[np.uint8]:
    image = Image.open(file).convert("RGB")
    sides = [int(side * 20 / min(image.size)) for side in image.size]
    image = image.resize(sides, Image.Resampling.BILINEAR)
    left, top = round((image.width - SIZE) / 2), round((image.height - SIZE) / 2)
    return np.asarray(image)[top : top + SIZE, left : left + SIZE].transpose(2, 0, 1).copy()


def _expected(run: Path, pixels: Tensor) -> Tensor:
    student, card = load_student(run)
    assert card.image is not None
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (card.image.mean, card.image.std))
    with torch.no_grad():
        logits: Tensor = student((pixels / 255 - mean) / std)
    return logits


def test_onnx_gives_the_students_logits_on_images_that_another_program_reads(
    run: Path, exported: tuple[Path, Shipment]
) -> None:
    files, pixels = _squares(run)
    assert len(files) == 120
    expected = _expected(run, pixels)
    session = onnxruntime.InferenceSession(str(exported[0] / "student.onnx"))
    (together,) = session.run(None, {"image": pixels.numpy()})
    one_by_one = [session.run(None, {"image": each[None].numpy()})[0] for each in pixels]
    for found in (together, np.concatenate(one_by_one)):
        assert np.abs(found - expected.numpy()).max() <= 1e-4
    assert float(expected.std()) > 0.1


def test_torch_export_gives_them_within_a_millionth(
    run: Path, exported: tuple[Path, Shipment]
) -> None:
    _, pixels = _squares(run)
    student, card = load_student(run)
    assert card.image is not None
    module = torch.export.load(exported[0] / "student.pt2").module()
    for count in (1, 3, 120):
        with torch.no_grad():
            found = module(image=pixels[:count])
            expected = student(card.image.normalise(pixels[:count]))
        assert float((found - expected).abs().max()) <= 1e-6


def test_the_other_program_reads_what_kdcore_reads(run: Path) -> None:
    files, pixels = _squares(run)
    image = load_student(run)[1].image
    assert image is not None
    own = FileImages(files, run).fitted(torch.arange(len(files)), image.geometry)
    apart = (own.permute(0, 3, 1, 2).int() - pixels.int()).abs()
    assert int(apart.max()) <= 1
    assert float((apart > 0).float().mean()) < 0.02


def test_the_record_says_what_the_files_are(exported: tuple[Path, Shipment]) -> None:
    out, shipment = exported
    assert Shipment.load(out) == shipment
    assert [file.format for file in shipment.files] == list(FORMATS)
    for file in shipment.files:
        content = (out / file.name).read_bytes()
        assert (file.bytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert 0 < file.latency_p50_ms <= file.latency_p95_ms
        assert "thread" in file.runtime
        if file.bound is not None:
            assert file.max_difference <= file.bound
            assert file.bound <= 1e-4 or file.largest_logit > 10
            assert file.scores == pytest.approx(shipment.scores)
    *_, onnx, small = shipment.files
    assert int(onnx.versions["opset"]) >= 18
    assert small.bound is None
    assert small.bytes < onnx.bytes / 2
    assert small.agreement is not None
    assert small.agreement > 90
    assert (shipment.samples, shipment.calibrated_on) == (120, 54)
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "export.json",
        "student.int8.onnx",
        "student.onnx",
        "student.pt2",
        "student.safetensors",
    ]


def test_scores_are_those_of_the_run(run: Path, exported: tuple[Path, Shipment]) -> None:
    result = json.loads((run / "result.json").read_text())
    assert exported[1].scores == pytest.approx(result["scores"])
    finished = FinishedRun.of(run)
    student, _ = load_student(run)
    again = evaluate(student, finished.data.test, finished.task)
    assert exported[1].scores == pytest.approx(again)


def test_the_best_weights_are_exported_where_asked_for(run: Path, tmp_path: Path) -> None:
    none = ExportConfig(formats=())
    shipment = export_run(run, none, _ignore, best=True, out=tmp_path, samples=10)
    assert (shipment.weights, shipment.samples) == ("best", 10)
    assert [file.name for file in shipment.files] == ["student.safetensors"]
    card = open_file(tmp_path / "student.safetensors").card
    assert card.weights == "best"


def test_eight_bits_are_calibrated_on_training_images_alone(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    real = FileImages.read

    def told(self: FileImages, index: int) -> Tensor:
        read.append(self.name(index))
        return real(self, index)

    def watched(*args: object) -> None:
        read.clear()
        quantize(*args)  # type: ignore[arg-type]  # as it was called
        calibrated.extend(read)

    calibrated: list[str] = []
    monkeypatch.setattr(FileImages, "read", told)
    monkeypatch.setattr(formats, "quantize", watched)
    export_run(run, ExportConfig(int8=True), _ignore, out=tmp_path)
    assert len(calibrated) == 54
    assert all(name.startswith("train/") for name in calibrated)
    assert any(name.startswith("test/") for name in read)  # it would have been seen


class _Wrong(FromPixels):
    def __init__(self, student: nn.Module, image: Preprocess) -> None:
        super().__init__(student, replace(image, mean=(0.5, 0.5, 0.5)))


@pytest.mark.parametrize("config", [ONNX, ExportConfig(formats=("torch",))])
def test_a_file_that_normalises_otherwise_is_refused(
    config: ExportConfig, own_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "shipped", lambda student, image, _: _Wrong(student, image).eval())
    with pytest.raises(RunError, match="is not the student: logits of up to"):
        export_run(own_run, config, _ignore)
    assert list((own_run / "export").iterdir()) == []
    export_run(own_run, config, _ignore, tolerance=1e3)  # nothing else is wrong with it
    assert len(list((own_run / "export").iterdir())) == 4


def test_a_file_that_was_changed_after_it_was_written_is_refused(
    own_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    def changed(path: Path, *args: object) -> None:
        writing.write_onnx(path, *args)  # type: ignore[arg-type]  # as it was called
        model = onnx.load(str(path))
        last = next(each for each in model.graph.initializer if each.dims == [3])
        values = onnx.numpy_helper.to_array(last) + np.float32(2e-4)
        last.CopyFrom(onnx.numpy_helper.from_array(values, last.name))
        onnx.save(model, str(path))

    monkeypatch.setattr(formats, "write_onnx", changed)
    with pytest.raises(RunError, match=r"student\.onnx is not the student"):
        export_run(own_run, ONNX, _ignore)
    assert list((own_run / "export").iterdir()) == []


def test_files_of_before_stay_when_an_export_fails(
    own_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_run(own_run, ONNX, _ignore)
    before = {path.name: path.read_bytes() for path in (own_run / "export").iterdir()}
    monkeypatch.setattr(writing, "shipped", lambda student, image, _: _Wrong(student, image).eval())
    with pytest.raises(RunError):
        export_run(own_run, ONNX, _ignore)
    assert {path.name: path.read_bytes() for path in (own_run / "export").iterdir()} == before


def test_every_file_is_run_with_one_image_and_with_several(
    own_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def told(path: Path) -> Opened:
        opened = open_onnx(path)

        def run(inputs: object) -> Tensor:
            logits = opened.run(inputs)  # type: ignore[arg-type]  # as it was called
            sizes.append(len(logits))
            return logits

        return replace(opened, run=run)

    watched = replace(formats.ONNX, open=told)
    monkeypatch.setattr(formats, "FORMATS", {**formats.FORMATS, watched.name: watched})
    export_run(own_run, ONNX, _ignore)
    assert set(FIRST_BATCHES) < set(sizes)
    compared = sizes[: sizes.index(32) + 4]
    assert compared == [1, 2, 5, 32, 32, 32, 16]


OTHER = """
import torch
from torch import nn
from torch.nn import functional as F

class Rows(torch.utils.data.Dataset):
    same_every_epoch = True
    outputs = 3

    def __init__(self, count, seed):
        generator = torch.Generator().manual_seed(seed)
        self.ids = torch.randint(0, 20, (count, 6), generator=generator)

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        ids = self.ids[index]
        return {"input_ids": ids, "attention_mask": (ids > 2).long()}, int(ids.sum()) % 3

def rows():
    return Rows(40, 0), Rows(110, 1)

class Words(nn.Module):
    def __init__(self, num_classes=3):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.head = nn.Linear(8, num_classes)

    def forward(self, input_ids, attention_mask):
        x = self.embedding(input_ids) * attention_mask.unsqueeze(-1).float()
        return {"logits": self.head(x.sum(1)), "other": x}

class Random(Words):
    def forward(self, input_ids, attention_mask):
        out = super().forward(input_ids, attention_mask)
        return F.dropout(out["logits"], 0.5, training=True)
"""


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Return a function that trains a model on inputs by name, and returns its folder."""
    (tmp_path / "others_code.py").write_text(OTHER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "others_code", raising=False)

    def train(model: str) -> Path:
        (tmp_path / "other.toml").write_text(
            'device = "cpu"\n[data]\nname = "others_code:rows"\n'
            f'[student]\nmodel = "others_code:{model}"\n[train]\nepochs = 1\nbatch_size = 16\n'
        )
        assert run_command(["run", "other.toml", "--out", model, "--quiet"]) == 0
        (folder,) = (tmp_path / model).glob("student-*")
        return folder

    return train


def test_a_student_of_inputs_by_name_is_exported_with_their_names(
    other: Callable[[str], Path],
) -> None:
    folder = other("Words")
    shipment = export_run(folder, ALL, _ignore)
    assert shipment.samples == 110
    session = onnxruntime.InferenceSession(str(folder / "export" / "student.onnx"))
    assert [each.name for each in session.get_inputs()] == ["input_ids", "attention_mask"]
    student, card = load_student(folder)
    assert card.image is None
    ids = torch.randint(0, 20, (100, 6), generator=torch.Generator().manual_seed(7))
    given = {"input_ids": ids, "attention_mask": (ids > 2).long()}
    with torch.no_grad():
        expected = student(**given)["logits"]
    (found,) = session.run(None, {name: tensor.numpy() for name, tensor in given.items()})
    assert np.abs(found - expected.numpy()).max() <= 1e-4
    text = (folder / "export" / "README.md").read_text()
    assert "- `input_ids`: int64 `[batch, 6]`" in text
    assert "read_image" not in text


def test_a_student_that_draws_random_numbers_is_refused(other: Callable[[str], Path]) -> None:
    folder = other("Random")
    with pytest.raises(RunError, match="it draws random numbers"):
        export_run(folder, BOTH, _ignore)
    assert list((folder / "export").iterdir()) == []


def test_a_model_whose_code_was_changed_since_is_refused(
    other: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = other("Words")
    export_run(folder, ExportConfig(formats=()), _ignore)
    code = tmp_path / "others_code.py"
    changed = code.read_text().replace("self.head(x.sum(1))", "self.head(-x.sum(1))")
    assert changed != code.read_text()
    code.write_text(changed)
    del __import__("sys").modules["others_code"]
    importlib.invalidate_caches()
    with pytest.raises(RunError, match="its code or its data have been changed since"):
        export_run(folder, ExportConfig(formats=()), _ignore)
