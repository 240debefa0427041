"""Hugging Face's models from a local folder: classifiers, encoders, images and text."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from kdcore.cli.main import run_command
from kdcore.comparison import compare
from kdcore.configfile import as_comparison
from kdcore.context import RunContext
from kdcore.data.preprocess import Preprocess
from kdcore.errors import ModelError
from kdcore.job import STUDENT_WEIGHTS
from kdcore.models.from_huggingface import HuggingFaceOffer, preprocess_of
from kdcore.taps import logits_of
from tests.extras import needed
from tests.measured import accuracy_of

transformers: Any = needed("transformers")
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
HALF = (0.5, 0.5, 0.5)


def _vit(folder: Path, kind: str = "ViTForImageClassification") -> dict[str, torch.Tensor]:
    names = {0: "cat", 1: "dog", 2: "owl"}
    config = transformers.ViTConfig(
        image_size=16,
        patch_size=8,
        id2label=names,
        label2id={v: k for k, v in names.items()},
        **SMALL,
    )
    torch.manual_seed(3)
    model = getattr(transformers, kind)(config)
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return dict(model.state_dict())


def _bert(folder: Path) -> None:
    config = transformers.BertConfig(
        vocab_size=30, max_position_embeddings=8, num_labels=2, **SMALL
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)


def test_a_classifier_comes_with_its_weights_classes_and_images(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trained = _vit(tmp_path)
    capfd.readouterr()
    offer = HuggingFaceOffer(str(tmp_path), "teacher")
    assert offer.categories == ("cat", "dog", "owl")
    assert offer.preprocess == Preprocess(16, HALF, HALF, squash=True)
    own = offer.pretrained().state_dict()
    assert all(torch.equal(own[name], trained[name]) for name in trained)
    headed = offer.with_new_head(5).state_dict()
    assert headed["classifier.weight"].shape == (5, 16)
    rest = [name for name in trained if not name.startswith("classifier.")]
    assert all(torch.equal(headed[name], trained[name]) for name in rest)
    assert capfd.readouterr() == ("", "")  # its reports of pages are nobody's


def test_an_encoder_has_no_classes_until_it_gets_a_head(tmp_path: Path) -> None:
    trained = _vit(tmp_path, "ViTModel")
    offer = HuggingFaceOffer(str(tmp_path), "teacher")
    assert offer.categories == ()
    image = torch.zeros(1, 3, 16, 16)
    output = offer.pretrained()(image)
    assert getattr(output, "logits", None) is None
    headed = offer.with_new_head(4)
    assert logits_of(headed(image)).shape == (1, 4)  # type: ignore[union-attr]
    own = headed.state_dict()
    name = "embeddings.cls_token"
    assert torch.equal(own[f"vit.{name}"], trained[name])


def test_a_model_of_text_takes_what_a_tokenizer_gives(tmp_path: Path) -> None:
    _bert(tmp_path)
    offer = HuggingFaceOffer(str(tmp_path), "teacher")
    assert offer.preprocess is None
    inputs = {"input_ids": torch.ones(2, 5, dtype=torch.int64), "attention_mask": torch.ones(2, 5)}
    assert logits_of(offer.with_new_head(3)(**inputs)).shape == (2, 3)  # type: ignore[union-attr]


def test_a_new_model_has_weights_of_its_own(tmp_path: Path) -> None:
    trained = _vit(tmp_path)
    torch.manual_seed(9)
    own = HuggingFaceOffer(str(tmp_path), "teacher").fresh(3).state_dict()
    name = "vit.embeddings.cls_token"
    layer = "vit.embeddings.patch_embeddings.projection.weight"
    assert own[name].shape == trained[name].shape
    assert not torch.equal(own[layer], trained[layer])


def test_what_is_no_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"its configuration cannot be had.*give a local folder"
    ) as e:
        HuggingFaceOffer(str(tmp_path), "teacher")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"size": {"height": 8, "width": 8}}, Preprocess(8, HALF, HALF, squash=True)),
        (
            {"size": {"shortest_edge": 10}, "crop_size": {"height": 8}, "do_center_crop": True},
            Preprocess(8, HALF, HALF, 10),
        ),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, Preprocess(224, HALF, HALF, 256)),
        (
            {"size": {"shortest_edge": 384}, "crop_pct": 0.875, "resample": 3},
            Preprocess(384, HALF, HALF, None, "bicubic", squash=True),
        ),
        ({"size": 8, "do_normalize": False}, Preprocess(8, (0.0,) * 3, (1.0,) * 3)),
    ],
)
def test_image_processors_are_read(said: dict[str, Any], expected: Preprocess) -> None:
    assert preprocess_of({"image_mean": HALF, "image_std": HALF, **said}, "teacher") == expected


@pytest.mark.parametrize(
    "said",
    [
        {"size": {"height": 8, "width": 9}, "do_center_crop": False},
        {"size": {"height": 8, "width": 8}, "rescale_factor": 1 / 127.5},
        {"size": {"height": 8, "width": 8}, "image_mean": (0.5,)},
    ],
)
def test_processors_that_do_what_kdcore_does_not_are_refused(said: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="cannot read images as it wants them"):
        preprocess_of({"image_mean": HALF, "image_std": HALF, **said}, "teacher")


def test_weights_that_leave_layers_as_they_were_drawn_are_refused(tmp_path: Path) -> None:
    trained = _vit(tmp_path)
    name = "vit.layers.1.mlp.fc1.weight"
    name = name if name in trained else next(key for key in trained if "1." in key)
    for change in (
        {key: each for key, each in trained.items() if key != name},
        {**trained, name: trained[name][:, :-1].contiguous()},
        {f"other.{key}": each for key, each in trained.items()},
    ):
        save_file(change, tmp_path / "model.safetensors", metadata={"format": "pt"})
        offer = HuggingFaceOffer(str(tmp_path), "teacher")
        for build in (offer.pretrained, lambda offer=offer: offer.with_new_head(5)):
            with pytest.raises(ModelError, match=r"weights|another model"):
                build()


@pytest.mark.parametrize(
    "change",
    [
        {"do_rescale": False},
        {"do_normalize": False, "image_mean": [0.1] * 3, "resample": 0},
        {"do_resize": False},
        {"resample": 0},
    ],
)
def test_images_are_prepared_as_the_processor_does_or_not_at_all(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    _vit(tmp_path)
    assert HuggingFaceOffer(str(tmp_path), "teacher").preprocess is not None
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ModelError, match="set image_size, mean and std"):
        _ = HuggingFaceOffer(str(tmp_path), "teacher").preprocess


def test_a_damaged_word_on_images_is_not_taken_for_none(tmp_path: Path) -> None:
    _vit(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.1')
    with pytest.raises(ModelError, match="set image_size, mean and std"):
        _ = HuggingFaceOffer(str(tmp_path), "teacher").preprocess


DATA = """
import torch
from torch import nn

