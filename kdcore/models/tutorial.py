"""The two networks of PyTorch's knowledge distillation tutorial."""

import torch
from torch import Tensor, nn


def _convolution(channels: int, filters: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, filters, kernel_size=3, padding=1), nn.ReLU()]


def _classifier(values: int, width: int, classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(values, width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, classes)
    )


class DeepNN(nn.Module):
    """The tutorial's teacher: four convolutions, 1,186,986 parameters for ten classes of 32 pixels.

    Args:
        num_classes: classes.
        image_size: side in pixels of its images ``[batch, 3, side, side]``, a multiple of 4.
    """

    def __init__(self, num_classes: int = 10, image_size: int = 32) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_convolution(3, 128),
            *_convolution(128, 64),
            nn.MaxPool2d(kernel_size=2, stride=2),
            *_convolution(64, 64),
            *_convolution(64, 32),
            nn.MaxPool2d(kernel_size=2, stride=2),
        )
        self.classifier = _classifier(32 * (image_size // 4) ** 2, 512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[batch, classes]``."""
        logits: Tensor = self.classifier(torch.flatten(self.features(x), 1))
        return logits


class LightNN(nn.Module):
    """The tutorial's student: two convolutions, 267,738 parameters for ten classes of 32 pixels.

    Args:
        num_classes: classes.
        image_size: side in pixels of its images ``[batch, 3, side, side]``, a multiple of 4.
    """

    def __init__(self, num_classes: int = 10, image_size: int = 32) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_convolution(3, 16),
            nn.MaxPool2d(kernel_size=2, stride=2),
            *_convolution(16, 16),
            nn.MaxPool2d(kernel_size=2, stride=2),
        )
        self.classifier = _classifier(16 * (image_size // 4) ** 2, 256, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[batch, classes]``."""
        logits: Tensor = self.classifier(torch.flatten(self.features(x), 1))
        return logits
