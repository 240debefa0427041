"""From the name of a model to the model, with the classes of the data."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdcore.data.images import Images
from kdcore.data.preprocess import Preprocess
from kdcore.errors import ModelError, unknown
from kdcore.files import load_weights
from kdcore.fingerprint import source_of
from kdcore.models.tutorial import DeepNN, LightNN
from kdcore.probe import evaluating
from kdcore.sections import ModelConfig
from kdcore.taps import logits_of, run_model

_OWN: dict[str, Callable[..., nn.Module]] = {"deepnn": DeepNN, "lightnn": LightNN}
_OWN_SIZE = 32
_TORCHVISION = "torchvision/"
_TORCHVISION_SIZE = 224


def preprocess_for(config: ModelConfig, images: Images) -> Preprocess:
    """Decide how a model wants its images.

    Its size is `image_size` where that is given; otherwise the images' own where all have one
    and it is no larger than what models of this kind are made for: 32 pixels for the
    tutorial's, 224 for others.
    """
    size = config.image_size
    if size is None:
        made_for = _OWN_SIZE if config.model in _OWN else _TORCHVISION_SIZE
        common = images.common_size
        size = made_for if common is None else min(*common, made_for)
    return Preprocess(size, config.mean, config.std)


def where_from(name: str) -> str | None:
    """Say what would be imported for a model, where that is not kdcore's or torchvision's."""
    if ":" not in name:
        return None
    top = name.partition(":")[0].split(".")[0]
    _add_working_folder()
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    return f"{name} from {spec.origin or top}" if spec else None


def build_model(config: ModelConfig, classes: int, size: int, where: str) -> nn.Module:
    """Build a model by name, on the CPU, and load its weights where a file is given.

    Args:
        config: name and weights.
        classes: how many classes the data has.
        size: side in pixels of the images that it will be given.
        where: ``"student"`` or ``"teacher"``; begins errors.

    Raises:
        ModelError: the name is unknown, the model cannot be built or does not fit its data, or
            the weights do not fit the model.
    """
    model = _built(config.model, classes, size, where)
    _check_fits(model, classes, size, f"{where} {config.model!r}")
    if config.weights is not None:
        load_weights(model, config.weights, where)
    return model


def _built(name: str, classes: int, size: int, where: str) -> nn.Module:
    if name in _OWN:
        if size < 4:
            raise ModelError(f"{where} {name!r} needs images of at least 4 pixels, not {size}")
        return _OWN[name](num_classes=classes, image_size=size)
    if name.startswith(_TORCHVISION):
        return _torchvision(name.removeprefix(_TORCHVISION), classes, where)
    if ":" in name:
        return _called(name, classes, where)
    raise ModelError(
        f"{where}: {unknown('model', name, _OWN)}; or torchvision/NAME, or package.module:callable"
    )


def _torchvision(name: str, classes: int, where: str) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise ModelError(f"{where}: {unknown('torchvision model', name, known)}")
    # These two warn that a default will change, unless it is given.
    options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    model: nn.Module = models.get_model(name, weights=None, num_classes=classes, **options)
    return model


def _called(name: str, classes: int, where: str) -> nn.Module:
    module_name, _, attribute = name.partition(":")
    _add_working_folder()
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a user's module may fail in any way
        reason = f"{type(error).__name__}: {error}"
        raise ModelError(
            f"{where} {name!r} cannot be imported: {reason} (looked for among what is installed "
            f"and in {Path.cwd()})"
        ) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        names = [key for key in vars(module) if not key.startswith("_")]
        missing = unknown("name", attribute, names)
        file = getattr(module, "__file__", None) or "no file"
        raise ModelError(f"{where}: {module_name} ({file}) has no such callable: {missing}")
    parameters = inspect.signature(function).parameters
    takes_classes = "num_classes" in parameters or any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
    )
    try:
        model = function(num_classes=classes) if takes_classes else function()
    except Exception as error:
        raise ModelError(f"{where} {name!r} failed: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{where} {name!r} returned {type(model).__name__}, not an nn.Module")
    return model


def _check_fits(model: nn.Module, classes: int, size: int, where: str) -> None:
    sample: Any = torch.zeros(2, 3, size, size)
    try:
        with evaluating(model):
            logits = logits_of(run_model(model, sample))
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ModelError(
            f"{where} cannot run on images of {size} pixels ({type(error).__name__}: {reason}); "
            "set image_size where it wants another size"
        ) from error
    if logits is None:
        raise ModelError(
            f"{where}: its output holds no logits: expected a tensor, a tuple that begins with "
            "one, or an object with .logits"
        )
    if logits.shape != (2, classes):
        raise ModelError(
            f"{where} gives logits {list(logits.shape[1:])}, the data has {classes} classes"
        )


def _add_working_folder() -> None:
    # A console script's path lacks the folder that it is typed in, unlike `python -m`.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)


def code_of(name: str) -> str:
    """Return the hash of the files that the callable of a model's name is in; empty for others."""
    module = sys.modules.get(name.partition(":")[0]) if ":" in name else None
    return "" if module is None else source_of(module)
