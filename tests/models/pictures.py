"""Pictures to scale: colours that change slowly, so that rounding alone tells libraries apart."""

import torch
from torch import Tensor


def smooth(height: int, width: int) -> Tensor:
    """Return a picture, ``uint8 [3, height, width]``."""
    down = torch.linspace(0, 7, height).sin().view(1, -1, 1)
    along = torch.linspace(0, 5, width).cos().view(1, 1, -1)
    shades = torch.tensor([0.9, 0.5, -0.7]).view(3, 1, 1)
    return (127.5 + 127 * down * along * shades).round().to(torch.uint8)
