"""The networks of the distillation literature's tables: residual ones for images of 32 pixels.

ResNets of three stages (He et al. 2016, section 4.2) and those of four times the width, with names
such as ``resnet8x4``; wide ResNets (Zagoruyko and Komodakis 2016) with names such as ``wrn_16_2``,
depth and width.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor, nn


def _conv(channels: int, filters: int, stride: int = 1, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(channels, filters, size, stride, padding=size // 2, bias=False)


class _Residual(nn.Module):
    """Two convolutions beside an identity; activations come after them and after the sum."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(channels, filters, stride)
        self.bn1 = nn.BatchNorm2d(filters)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv(filters, filters)
        self.bn2 = nn.BatchNorm2d(filters)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels != filters:
            self.downsample = nn.Sequential(
                _conv(channels, filters, stride, size=1), nn.BatchNorm2d(filters)
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        summed: Tensor = self.relu(self.downsample(x) + inner)
        return summed


class _Preactivated(nn.Module):
    """The same with normalisation and activation before each convolution."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = _conv(channels, filters, stride)
        self.bn2 = nn.BatchNorm2d(filters)
        self.conv2 = _conv(filters, filters)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = None if channels == filters else _conv(channels, filters, stride, size=1)

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu(self.bn1(x))
        inner = self.conv2(self.relu(self.bn2(self.conv1(active))))
        summed: Tensor = inner + (x if self.shortcut is None else self.shortcut(active))
        return summed


def _stage(
    block: Callable[[int, int, int], nn.Module],
    blocks: int,
    channels: int,
    filters: int,
    stride: int,
) -> nn.Sequential:
    first = block(channels, filters, stride)
    return nn.Sequential(first, *(block(filters, filters, 1) for _ in range(blocks - 1)))


def _start(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class CifarResNet(nn.Module):
    """A residual network of three stages.

    Args:
        depth: weighted layers, 6 n + 2 for n blocks a stage.
        widths: channels of the first convolution and of the three stages.
        num_classes: classes.
    """

    def __init__(
        self,
        depth: int,
        widths: tuple[int, int, int, int] = (16, 16, 32, 64),
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth must be 6 n + 2, such as 8, 20 or 56, and is {depth}")
        blocks = (depth - 2) // 6
        first, one, two, three = widths
        self.conv1 = _conv(3, first)
        self.bn1 = nn.BatchNorm2d(first)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(_Residual, blocks, first, one, 1)
        self.layer2 = _stage(_Residual, blocks, one, two, 2)
        self.layer3 = _stage(_Residual, blocks, two, three, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(three, num_classes)
        _start(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[batch, classes]`` of images ``[batch, 3, side, side]``."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits


class WideResNet(nn.Module):
    """A wide residual network of three stages, normalised before each convolution.

    Args:
        depth: weighted layers, 6 n + 4 for n blocks a stage.
        width: factor of the channels 16, 32 and 64 of its stages.
        num_classes: classes.
    """

    def __init__(self, depth: int, width: int, num_classes: int = 10) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth must be 6 n + 4, such as 16 or 40, and is {depth}")
        blocks = (depth - 4) // 6
        self.conv1 = _conv(3, 16)
        self.block1 = _stage(_Preactivated, blocks, 16, 16 * width, 1)
        self.block2 = _stage(_Preactivated, blocks, 16 * width, 32 * width, 2)
        self.block3 = _stage(_Preactivated, blocks, 32 * width, 64 * width, 2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64 * width, num_classes)
        _start(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[batch, classes]`` of images ``[batch, 3, side, side]``."""
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        logits: Tensor = self.fc(torch.flatten(self.avgpool(self.relu(self.bn1(x))), 1))
        return logits


_PUBLISHED = (
    (re.compile(r"^(block\d)\.layer\."), r"\1."),
    (re.compile(r"\.convShortcut\."), ".shortcut."),
    (re.compile(r"^(layer\d\.\d+)\.shortcut\."), r"\1.downsample."),
    (re.compile(r"^linear\."), "fc."),
)


def own_name(name: str) -> str:
    """Return what a tensor is called here that published teachers' files have under some name.

    These are the files of the repositories of contrastive representation distillation (Tian et al.
    2020) and those that follow it, and of networks whose head is called ``linear``.
    """
    for pattern, own in _PUBLISHED:
        name = pattern.sub(own, name)
    return name


_FOUR_TIMES = (32, 64, 128, 256)
FAMILIES: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {f"resnet{depth}": partial(CifarResNet, depth) for depth in (8, 14, 20, 32, 44, 56, 110)}
    | {f"resnet{depth}x4": partial(CifarResNet, depth, _FOUR_TIMES) for depth in (8, 32)}
    | {
        f"wrn_{depth}_{width}": partial(WideResNet, depth, width)
        for depth in (16, 40)
        for width in (1, 2)
    }
)
