"""timm's models: their pretrained weights, and how they want images."""

import math
from typing import Any, get_args

from torch import nn

from kdcore.data.preprocess import Preprocess
from kdcore.errors import ModelError, missing_extra, unknown
from kdcore.models.offer import Offer
from kdcore.sections import Interpolation


class TimmOffer(Offer):
    """A classification model of timm.

    Args:
        name: ``"resnet10t"``, or with a tag, ``"resnet10t.c3_in1k"``.
        where: whose model it is; begins errors.

    Raises:
        ModelError: timm is not installed, or has no such model, or it takes no square RGB images.
    """

    def __init__(self, name: str, where: str) -> None:
        try:
            import timm
        except ImportError:
            what = f"{where}: 'timm/{name}'"
            raise ModelError(missing_extra(what, "timm", "timm")) from None
        self._timm: Any = timm
        self._name, self._where = name, where
        self.name = f"timm/{name}"
        bare, _, tag = name.partition(".")
        if not timm.is_model(bare):
            raise ModelError(f"{where}: {unknown('timm model', bare, timm.list_models())}")
        known = [each.partition(".")[2] for each in timm.list_pretrained(f"{bare}.*")]
        if tag and tag not in known:
            raise ModelError(f"{where}: {unknown(f'weights of timm/{bare}', tag, known)}")
        said = timm.get_pretrained_cfg(name)
        config = said.to_dict() if said else {}
        self.fixed = bool(config.get("fixed_input_size"))
        self.categories = _categories(timm, config) if config else ()
        self.preprocess = _preprocess(config, f"{where} {self.name!r}") if config else None

    def fresh(self, classes: int) -> nn.Module:
        """Build it with new weights; see `Offer.fresh`."""
        model: nn.Module = self._timm.create_model(
            self._name, pretrained=False, num_classes=classes
        )
        return model

    def pretrained(self) -> nn.Module:
        """Build it with its weights, which timm downloads once; see `Offer.pretrained`."""
        try:
            model: nn.Module = self._timm.create_model(self._name, pretrained=True)
        except Exception as error:  # hubs and networks fail in many ways
            reason = " ".join(str(error).split())
            raise ModelError(
                f"{self._where} {self.name!r}: its weights cannot be had ({type(error).__name__}: "
                f"{reason[:200]}); connect to the network once, or give weights = FILE"
            ) from error
        return model


def _preprocess(config: dict[str, Any], where: str) -> Preprocess:
    channels, height, width = config["input_size"]
    if channels != 3 or height != width:
        raise ModelError(f"{where} takes {channels} x {height} x {width}: no square RGB image")
    mode = config.get("crop_mode", "center")
    interpolation = config.get("interpolation", "bicubic")
    return Preprocess(
        height,
        tuple(config["mean"]),
        tuple(config["std"]),
        math.floor(height / config.get("crop_pct", 0.875)),
        interpolation if interpolation in get_args(Interpolation) else "bicubic",
        squash=mode == "squash",
    )


def _categories(timm: Any, config: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of ImageNet's classes, numbers for other sets of classes."""
    count = int(config.get("num_classes", 0))
    if count == 1000:
        info = timm.data.ImageNetInfo("imagenet-1k")
        return tuple(str(info.index_to_description(index)) for index in range(count))
    return tuple(map(str, range(count)))
