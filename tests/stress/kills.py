"""Kill a training at random instants, over and over, and hold what is left against its promises.

`python tests/stress/kills.py --kills 1000`: a short training that saves after every step is killed
(SIGKILL) until so many kills were survived. After each, a checkpoint must load without a complaint
if one was ever finished; every training that comes to its end must have the history and weights,
bit for bit, of one that nobody touched.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from kdcore import Distiller
from kdcore.checkpoint import LATEST, Checkpoints
from kdcore.data.images import ArrayImages, LabelledImages
from kdcore.data.preprocess import Preprocess
from kdcore.data.source import ImageSource
from kdcore.saving import Saver
from kdcore.sections import CheckpointConfig, TrainConfig
from kdcore.testing import small_student, small_teacher
from kdcore.trainer import train

EPOCHS, SAMPLES = 3, 24
OFTEN = CheckpointConfig(steps=1, epochs=1)
RESULT = "result"


def learn(folder: Path | None) -> str:
    """Train, from where it was saved, and return the hash of history and weights."""
    torch.manual_seed(0)
    images = ArrayImages(torch.randint(256, (SAMPLES, 3, 16, 16), dtype=torch.uint8))
    data = LabelledImages(images, torch.arange(SAMPLES) % 5, tuple("abcde"))
    source = ImageSource(data, Preprocess(16, (0.5,) * 3, (0.25,) * 3))
    student = nn.Sequential(small_student(), nn.Dropout(0.2))
    strategies = ["logits", "fitnets"]
    with Distiller(
        small_teacher(), student, strategies, sample_input=source.batch(torch.arange(2)).inputs
    ) as distiller:
        config = TrainConfig(epochs=EPOCHS, batch_size=8, schedule="cosine")
        saver = folder and Saver(folder / "checkpoints", OFTEN, {"seed": 1})
        history = train(distiller, source, config, 1, test=source, saver=saver or None)
    digest = hashlib.sha256()
    for record in history.epochs:
        digest.update(repr((record.loss, record.losses, record.accuracy)).encode())
    for tensor in student.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def child(folder: Path) -> None:
    """Train in a process of its own and write down what came out."""
    code = 1
    try:
        (folder / RESULT).write_text(learn(folder))
        code = 0
    finally:
        os._exit(code)


def check(folder: Path) -> None:
    """Hold a folder against what is promised of it after a kill.

    Raises:
        AssertionError: a promise was broken.
    """
    begun = (folder / "checkpoints" / LATEST).exists()
    complaints: list[str] = []
    # Of a copy, so that looking changes nothing.
    with tempfile.TemporaryDirectory() as copy:
        if (folder / "checkpoints").exists():
            shutil.copytree(folder / "checkpoints", copy, dirs_exist_ok=True)
        found = Checkpoints(Path(copy), note=complaints.append).load()
    assert not complaints, complaints
    assert found is not None or not begun, "a checkpoint was there, and none can be loaded"


def main(kills: int, seed: int) -> dict[str, int]:
    """Kill so often, and count."""
    torch.set_num_threads(1)  # before any is started: children are forked
    chance = random.Random(seed)
    started = time.perf_counter()
    expected = learn(None)
    longest = 1.5 * (time.perf_counter() - started)
    counts = {"kills": 0, "finished": 0, "resumed": 0}
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "0"
        folder.mkdir()
        while counts["kills"] < kills or not (folder / RESULT).exists():
            if (folder / RESULT).exists():
                folder = Path(root) / str(counts["finished"])
                folder.mkdir()
            counts["resumed"] += (folder / "checkpoints" / LATEST).exists()
            if not (process := os.fork()):
                child(folder)
            if counts["kills"] < kills:
                time.sleep(chance.uniform(0, longest))
                os.kill(process, signal.SIGKILL)
            _, status = os.waitpid(process, 0)
            if os.WIFSIGNALED(status):
                counts["kills"] += 1
            else:
                assert os.WEXITSTATUS(status) == 0, "a training failed"
            check(folder)
            if (folder / RESULT).exists():
                assert (folder / RESULT).read_text() in (expected, ""), "another history"
                if (folder / RESULT).read_text() == expected:
                    counts["finished"] += 1
                else:  # killed while the test's own file was written
                    (folder / RESULT).unlink()
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Kill a training at random instants.")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sys.stdout.write(json.dumps(main(arguments.kills, arguments.seed)) + "\n")
