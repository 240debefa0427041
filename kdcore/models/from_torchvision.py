"""Torchvision's models: their pretrained weights, hashed each time, and how they want images."""

import hashlib
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn
from torchvision import models

from kdcore.data.preprocess import Preprocess
from kdcore.errors import ModelError, unknown
from kdcore.models.offer import Offer

HASH = re.compile(r"-([0-9a-f]{8,64})\.pth$")
"""How torchvision's files end: with the beginning of their SHA-256."""


class TorchvisionOffer(Offer):
    """A classification model of torchvision.

    Args:
        name: ``"resnet18"``, or with the name of its weights, ``"resnet50.IMAGENET1K_V1"``.
        where: whose model it is; begins errors.

    Raises:
        ModelError: there is no such model, or no such weights.
    """

    def __init__(self, name: str, where: str) -> None:
        self._model, _, tag = name.partition(".")
        known = models.list_models(module=models)
        if self._model not in known:
            raise ModelError(f"{where}: {unknown('torchvision model', self._model, known)}")
        offered = models.get_model_weights(self._model)
        if tag and tag not in offered.__members__:
            raise ModelError(
                f"{where}: {unknown(f'weights of {self._model}', tag, offered.__members__)}"
            )
        self._where = where
        self._weights: Any = offered[tag] if tag else offered.DEFAULT
        self.name = f"torchvision/{name}"
        view = self._weights.transforms()
        # Two normalise anew what was normalised as ImageNet is, if told to: here they are given
        # what they would make of it.
        half = self._model in ("googlenet", "inception_v3")
        self.preprocess = Preprocess(
            view.crop_size[0],
            (0.5, 0.5, 0.5) if half else tuple(view.mean),
            (0.5, 0.5, 0.5) if half else tuple(view.std),
            view.resize_size[0],
            view.interpolation.value,
        )
        self.fixed = self._model.startswith(("vit_", "maxvit_"))
        self.categories = tuple(self._weights.meta["categories"])

    @property
    def url(self) -> str:
        """Where its weights are offered; the file's name has the beginning of their hash."""
        return str(self._weights.url)

    def fresh(self, classes: int) -> nn.Module:
        """Build it with new weights; see `Offer.fresh`."""
        # These two warn that a default will change, unless it is given.
        options = {"init_weights": True} if self._model in ("googlenet", "inception_v3") else {}
        model: nn.Module = models.get_model(
            self._model, weights=None, num_classes=classes, **options
        )
        return model

    def pretrained(self) -> nn.Module:
        """Build it with its weights, which are downloaded once; see `Offer.pretrained`."""
        options: dict[str, bool] = {}
        if self._model in ("googlenet", "inception_v3"):
            options = {"init_weights": False}
        model: nn.Module = models.get_model(
            self._model, weights=None, num_classes=len(self.categories), **options
        )
        model.load_state_dict(self._state())
        return model

    def _state(self) -> dict[str, Tensor]:
        url = self.url
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
        found = HASH.search(file.name)
        assert found is not None  # all of torchvision's files are named so
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                torch.hub.download_url_to_file(url, str(file), hash_prefix=found[1])
            except (OSError, RuntimeError) as error:
                raise ModelError(
                    f"{self._where} {self.name!r}: its weights cannot be downloaded "
                    f"({' '.join(str(error).split())}); put the file of {url} at {file}, or give "
                    "weights = FILE"
                ) from error
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        if not digest.startswith(found[1]):
            raise ModelError(
                f"{self._where} {self.name!r}: {file} is not what it says: its SHA-256 begins with "
                f"{digest[: len(found[1])]}, not {found[1]}; delete it, and it is downloaded again"
            )
        state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
        return state
