"""Data as an experiment's models want it."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from PIL import Image

from kdcore.data.prepared import PreparedData, prepare_data
from kdcore.experiment import Experiment


def _prepared(teacher: Mapping[str, object] = MappingProxyType({}), **data: object) -> PreparedData:
    models = {"teacher": {"model": "deepnn", **teacher}, "student": {"model": "lightnn"}}
    described = {**models, "data": {"name": "digits", **data}}
    return prepare_data(Experiment.model_validate(described), torch.device("cpu"))


def _labels_line(data: PreparedData) -> str:
    (line,) = [each for each in data.notes if "labels" in each]
    return line


def test_the_hash_of_samples_is_of_the_images_and_not_of_what_is_known_of_them() -> None:
    whole = _prepared()
    for same in (_prepared(labels=50), _prepared(validation=0.2)):
        assert same.samples == whole.samples
        assert same.fingerprint != whole.fingerprint
    assert _prepared(limit=200).samples != whole.samples


def test_the_hash_of_samples_is_of_their_targets_too(tmp_path: Path) -> None:
    for shade in range(8):
        Image.new("RGB", (32, 32), (shade, 0, 0)).save(tmp_path / f"{shade}.png")
    found = []
    for flipped in (0, 1):
        lines = [
            f"{n}.png,{'ab'[(n + flipped * (n < 4)) % 2]},{'train' if n < 4 else 'test'}"
            for n in range(8)
        ]
        file = tmp_path / f"list-{flipped}.csv"
        file.write_text("\n".join(["path,label,split", *lines]))
        found.append(_prepared(name="csv", root=file).samples)
    assert found[0] != found[1]


def test_a_teacher_that_learns_from_the_handful_alone_is_told_of(tmp_path: Path) -> None:
    for name in ("train/cat", "train/dog", "test/cat", "test/dog", "unlabelled"):
        (tmp_path / name).mkdir(parents=True)
        for shade in range(4 if "/" in name else 20):
            Image.new("RGB", (32, 32), (shade, 0, 0)).save(tmp_path / name / f"{shade}.png")
    told = _labels_line(_prepared(name="folder", root=tmp_path))
    assert "a teacher that is trained here sees 8, and has little to say of the others" in told
    trained = _prepared({"weights": tmp_path / "file"}, name="folder", root=tmp_path)
    assert _labels_line(trained).endswith("through the teacher alone")
    fitted = {"pretrained": True, "model": "torchvision/resnet18", "fit": {"mode": "head"}}
    told = _labels_line(_prepared(fitted, name="folder", root=tmp_path))
    assert "a teacher that is trained here sees 8, and has little" in told
    assert _labels_line(_prepared(labels=50)).endswith("a teacher that is trained here sees 1438")
