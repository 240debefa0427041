"""Models that exports must carry, or refuse."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdcore.card import Card
from kdcore.data.preprocess import Preprocess
from kdcore.shipping.graph import Inputs, of_pixels

IMAGE = Preprocess(32, (0.5, 0.4, 0.3), (0.25, 0.2, 0.3))


def card(image: Preprocess | None = IMAGE, **more: object) -> Card:
    """Return the card of some student of ten classes."""
    given = {
        "model": "lightnn",
        "output": None,
        "task": "classification",
        "outputs": 10,
        "classes": tuple("abcdefghij"),
        "image": image,
        "run": "student",
        "data": "photos",
        "seed": 1,
        "weights": "last",
        "scores": {"accuracy": 50.0},
        "origin": "random",
        "kdcore": "0.1.0",
        **more,
    }
    return Card(**given)  # type: ignore[arg-type]  # values of many types


def pixels(count: int, size: int = 32, seed: int = 0) -> Tensor:
    """Return some images, ``uint8 [count, 3, size, size]``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator).to(torch.uint8)


def images(count: int, size: int = 32, seed: int = 0) -> Inputs:
    """Return them as an exported student takes them."""
    return of_pixels(pixels(count, size, seed))


def lived(model: nn.Module) -> nn.Module:
    """Train a model a little; layers that never learned turn rounding into noise."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(20) % 10
    colours = torch.randn(10, 3, 1, 1, generator=generator)
    optimizer = torch.optim.Adam(model.train().parameters(), lr=3e-3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.2  # a little is enough
    for _ in range(20):
        noise = torch.randn(20, 3, 32, 32, generator=generator)
        loss = F.cross_entropy(model(colours[targets] + noise), targets)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return model.eval()


class BatchNorm(nn.Module):
    """Convolutions with batch norm, and a residual."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        x = self.first(x)
        x = F.relu(x + self.second(x), inplace=True)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class Words(nn.Module):
    """Takes a mapping, as text classifiers do, and returns one."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.head = nn.Linear(8, num_classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Mapping[str, Tensor]:
        """Return logits of token indices ``[batch, tokens]`` and a mask of the same shape."""
        mask = attention_mask.unsqueeze(-1).float()
        mean = (self.embedding(input_ids) * mask).sum(1) / mask.sum(1)
        return {"logits": self.head(mean), "mean": mean}


class OfOneSize(nn.Module):
    """Knows batches of two alone."""

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of two images."""
        return x.reshape(2, -1)[:, :10]


class Undecided(nn.Module):
    """Does what an exporter cannot follow: asks what a value is."""

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        flat = x.flatten(1)
        return flat[:, :10] if float(flat.sum()) > 0 else flat[:, 10:20]


class Polygamma(nn.Module):
    """Computes what ONNX has no operator for."""

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        logits: Tensor = torch.special.polygamma(1, x.flatten(1)[:, :10])
        return logits
