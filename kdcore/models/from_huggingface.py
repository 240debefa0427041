"""Hugging Face's classifiers and encoders, of images and of text, by name or in a local folder."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.data.preprocess import Preprocess
from kdcore.errors import ModelError, missing_extra
from kdcore.models.offer import Offer
from kdcore.sections import Interpolation

POOLER = "pooler"
"""Part of the name of a layer that encoders are saved without where nobody needs it."""

_INTERPOLATIONS: dict[int, Interpolation] = {2: "bilinear", 3: "bicubic"}
"""By Pillow's numbers."""


class HuggingFaceOffer(Offer):
    """A model of transformers: a classifier where its family has one, its bare encoder otherwise.

    Code that comes with a model is never run.

    Args:
        name: of a model on the hub, ``"google/vit-base-patch16-224"``, or a local folder.
        where: whose model it is; begins errors.

    Raises:
        ModelError: transformers is not installed, or there is no such model.
    """

    def __init__(self, name: str, where: str) -> None:
        try:
            import transformers
        except ImportError:
            what = f"{where}: 'hf/{name}'"
            raise ModelError(missing_extra(what, "transformers", "huggingface")) from None
        self._library: Any = transformers
        self._from = str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
        self._where = where
        self.name = f"hf/{name}"
        with self._explained("its configuration"):
            self._config = transformers.AutoConfig.from_pretrained(self._from)
        kinds = transformers.models.auto.modeling_auto
        kind = self._config.model_type
        self._images = kind in kinds.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
        text = kind in kinds.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
        if self._images:
            self._class = transformers.AutoModelForImageClassification
        elif text:
            self._class = transformers.AutoModelForSequenceClassification
        else:
            self._class = transformers.AutoModel
        names = self._config.id2label or {}
        made = self._config.architectures or []
        # An encoder that was saved without a head has made-up names in its configuration.
        headed = (self._images or text) and any("Classification" in each for each in made)
        self.categories = tuple(names[index] for index in sorted(names)) if headed else ()
        self._headed = headed
        self.fixed = self._images

    @cached_property
    def preprocess(self) -> Preprocess | None:  # type: ignore[override]  # looked at when wanted
        """How it wants images; see `Offer.preprocess`.

        Raises:
            ModelError: it does not say, or says what kdcore does not do.
        """
        return self._preprocess() if self._images else None

    @property
    def text(self) -> bool:
        """Whether it is given words; see `Offer.text`."""
        return not self._images

    def fresh(self, classes: int) -> nn.Module:
        """Build it with new weights; see `Offer.fresh`."""
        config = type(self._config).from_dict(self._config.to_dict())
        if self._class is not self._library.AutoModel:
            config.num_labels = classes
        model: nn.Module = self._class.from_config(config)
        return model

    def pretrained(self) -> nn.Module:
        """Build it with its weights; an encoder's without any head; see `Offer.pretrained`."""
        kind = self._class if self._headed else self._library.AutoModel
        with self._explained("its weights"):
            model, found = kind.from_pretrained(self._from, output_loading_info=True)
        anew = [*found["missing_keys"], *map(_name, found["mismatched_keys"])]
        self._refuse([name for name in anew if POOLER not in name])
        return _module(model)

    def with_new_head(self, classes: int) -> nn.Module:
        """Build it with its layers and a new head, which an encoder gets too; see `Offer`."""
        if self._class is self._library.AutoModel:
            return self.pretrained()
        with self._explained("its weights"):
            model, found = self._class.from_pretrained(
                self._from,
                num_labels=classes,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        anew = [*found["missing_keys"], *map(_name, found["mismatched_keys"])]
        body = f"{model.base_model_prefix}."
        self._refuse([each for each in anew if each.startswith(body) and POOLER not in each])
        return _module(model)

    def _refuse(self, anew: Sequence[str]) -> None:
        """Refuse weights that leave layers as they were drawn."""
        if anew:
            raise ModelError(
                f"{self._where} {self.name!r}: its weights do not hold {len(anew)} tensors of the "
                f"model in their shapes, such as {sorted(anew)[0]!r}: they are of another model"
            )

    @contextmanager
    def _explained(
        self,
        what: str,
        remedy: str = "give a local folder, hf/PATH, or connect to the network once",
    ) -> Iterator[None]:
        """Keep a library quiet that prints pages, and say in one line what failed."""
        logs = self._library.logging
        level = logs.get_verbosity()
        bars = logs.is_progress_bar_enabled()
        logs.set_verbosity_error()
        logs.disable_progress_bar()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except Exception as error:  # hubs and networks fail in many ways
            reason = " ".join(str(error).split())
            raise ModelError(
                f"{self._where} {self.name!r}: {what} cannot be had ({type(error).__name__}: "
                f"{reason[:200]}); {remedy}"
            ) from error
        finally:
            logs.set_verbosity(level)
            if bars:
                logs.enable_progress_bar()

    def _preprocess(self) -> Preprocess | None:
        """Read how it wants images, and hold what is read against what its own library does."""
        with self._explained("how it wants images", "set image_size, mean and std"):
            processor = self._library.AutoImageProcessor.from_pretrained(self._from)
        where = f"{self._where} {self.name!r}"
        own = preprocess_of(processor.to_dict(), where)
        image = _picture()
        with self._explained("how it wants images", "set image_size, mean and std"):
            pixels = image.permute(1, 2, 0).numpy()
            expected = processor(images=pixels, return_tensors="pt")["pixel_values"][0]
        made = own.normalise(own.geometry.fit(image).unsqueeze(0))[0]
        near = 4 / 255 / min(own.std)  # a few steps of 255, where libraries round otherwise
        if made.shape != expected.shape or float((made - expected).abs().max()) > near:
            raise ModelError(
                f"{where}: kdcore does not prepare images as its {type(processor).__name__} does; "
                "set image_size, mean and std, which are taken as they are"
            )
        return own


def _picture() -> Tensor:
    """Return colours that change slowly, wider than high, to try a processor on."""
    down = torch.linspace(0, 7, 300).sin().view(1, -1, 1)
    along = torch.linspace(0, 5, 420).cos().view(1, 1, -1)
    shades = torch.tensor([0.9, 0.5, -0.7]).view(3, 1, 1)
    return (127.5 + 127 * down * along * shades).round().to(torch.uint8)


def _name(mismatched: object) -> str:
    """Return the name of a tensor of another shape, which versions tell with or without it."""
    return str(mismatched[0]) if isinstance(mismatched, tuple) else str(mismatched)


def _module(model: object) -> nn.Module:
    assert isinstance(model, nn.Module)
    return model


def preprocess_of(said: dict[str, Any], where: str) -> Preprocess:
    """Turn what an image processor of transformers says of itself into a `Preprocess`.

    Raises:
        ModelError: it says what kdcore does not do.
    """
    size, crop = said.get("size") or {}, said.get("crop_size") or {}
    if isinstance(size, int):
        size = {"shortest_edge": size}
    shorter, side = size.get("shortest_edge"), size.get("height")
    squash, resize = False, None
    if shorter is not None:
        side, resize = shorter, shorter
        if said.get("crop_pct") and shorter < 384:  # ConvNeXt: larger images are squashed
            resize = int(shorter / said["crop_pct"])
        elif said.get("crop_pct"):
            squash, resize = True, None
    elif side is not None and side == size.get("width"):
        squash = True
    if said.get("do_center_crop") and crop:
        resize, side = resize or side, crop["height"] if isinstance(crop, dict) else crop
    normalised = said.get("do_normalize", True)
    mean = tuple(map(float, said["image_mean"])) if normalised else (0.0,) * 3
    std = tuple(map(float, said["image_std"])) if normalised else (1.0,) * 3
    factor = said.get("rescale_factor", 1 / 255)
    uneven = "width" in size and size["width"] != size.get("height")
    if side is None or uneven or len(mean) != 3 or len(std) != 3 or abs(factor * 255 - 1) > 1e-6:
        raise ModelError(
            f"{where}: kdcore cannot read images as it wants them (size {size}, mean {mean}, "
            f"factor {factor}); set image_size, mean and std"
        )
    resample = int(said.get("resample", 2) or 2)
    return Preprocess(
        side,
        (mean[0], mean[1], mean[2]),
        (std[0], std[1], std[2]),
        resize if resize != side else None,
        _INTERPOLATIONS.get(resample, "bilinear"),
        squash,
    )
