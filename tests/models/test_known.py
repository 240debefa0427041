"""Files of weights that do not fit: what they are of, and what would."""

from pathlib import Path

import pytest
import torch
from torch import nn

from kdcore.cli.options import MODELS
from kdcore.errors import ModelError
from kdcore.files import save_weights
from kdcore.models.build import build_model
from kdcore.models.known import OF_ONE_SIDE, OWN, models_of
from kdcore.sections import MODEL
from kdcore.teacher_sections import TeacherConfig


def _model(name: str, classes: int, side: int = 32) -> nn.Module:
    return OWN[name](num_classes=classes, **({"image_size": side} if name in OF_ONE_SIDE else {}))


def _file(tmp_path: Path, name: str, classes: int) -> Path:
    path = tmp_path / f"{name}.safetensors"
    save_weights(path, _model(name, classes).state_dict())
    return path


def _refused(file: Path, name: str, where: str = "teacher", classes: int = 10) -> str:
    config = TeacherConfig(model=name, weights=file)
    with pytest.raises(ModelError) as caught:
        build_model(config, classes, 32, where)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["lightnn", "quickcnn", "resnet8", "resnet8x4", "wrn_16_1"])
def test_a_model_is_known_by_names_and_shapes(name: str) -> None:
    weights = _model(name, 7).state_dict()
    before = torch.get_rng_state()
    assert models_of(weights, 32) == [name]
    assert torch.get_rng_state().equal(before)
    first = next(iter(weights))
    assert models_of({**weights, first: torch.zeros(1)}, 32) == []
    assert models_of({key: weights[key] for key in weights if key != first}, 32) == []
    assert models_of({}, 32) == []


def test_a_file_of_another_of_our_models_names_it(tmp_path: Path) -> None:
    file = _file(tmp_path, "resnet8x4", 10)
    said = "they are of 'resnet8x4': --teacher-model resnet8x4, or --set teacher.model=resnet8x4"
    message = _refused(file, "lightnn")
    assert "weights of another model" in message
    assert said in message
    assert "in the file, 'classifier.0.bias' in the model" in message
    assert said in _refused(file, "resnet8")  # of the same names
    other = _refused(file, "lightnn", "teacher big")
    assert "they are of 'resnet8x4': --set teachers.big.model=resnet8x4" in other
    assert "--teacher-model" not in other


def test_a_file_of_nobody_we_know_asks_whose_it_is(tmp_path: Path) -> None:
    file = tmp_path / "strange.safetensors"
    save_weights(file, {"stem.weight": torch.zeros(3, 3), "stem.bias": torch.zeros(3)})
    message = _refused(file, "lightnn")
    assert "say what they are of: --teacher-model NAME, or --set teacher.model=NAME" in message
    assert "('stem.bias' in the file, 'classifier.0.bias' in the model)" in message


def test_a_teacher_of_other_classes_is_told_how_to_keep_its_layers(tmp_path: Path) -> None:
    file = _file(tmp_path, "resnet8", 100)
    message = _refused(file, "resnet8")
    said = "--set teacher.classes=100 --set teacher.fit.mode=head"
    assert (
        f"its head is of 100 classes, the data has 10: keep its layers and train a head with {said}"
        in message
    )
    assert "--set teachers.big.classes=100" in _refused(file, "resnet8", "teacher big")
    config = TeacherConfig.model_validate(
        {"model": "resnet8", "weights": file, "classes": 100, "fit": {"mode": "head"}}
    )
    build_model(config, 10, 32, "teacher")


def test_what_differs_in_more_than_its_head_or_is_broken_has_no_such_way_out(
    tmp_path: Path,
) -> None:
    side = tmp_path / "side.safetensors"
    save_weights(side, _model("lightnn", 10, side=16).state_dict())
    assert "another image size?" in _refused(side, "lightnn")
    assert "--set" not in _refused(side, "lightnn")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no weights")
    assert _refused(broken, "lightnn").endswith("copy it again")


def test_an_unknown_model_is_told_of_the_literatures_networks() -> None:
    with pytest.raises(ModelError) as caught:
        build_model(TeacherConfig(model="resnet21"), 10, 32, "teacher")
    assert "'resnet20'" in str(caught.value).partition("there are")[0]
    assert MODEL in str(caught.value)


def test_the_help_of_models_names_those_that_an_experiment_may_have() -> None:
    assert MODELS == MODEL
    assert {"quickcnn", "resnet20", "resnet8x4", "wrn_16_2"} <= OWN.keys()
    assert all(name in MODELS for name in ("quickcnn", "resnet20", "resnet8x4", "wrn_16_2"))
