"""From the name of a model to the model, with the classes of the data."""

import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.data.images import Images
from kdcore.data.preprocess import Preprocess
from kdcore.errors import ModelError, unknown
from kdcore.files import load_weights
from kdcore.fingerprint import source_of
from kdcore.imports import imported
from kdcore.losses import CLASSLESS
from kdcore.models.tutorial import DeepNN, LightNN
from kdcore.probe import evaluating
from kdcore.sections import ModelConfig
from kdcore.taps import logits_of, run_model
from kdcore.tasks import Task

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


def build_model(
    config: ModelConfig, classes: int | None, given: Any, where: str, task: Task | None = None
) -> nn.Module:
    """Build a model by name, on the CPU, and load its weights where a file is given.

    Args:
        config: name and weights.
        classes: how many classes, or values a sample, the data has; None where that is not known.
        given: side in pixels of the images that it will be given; or some samples.
        where: ``"student"`` or ``"teacher"``; begins errors.
        task: what it is for; one class a sample if not given.

    Raises:
        ModelError: the name is unknown, the model cannot be built or does not fit its data, or
            the weights do not fit the model.
    """
    model = _built(config.model, classes, given, where)
    _check_fits(model, classes, given, f"{where} {config.model!r}", task)
    if config.weights is not None:
        load_weights(model, config.weights, where)
    return model


def _built(name: str, classes: int | None, given: Any, where: str) -> nn.Module:
    if classes is None and ":" not in name:
        raise ModelError(
            f"{where} {name!r}: how many outputs it shall have is not known; give the training "
            "data set an attribute `outputs`"
        )
    if name in _OWN:
        size = given if isinstance(given, int) else _side(given, f"{where} {name!r}")
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


def _side(sample: Any, where: str) -> int:
    shape = list(sample.shape) if isinstance(sample, Tensor) else None
    if shape is None or shape[1:2] != [3] or len(shape) != 4 or shape[2] != shape[3]:
        got = type(sample).__name__ if shape is None else str(shape)
        raise ModelError(
            f"{where} takes square RGB images [batch, 3, size, size], the data gives {got}; name "
            "a model of your own as package.module:callable"
        )
    return int(shape[2])


def _torchvision(name: str, classes: int | None, where: str) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise ModelError(f"{where}: {unknown('torchvision model', name, known)}")
    # These two warn that a default will change, unless it is given.
    options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    model: nn.Module = models.get_model(name, weights=None, num_classes=classes, **options)
    return model


def _called(name: str, classes: int | None, where: str) -> nn.Module:
    function = imported(name, where, ModelError)
    parameters = inspect.signature(function).parameters
    takes_classes = classes is not None and (
        "num_classes" in parameters
        or any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    )
    try:
        model = function(num_classes=classes) if takes_classes else function()
    except Exception as error:
        raise ModelError(f"{where} {name!r} failed: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{where} {name!r} returned {type(model).__name__}, not an nn.Module")
    return model


def _check_fits(
    model: nn.Module, classes: int | None, given: Any, where: str, task: Task | None
) -> None:
    images = isinstance(given, int)
    sample = torch.zeros(2, 3, given, given) if images else given
    try:
        with evaluating(model):
            logits = logits_of(run_model(model, sample))
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        what, remedy = "the samples of the data", "the data set gives what both models take"
        if images:
            what = f"images of {given} pixels"
            remedy = "set image_size where it wants another size"
        raise ModelError(
            f"{where} cannot run on {what} ({type(error).__name__}: {reason}); {remedy}"
        ) from error
    if logits is None:
        raise ModelError(
            f"{where}: its output holds no logits: expected a tensor, a tuple that begins with "
            "one, or an object with .logits"
        )
    rows = task.row_shape(logits.shape) if task else logits.shape
    fits = rows == (2, classes) if images else rows[-1:] == (classes,)
    if classes is not None and not fits:
        what = "values" if task and task.kind in CLASSLESS else "classes"
        raise ModelError(
            f"{where} gives logits {list(logits.shape[1:])}, the data has {classes} {what}"
        )


def code_of(name: str) -> str:
    """Return the hash of the files that the callable of a model's name is in; empty for others."""
    module = sys.modules.get(name.partition(":")[0]) if ":" in name else None
    return "" if module is None else source_of(module)
