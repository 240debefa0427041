"""Weights of a torchvision model that are offered at an address which needs no network."""

import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.models import shufflenet_v2_x0_5

from kdcore.models.from_torchvision import TorchvisionOffer

NAME = "shufflenet_v2_x0_5"


def offer_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Offer weights from a folder, keep downloads in a new one beside, and return the weights."""
    torch.manual_seed(5)
    state = shufflenet_v2_x0_5(weights=None).state_dict()
    torch.save(state, folder / "all.pth")
    digest = hashlib.sha256((folder / "all.pth").read_bytes()).hexdigest()
    file = (folder / "all.pth").rename(folder / f"shufflenet-{digest[:8]}.pth")
    monkeypatch.setattr(TorchvisionOffer, "url", property(lambda _: file.as_uri()))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder / "hub"))
    return dict(state)
