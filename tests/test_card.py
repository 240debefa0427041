import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from kdcore.card import CARD, Card
from kdcore.cli.main import run_command
from kdcore.data.preprocess import Preprocess
from kdcore.errors import ModelError
from kdcore.files import save_weights

CARDED = Card(
    "torchvision/resnet18",
    None,
    "classification",
    2,
    ("ant", "bee"),
    Preprocess(224, (0.5, 0.4, 0.3), (0.1, 0.2, 0.3), 256, "bicubic", squash=False),
    "logits+fitnets",
    "photos",
    7,
    "best",
    {"accuracy": 91.25, "macro-F1": 90.0},
    "random",
    "0.1.0",
)
OF_TEXTS = replace(CARDED, output="1", classes=(), outputs=None, image=None, weights="last")


@pytest.mark.parametrize("card", [CARDED, OF_TEXTS])
def test_a_card_comes_back_from_json_and_from_metadata(card: Card, tmp_path: Path) -> None:
    card.save(tmp_path / CARD)
    assert Card.load(tmp_path / CARD) == card
    metadata = {**card.metadata(), "somebody": "else's"}
    assert all(isinstance(value, str) for value in metadata.values())
    assert Card.of_metadata(metadata, "it") == card


def test_metadata_say_labels_size_and_scaling_to_people() -> None:
    metadata = CARDED.metadata()
    assert json.loads(metadata["classes"]) == ["ant", "bee"]
    assert json.loads(metadata["image"])["size"] == 224
    assert "the shorter side scaled to 256 pixels (bicubic" in metadata["reading"]
    assert "the middle 224 x 224 cut out" in metadata["reading"]
    squashed = replace(CARDED, image=Preprocess(64, (0, 0, 0), (1, 1, 1), squash=True))
    assert "both sides scaled to 64 pixels (bilinear" in squashed.metadata()["reading"]
    assert OF_TEXTS.metadata()["reading"] == ""


def test_what_holds_no_card_has_none() -> None:
    assert Card.of_metadata({"format": "pt", "model": "somebody else's"}, "it") is None


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("seed", "seven", "a value is no JSON"),
        ("seed", '"7"', "seed"),
        ("image", "[224]", "image"),
        ("image", '{"size": 0, "mean": [0, 0, 0], "std": [1, 1, 1]}', "no sizes"),
        ("image", '{"size": 8, "mean": [0, 0, 0], "std": [1, 0, 1]}', "deviations"),
        ("classes", '["ant"]', "1 classes, 2 outputs"),
        ("weights", "middle", "weights"),
        ("model", None, "model is missing"),
    ],
)
def test_a_damaged_card_is_refused_in_one_line(key: str, value: str | None, says: str) -> None:
    metadata = {**CARDED.metadata(), key: value}
    with pytest.raises(ModelError, match=says) as raised:
        Card.of_metadata({k: v for k, v in metadata.items() if v is not None}, "student.onnx")
    assert str(raised.value).startswith("student.onnx: its card is damaged")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"model": "x"}', b"\xff\xfe"])
def test_a_file_that_is_no_card_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / CARD
    file.write_bytes(content)
    with pytest.raises(ModelError, match="card") as raised:
        Card.load(file)
    assert "\n" not in str(raised.value)
    with pytest.raises(ModelError, match="No such file"):
        Card.load(tmp_path / "none.json")


def test_weights_carry_their_card(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_weights(file, {"weight": torch.ones(2)}, CARDED.metadata())
    assert Card.of_weights(file) == CARDED
    save_weights(file, {"weight": torch.ones(2)})
    assert Card.of_weights(file) is None
    file.write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot be read"):
        Card.of_weights(file)


def test_every_run_writes_the_card_of_its_student_beside_and_into_the_weights(
    tmp_path: Path,
) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        'seed = 5\ndevice = "cpu"\n[data]\nlimit = 120\nvalidation = 0.25\n[student]\n'
        "image_size = 8\n[train]\nepochs = 2\nbatch_size = 16\n"
    )
    assert run_command(["run", str(file), "--out", str(tmp_path / "out"), "--quiet"]) == 0
    (folder,) = (tmp_path / "out").glob("student-*")
    card = Card.load(folder / CARD)
    result = json.loads((folder / "result.json").read_text())
    assert (card.model, card.run, card.seed, card.weights) == ("lightnn", "student", 5, "last")
    assert card.classes == tuple(map(str, range(10)))
    assert card.image == Preprocess(8, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert card.scores == result["scores"]
    assert Card.of_weights(folder / "student.safetensors") == card
    best = Card.of_weights(folder / "best.safetensors")
    assert best == replace(card, weights="best", scores=result["best_scores"])
    with safe_open(folder / "student.safetensors", "pt") as weights:
        assert weights.metadata()["format"] == "pt"
