"""Two small networks that strategies are tried on: three stages, different widths.

Without dropout and batch normalisation: what two passes give differs only where a strategy does.
"""

import torch
from torch import Tensor, nn

CLASSES = 5


class SmallCNN(nn.Module):
    """Convolution, ReLU and pooling by stages, then one linear layer.

    Of an image ``[batch, 3, 16, 16]`` the stages give maps of 8, 4 and 2 pixels.

    Args:
        widths: channels of each stage.
        classes: width of the logits.
        image_size: side of the square images in pixels.
    """

    def __init__(
        self, widths: tuple[int, ...], classes: int = CLASSES, image_size: int = 16
    ) -> None:
        super().__init__()
        stages = [
            nn.Sequential(nn.Conv2d(given, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
            for given, width in zip((3, *widths), widths, strict=False)
        ]
        self.features = nn.Sequential(*stages)
        self.head = nn.Linear(widths[-1] * (image_size // 2 ** len(widths)) ** 2, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[batch, classes]``."""
        logits: Tensor = self.head(torch.flatten(self.features(x), 1))
        return logits


class SmallTokens(nn.Module):
    """A small transformer without attention: patches of 4 pixels as tokens, mixed, and a head.

    Args:
        width: of a token.
        classes: width of the logits.
    """

    def __init__(self, width: int = 8, classes: int = CLASSES) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.blocks = nn.Sequential(*(_Mixing(width) for _ in range(2)))
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[batch, classes]``; the blocks give ``[batch, tokens, width]``."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        logits: Tensor = self.head(self.blocks(tokens).mean(1))
        return logits


class _Mixing(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        mixed: Tensor = self.layer(tokens - tokens.mean(1, keepdim=True))
        return tokens + mixed.relu()


def small_teacher() -> SmallCNN:
    """Build a teacher of 6, 8 and 10 channels, 40 values before the head."""
    return SmallCNN((6, 8, 10))


def small_student() -> SmallCNN:
    """Build a student of 4, 5 and 6 channels, 24 values before the head."""
    return SmallCNN((4, 5, 6))
