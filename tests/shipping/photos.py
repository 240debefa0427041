"""Photographs on disk and a student trained on them, for the tests of what is shipped."""

from pathlib import Path

import numpy as np
from PIL import Image

from kdcore.cli.main import run_command

CLASSES = ("ant", "bee", "cat")
SIZE = 16

EXPERIMENT = """
seed = 3
device = "cpu"
{head}
[data]
name = "folder"
root = "photos"
validation = 0.25
[student]
model = "lightnn"
image_size = {size}
resize = {resize}
[train]
epochs = 4
batch_size = 16
lr = 0.002
{more}
"""


def make_photos(root: Path, train: int = 24, test: int = 40) -> None:
    """Write so many images a class, of several sizes and formats, with train/ and test/."""
    generator = np.random.default_rng(0)
    for part, count in (("train", train), ("test", test)):
        for index, name in enumerate(CLASSES):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                height, width = generator.integers(SIZE, 3 * SIZE, 2)
                pixels = generator.integers(0, 120, (height, width, 3)) + 50 * index
                pixels[:, :, index] += 30
                ending = ("png", "jpg", "webp")[number % 3]
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.{ending}")


def write_experiment(folder: Path, *, head: str = "", more: str = "", resize: int = 20) -> Path:
    """Write an experiment on the photographs beside it."""
    file = folder / "experiment.toml"
    file.write_text(EXPERIMENT.format(head=head, more=more, size=SIZE, resize=resize))
    return file


def trained(folder: Path) -> Path:
    """Make photographs, train a student alone on them, and return the folder of its run."""
    make_photos(folder / "photos")
    file = write_experiment(folder)
    assert run_command(["run", str(file), "--out", str(folder / "out"), "--quiet"]) == 0
    (run,) = (folder / "out").glob("student-*")
    return run
