import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.Image import Exif

from kdcore.data.files import FileImages
from kdcore.data.preprocess import Preprocess
from kdcore.models.tutorial import LightNN
from kdcore.shipping.formats import open_file
from kdcore.shipping.graph import of_pixels
from kdcore.shipping.readme import readme
from kdcore.shipping.record import Shipment, ShippedFile
from kdcore.shipping.writing import capture, write_onnx
from kdcore.tasks import Classification
from tests.extras import needed
from tests.shipping.models import card, images

needed("onnx")
needed("onnxscript")
needed("onnxruntime")

SQUARES = {
    "as it is": Preprocess(32, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2)),
    "rim left out": Preprocess(32, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), 40),
    "bicubic": Preprocess(32, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), 36, "bicubic"),
    "squashed": Preprocess(32, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), 40, "bilinear", True),
}


def _shipment(*names: str) -> Shipment:
    files = tuple(
        ShippedFile(
            name,
            "onnx int8" if "int8" in name else "onnx",
            1234567,
            "0" * 64,
            2.5e-6,
            7.25,
            1e-4,
            99.5,
            {"accuracy": 91.25, "macro-F1": 90.5},
            0.125,
            0.25,
            "onnxruntime 1.20.0, 2 threads",
            {"onnx": "1.17"},
        )
        for name in names
    )
    scores = {"accuracy": 91.5, "macro-F1": 91.0}
    calibrated = 256 if any("int8" in name for name in names) else 0
    metrics = Classification.metrics
    return Shipment(
        "logits", 7, "best", 120, metrics, scores, calibrated, "a machine, 2 cores", "0.1.0", files
    )


def _photos(folder: Path) -> list[Path]:
    """Write images of every kind that kdcore reads in a way of its own."""
    generator = np.random.default_rng(0)

    def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
        rough = generator.integers(0, 256, (4, 4, channels)).astype(np.uint8)
        bands = [Image.fromarray(rough[..., c]).resize((width, height)) for c in range(channels)]
        return np.stack([np.asarray(band) for band in bands], -1)

    def save(name: str, image: Image.Image, **more: object) -> None:
        image.save(folder / name, **more)  # type: ignore[arg-type]  # Pillow's own options

    turned = Exif()
    turned[0x0112] = 6
    save("exact.png", Image.fromarray(noise(32, 32)))
    save("wide.png", Image.fromarray(noise(41, 73)))
    save("high.jpg", Image.fromarray(noise(90, 47)), quality=90)
    save("small.webp", Image.fromarray(noise(20, 25)))
    save("turned.jpg", Image.fromarray(noise(50, 70)), exif=turned)
    save("see-through.png", Image.fromarray(noise(60, 50, 4)))
    save("grey.png", Image.fromarray(noise(45, 64, 1)[..., 0]))
    save("palette.gif", Image.fromarray(noise(44, 38)).quantize(16))
    save("deep.png", Image.fromarray(noise(44, 38, 1)[..., 0].astype(np.uint16) * 257))
    return sorted(folder.iterdir())


def _code(text: str) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return str(code)


@pytest.mark.parametrize("square", SQUARES)
def test_the_block_runs_as_it_is_and_reads_what_kdcore_reads(
    square: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    described = card(SQUARES[square])
    image = SQUARES[square]
    program = capture(LightNN().eval(), image, images(2))
    write_onnx(tmp_path / "student.onnx", program, described)
    text = readme(described, _shipment("student.onnx"), images(1))
    (tmp_path / "try.py").write_text(_code(text))
    (tmp_path / "photos").mkdir()
    files = _photos(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["try.py", *map(str, files)])
    made = runpy.run_path("try.py", run_name="__main__")
    read: Callable[[str], np.ndarray] = made["read_image"]
    said = capsys.readouterr().out.splitlines()
    own = FileImages(files, tmp_path)
    opened = open_file(tmp_path / "student.onnx")
    for place, file in enumerate(files):
        found = read(str(file))
        assert (found.dtype.name, found.shape) == ("uint8", (1, 3, 32, 32))
        expected = own.fitted(torch.tensor([place]), image.geometry).permute(0, 3, 1, 2).numpy()
        apart = np.abs(found.astype(int) - expected)
        assert apart.max() <= 1
        if file.name == "exact.png" and square == "as it is":
            assert apart.max() == 0
        logits = opened.run(of_pixels(torch.tensor(found)))[0]
        best = int(logits.argmax())
        assert f"{file}: {'abcdefghij'[best]} {float(logits.softmax(0)[best]):.1%}" in said
    assert len(said) == 3 * len(files)


def test_another_reading_would_be_noticed(tmp_path: Path) -> None:
    files = _photos(tmp_path)
    own = FileImages(files, tmp_path)
    one, other = (
        own.fitted(torch.arange(len(files)), SQUARES[square].geometry).int()
        for square in ("as it is", "bicubic")
    )
    assert int((one - other).abs().amax((1, 2, 3)).min()) > 1


def test_the_card_says_what_it_is_and_what_was_measured() -> None:
    described = card(SQUARES["rim left out"], weights="best", origin="pretrained timm/x")
    text = readme(described, _shipment("student.onnx", "student.int8.onnx"), images(1))
    for part in (
        "# lightnn, trained on photos",
        "its labels alone, seed 1; weights best on the validation split",
        "its weights began: pretrained timm/x",
        "on 120 test samples: accuracy 91.50 %, macro-F1 91.00 %",
        "| `student.int8.onnx` | 1,234,567 | 2.5e-06 | 99.50 | 91.25 | 90.50 | 0.12 | 0.25 |",
        "calibrated on 256 training samples",
        "on a machine, 2 cores",
        "the shorter side scaled to 40 pixels",
        "By index: 0 a, 1 b",
        'InferenceSession("student.onnx")',
    ):
        assert part in text
    assert "calibrated" not in readme(described, _shipment("student.onnx"), images(1))


def test_a_student_of_other_samples_has_no_reader() -> None:
    text = readme(card(None, classes=()), _shipment("student.onnx"), images(1))
    assert "```" not in text
    assert "- `image`: uint8 `[batch, 3, 32, 32]`" in text
    assert "By index" not in text


@pytest.mark.parametrize("task", ["multi-label", "regression"])
def test_other_tasks_show_what_they_say(task: str) -> None:
    text = readme(card(task=task), _shipment("student.onnx"), images(1))
    code = _code(text)
    compile(code, "block", "exec")
    assert ("1 / (1 + np.exp(-logit))" in code) is (task == "multi-label")
    assert "softmax" not in text
