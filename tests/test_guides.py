"""The commands of the guides for newcomers, run one after the other as they stand.

They are given less to do: few images, one epoch and one seed; and the weights that a library would
download are made up and offered in a folder.
"""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image

from tests.extras import needed
from tests.pages import ROOT, blocks, commands, text_of

SHORT = ["--epochs", "1", "--device", "cpu"]
LAUNCHER = """
import sys
from pathlib import Path
from kdcore.cli.main import main
from kdcore.models.from_torchvision import TorchvisionOffer

offered = Path("offered").resolve().glob("*.pth")
files = {file.name.partition("-")[0]: file.as_uri() for file in offered}
TorchvisionOffer.url = property(lambda self: files[self._model])
main()
"""
PLACEHOLDER = re.compile(r"0a1b2c3d")


def _photos(folder: Path) -> None:
    """Make a folder of two classes, and of images of neither, as the page has it."""
    torch.manual_seed(0)
    for name, shade in (("cat", 60), ("dog", 190), ("unlabelled", 120)):
        (folder / name).mkdir(parents=True)
        for index in range(12):
            noise = torch.randint(-50, 50, (40, 48, 3))
            pixels = (noise + shade).clamp(0, 255).to(torch.uint8).numpy()
            Image.fromarray(pixels).save(folder / name / f"{index}.jpg")


def _weights(folder: Path) -> None:
    """Offer made-up weights, in files that are named as torchvision's are."""
    folder.mkdir()
    for name in ("resnet50", "mobilenet_v3_small"):
        file = folder / name
        torch.save(torchvision.models.get_model(name, weights=None).state_dict(), file)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        file.rename(folder / f"{name}-{digest[:8]}.pth")


def _shortened(arguments: list[str], folder: Path) -> list[str]:
    """Return what is run for a command: of a comparison less, of a run that which is there."""
    there = []
    for each in arguments:
        whole = folder / each
        if PLACEHOLDER.search(each):
            (whole,) = folder.glob(PLACEHOLDER.sub("*", each))
        there.append(str(whole.relative_to(folder)) if PLACEHOLDER.search(each) else each)
    if there[0] != "compare":
        return there
    if "folder" not in there and "experiment.toml" not in there:
        there += ["--limit", "200"]
    return there + SHORT + ([] if "--seeds" in there else ["--seeds", "42"])


def _run(page: str, folder: Path) -> list[str]:
    """Run the commands of a page in a folder; return what each printed."""
    environment = {**os.environ, "TORCH_HOME": str(folder / "torch"), "HOME": str(folder)}
    printed = []
    for arguments in commands(text_of(ROOT / "docs" / page)):
        command = [sys.executable, "-c", LAUNCHER, *_shortened(arguments, folder)]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (arguments, done.stdout[-2000:], done.stderr[-2000:])
        printed.append(done.stdout)
    return printed


@pytest.mark.slow
def test_the_commands_of_the_first_five_minutes_run(tmp_path: Path) -> None:
    printed = _run("start.md", tmp_path)
    assert len(printed) == 6
    assert (tmp_path / "kdcore-runs" / "demo" / "report.html").is_file()
    assert "student alone" in printed[0]
    assert "temperature" in printed[4]


@pytest.mark.slow
def test_the_commands_for_a_model_of_ones_own_run(tmp_path: Path) -> None:
    needed("onnxruntime")
    needed("onnxscript")
    _photos(tmp_path / "photos")
    _weights(tmp_path / "offered")
    (experiment,) = blocks(text_of(ROOT / "docs" / "your-model.md"), "toml")
    assert len([line for line in experiment.splitlines() if line]) < 15
    (tmp_path / "experiment.toml").write_text(experiment, encoding="utf-8")
    printed = _run("your-model.md", tmp_path)
    assert len(printed) == 5
    assert (tmp_path / "table.csv").is_file()
    runs = tmp_path / "kdcore-runs" / "experiment-photos"
    assert (runs / "report.html").is_file()
    assert [*runs.glob("*/export/student.onnx")]
    assert re.search(r"cat|dog", printed[-1])