class Sentences:
    outputs = 3

    def __init__(self, count, seed):
        generator = torch.Generator().manual_seed(seed)
        self.words = torch.randint(1, 30, (count, 5), generator=generator)

    def __len__(self):
        return len(self.words)

    def __getitem__(self, index):
        words = self.words[index]
        given = {"input_ids": words, "attention_mask": torch.ones(5, dtype=torch.int64)}
        return given, int(words[0]) % 3

def sentences():
    return Sentences(24, 1), Sentences(12, 2)

class Bag(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.embed = nn.EmbeddingBag(30, 8)
        self.head = nn.Linear(8, num_classes)

    def forward(self, input_ids, attention_mask):
        return self.head(self.embed(input_ids))
"""


@pytest.mark.parametrize("mode", ["head", "full"])
def test_a_model_of_text_is_fitted_and_teaches_a_student_of_another_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    _bert(tmp_path / "bert")
    module = f"sentences_for_{mode}"
    (tmp_path / f"{module}.py").write_text(DATA)
    monkeypatch.syspath_prepend(tmp_path)
    tree = {
        "data": {"name": f"{module}:sentences"},
        "teacher": {
            "model": f"hf/{tmp_path / 'bert'}",
            "pretrained": True,
            "fit": {"mode": mode, "epochs": 1},
        },
        "student": {"model": f"{module}:Bag"},
        "train": {"epochs": 1, "batch_size": 8},
        "candidates": [
            {"label": "logits", "strategies": [{"name": "logits"}]},
            {"label": "cosine", "strategies": [{"name": "cosine"}]},
        ],
    }
    config = as_comparison(tree, "test")
    context = RunContext(config, tmp_path / "runs", Console(quiet=True))
    runs = compare(context, config)
    assert [run.name for run in runs] == ["teacher", "student", "logits", "cosine"]
    assert runs[0].origin == f"pretrained hf/{tmp_path / 'bert'}"
    for run in runs[1:]:
        student = context.new_student(0)
        student.load_state_dict(load_file(Path(run.folder) / STUDENT_WEIGHTS))
        assert run.accuracy == pytest.approx(accuracy_of(student, context.data.test))


def test_layers_are_shown_at_the_size_that_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _vit(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    assert run_command(["layers", f"hf/{tmp_path}", "--depth", "1"]) == 2
    assert "set image_size, mean and std" in capsys.readouterr().err
    assert run_command(["layers", f"hf/{tmp_path}", "--depth", "1", "--image-size", "16"]) == 0
    assert "classifier" in capsys.readouterr().out
