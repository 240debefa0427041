"""The literature's networks: their published sizes, and files with their published names."""

import re
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdcore.errors import ModelError
from kdcore.models.build import build_model
from kdcore.models.cifar import FAMILIES, CifarResNet, WideResNet, own_name
from kdcore.sections import ModelConfig

# Parameters with 100 classes; in millions they are those of the tables of the literature.
PUBLISHED = {
    "resnet20": 278_324,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
    "wrn_16_2": 703_284,
    "wrn_40_1": 569_780,
    "wrn_40_2": 2_255_156,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_number_of_parameters_is_the_published_one(name: str) -> None:
    model = build_model(ModelConfig(model=name), 100, 32, "teacher")
    assert sum(each.numel() for each in model.parameters()) == PUBLISHED[name]


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_any_size_of_image_goes_through(name: str) -> None:
    model = FAMILIES[name](num_classes=7).eval()
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    assert model(torch.zeros(1, 3, 40, 24)).shape == (1, 7)


@pytest.mark.parametrize("depth", [7, 9, 21, 2])
def test_a_depth_that_leaves_part_of_a_block_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=r"depth must be 6 n \+ 2"):
        CifarResNet(depth)
    with pytest.raises(ValueError, match=r"depth must be 6 n \+ 4"):
        WideResNet(depth, 2)


def _random(model: nn.Module) -> dict[str, Tensor]:
    """Return weights and running means that are all different, variances above zero."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: (torch.rand(each.shape, generator=generator) * 0.2 + 0.9)
        if name.endswith(("running_var", "bn1.weight", "bn2.weight"))
        else torch.randn(each.shape, generator=generator) * 0.1
        for name, each in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def _normal(x: Tensor, weights: Mapping[str, Tensor], name: str) -> Tensor:
    mean, var = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
    return F.batch_norm(x, mean, var, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _published_resnet(x: Tensor, w: Mapping[str, Tensor], blocks: int) -> Tensor:
    """Compute what a published file of a ResNet stands for, from its names alone."""
    x = F.relu(_normal(F.conv2d(x, w["conv1.weight"], padding=1), w, "bn1"))
    for stage in (1, 2, 3):
        for block in range(blocks):
            at = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = F.relu(
                _normal(F.conv2d(x, w[f"{at}.conv1.weight"], None, stride, 1), w, f"{at}.bn1")
            )
            y = _normal(F.conv2d(y, w[f"{at}.conv2.weight"], padding=1), w, f"{at}.bn2")
            if f"{at}.downsample.0.weight" in w:
                x = F.conv2d(x, w[f"{at}.downsample.0.weight"], None, stride)
                x = _normal(x, w, f"{at}.downsample.1")
            x = F.relu(x + y)
    return F.linear(x.mean((2, 3)), w["fc.weight"], w["fc.bias"])


def _published_wrn(x: Tensor, w: Mapping[str, Tensor], blocks: int) -> Tensor:
    """Compute what a published file of a wide ResNet stands for, from its names alone."""
    x = F.conv2d(x, w["conv1.weight"], padding=1)
    for stage in (1, 2, 3):
        for block in range(blocks):
            at = f"block{stage}.layer.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            active = F.relu(_normal(x, w, f"{at}.bn1"))
            y = F.conv2d(active, w[f"{at}.conv1.weight"], None, stride, 1)
            y = F.conv2d(F.relu(_normal(y, w, f"{at}.bn2")), w[f"{at}.conv2.weight"], padding=1)
            shortcut = w.get(f"{at}.convShortcut.weight")
            x = y + (x if shortcut is None else F.conv2d(active, shortcut, None, stride))
    return F.linear(F.relu(_normal(x, w, "bn1")).mean((2, 3)), w["fc.weight"], w["fc.bias"])


def _as_wrn_was_published(name: str) -> str:
    return re.sub(r"^(block\d)\.", r"\1.layer.", name).replace(".shortcut.", ".convShortcut.")


def _read(file: Path, model: str) -> nn.Module:
    return build_model(ModelConfig(model=model, weights=file), 100, 32, "teacher").eval()


def _with_counts(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    norms = [name.removesuffix("running_mean") for name in weights if name.endswith("running_mean")]
    return {**weights, **{f"{norm}num_batches_tracked": torch.tensor(9) for norm in norms}}


@pytest.mark.parametrize(("name", "blocks"), [("resnet8x4", 1), ("resnet20", 3)])
def test_a_published_resnet_says_what_its_file_stands_for(
    tmp_path: Path, name: str, blocks: int
) -> None:
    weights, images = _random(FAMILIES[name](num_classes=100)), torch.randn(3, 3, 32, 32)
    saved = {"opt": Namespace(epochs=240), "model": _with_counts(weights), "epoch": 240}
    torch.save(saved, tmp_path / "ckpt_epoch_240.pth")
    found = _read(tmp_path / "ckpt_epoch_240.pth", name)(images)
    torch.testing.assert_close(found, _published_resnet(images, weights, blocks))


@pytest.mark.parametrize(("name", "blocks"), [("wrn_16_2", 2), ("wrn_40_1", 6)])
def test_a_published_wide_resnet_says_what_its_file_stands_for(
    tmp_path: Path, name: str, blocks: int
) -> None:
    own, images = _random(FAMILIES[name](num_classes=100)), torch.randn(3, 3, 32, 32)
    weights = {_as_wrn_was_published(each): tensor for each, tensor in own.items()}
    torch.save({"model": _with_counts(weights)}, tmp_path / "teacher.pth")
    found = _read(tmp_path / "teacher.pth", name)(images)
    torch.testing.assert_close(found, _published_wrn(images, weights, blocks))


def test_heads_and_shortcuts_of_other_repositories_have_other_names() -> None:
    assert own_name("linear.weight") == "fc.weight"
    assert own_name("layer2.0.shortcut.1.running_var") == "layer2.0.downsample.1.running_var"
    assert own_name("block2.0.shortcut.weight") == "block2.0.shortcut.weight"


def test_another_networks_file_is_refused(tmp_path: Path) -> None:
    torch.save({"model": FAMILIES["resnet8"](num_classes=100).state_dict()}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match=r"'conv1.weight' is \[16, 3, 3, 3\], the model's is \[32"):
        _read(tmp_path / "other.pth", "resnet8x4")
