"""From the name of a model to the model, with the classes of the data.

What libraries offer by name is in the modules called `from_`, where its logits are in `logits`.
"""

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdcore.data.images import Images
from kdcore.data.preprocess import Preprocess
from kdcore.errors import ModelError, unknown
from kdcore.files import load_weights, read_weights, renamed
from kdcore.fingerprint import source_of
from kdcore.imports import imported
from kdcore.losses import CLASSLESS
from kdcore.models.from_huggingface import HuggingFaceOffer
from kdcore.models.from_timm import TimmOffer
from kdcore.models.from_torchvision import TorchvisionOffer
from kdcore.models.known import OF_ONE_SIDE, OWN, OWN_SIZE, naming_of, way_out
from kdcore.models.logits import LogitsRule, give_logits, groups_of
from kdcore.models.offer import Offer, fill
from kdcore.probe import evaluating
from kdcore.sections import HF, MODEL, RANDOM, TIMM, TORCHVISION, ModelConfig
from kdcore.taps import logits_of, run_model
from kdcore.tasks import Task
from kdcore.teacher_sections import TeacherConfig

_OTHER_SIZE = 224
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of ImageNet's channels, which most pretrained models were normalised by."""

_LIBRARIES: Mapping[str, Callable[[str, str], Offer]] = MappingProxyType(
    {TORCHVISION: TorchvisionOffer, TIMM: TimmOffer, HF: HuggingFaceOffer}
)

Head = Literal["own", "new", "mapped", "other"]


@dataclass(frozen=True)
class Built:
    """A model that was built by name.

    Attributes:
        model: the model, on the CPU.
        origin: where its weights began: ``"random"``, a file, or ``"pretrained NAME"``.
        head: whether its head is its own, begins anew, is mapped to the data's classes, or is of
            other classes, so that it has no logits for them.
        classes: of its own head; 0 where it has none or that is not known.
        names: of these, where a library tells them.
    """

    model: nn.Module
    origin: str
    head: Head
    classes: int = 0
    names: tuple[str, ...] = ()


def offer_of(name: str, where: str) -> Offer | None:
    """Return what a library says of a model's name; None of names that are no library's.

    Raises:
        ModelError: the library is not installed, or has no such model.
    """
    for prefix, library in _LIBRARIES.items():
        if name.startswith(prefix):
            return library(name.removeprefix(prefix), where)
    return None


def usual_size(name: str) -> int:
    """Return the side in pixels of images that models like one are made for, by its name."""
    return OWN_SIZE if name in OWN else _OTHER_SIZE


def preprocess_for(config: ModelConfig, images: Images, where: str = "model") -> Preprocess:
    """Decide how a model wants its images.

    What the section says counts; then, for pretrained layers, what they were trained with. Others
    are given the images' own size, where all have one that is no larger than what models of the
    kind are made for: 32 pixels for the tutorial's, mostly 224 for others.

    Args:
        config: the model.
        images: of the data.
        where: whose model it is; begins errors.

    Raises:
        ModelError: the library has no such model, or the middle that is cut out is larger than
            the image.
    """
    offer = offer_of(config.model, where)
    told = None not in (config.image_size, config.mean, config.std)
    own = None if told or offer is None else offer.preprocess
    as_trained = own is not None and (config.pretrained or (offer is not None and offer.fixed))
    size, resize = config.image_size, config.resize
    if size is None and as_trained:
        assert own is not None
        size, resize = own.size, resize or own.resize
    if size is None:
        made_for = own.size if own else usual_size(config.model)
        common = images.common_size
        size = made_for if common is None else min(*common, made_for)
    if resize is not None and resize < size:
        raise ModelError(
            f"{where}.resize = {resize} is less than the {size} pixels that are cut out of it; "
            "raise it, or leave it out"
        )
    like = own if own and as_trained else Preprocess(size, *IMAGENET)
    return Preprocess(
        size,
        config.mean or (own.mean if own else like.mean),
        config.std or (own.std if own else like.std),
        resize,
        config.interpolation or like.interpolation,
        like.squash if config.squash is None else config.squash,
    )


def build_model(
    config: ModelConfig, classes: int | None, given: Any, where: str, task: Task | None = None
) -> nn.Module:
    """Build a model by name; see `build`."""
    return build(config, classes, given, where, task).model


def build(
    config: ModelConfig,
    classes: int | None,
    given: Any,
    where: str,
    task: Task | None = None,
    names: tuple[str, ...] = (),
) -> Built:
    """Build a model by name, on the CPU, and load its weights where it has some.

    Args:
        config: its name, its weights, and of a teacher, what its head is.
        classes: how many classes, or values a sample, the data has; None where that is not known.
        given: side in pixels of the images that it will be given; or some samples.
        where: ``"student"`` or ``"teacher"``; begins errors.
        task: what it is for; one class a sample if not given.
        names: of the data's classes, where there are any.

    Raises:
        ModelError: the name is unknown, the model cannot be built or does not fit its data, or
            the weights do not fit the model.
    """
    teacher = config if isinstance(config, TeacherConfig) else None
    built = (
        _pretrained(config, classes, where, names)
        if config.pretrained
        else _with_weights(config, classes, given, where)
    )
    groups = None
    if teacher and teacher.class_map is not None:
        groups = groups_of(teacher.class_map, names, built.classes, built.names, where)
    elif teacher and built.head == "own" and _reordered(built.names, names):
        # The same classes in another order: a name says more than a place.
        groups = [[built.names.index(name)] for name in names]
    if groups is not None:
        built = replace(built, head="mapped")
    if config.output is not None or groups is not None or built.head == "other":
        hidden = built.head == "other"
        give_logits(built.model, LogitsRule(where, config.output or "", groups, hidden=hidden))
    _check_fits(built, classes, given, f"{where} {config.model!r}", task)
    return built


def _reordered(known: tuple[str, ...], names: tuple[str, ...]) -> bool:
    """Return whether a model knows the data's classes, in another order."""
    return known != names and sorted(known) == sorted(names)


def _pretrained(
    config: ModelConfig, classes: int | None, where: str, names: tuple[str, ...]
) -> Built:
    offer = offer_of(config.model, where)
    assert offer is not None  # the section has looked
    own = len(offer.categories)
    origin = f"pretrained {offer.name}"
    mapped = isinstance(config, TeacherConfig) and config.class_map is not None
    if not isinstance(config, TeacherConfig) and _reordered(offer.categories, names):
        raise ModelError(
            f"{where} {offer.name!r}: its pretrained head knows the data's classes in another "
            "order, which its file would keep: leave pretrained out, or give other weights"
        )
    fits = mapped or (own and classes in (own, None))
    if fits or (isinstance(config, TeacherConfig) and config.fit is None):
        built = Built(offer.pretrained(), origin, "own" if fits else "other", own, offer.categories)
    else:
        assert classes is not None
        built = Built(offer.with_new_head(classes), origin, "new", classes)
    for name, parameter in built.model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise ModelError(f"{where} {offer.name!r}: the tensor {name!r} is not finite")
    return built


def _with_weights(config: ModelConfig, classes: int | None, given: Any, where: str) -> Built:
    """Build a model with new weights, or those of a file."""
    teacher = config if isinstance(config, TeacherConfig) else None
    own = classes if teacher is None or teacher.classes is None else teacher.classes
    if config.weights is None:
        return Built(_built(config.model, classes, given, where), RANDOM, "own", classes or 0)
    origin = str(config.weights)
    named = naming_of(config.model)
    if teacher and teacher.fit and own != classes:
        model = _built(config.model, classes, given, where)
        assert classes is not None  # of others the model could not be built
        prefix = f"{where}: {config.weights}"
        with _explained(config, model, where, classes, given):
            weights = renamed(read_weights(config.weights, where), named, prefix)
            fill(model, weights, classes, prefix)
        return Built(model, origin, "new", classes or 0)
    model = _built(config.model, own, given, where)
    with _explained(config, model, where, own, given):
        load_weights(model, config.weights, where, named)
    other = own != classes and not (teacher and teacher.class_map is not None)
    return Built(model, origin, "other" if other else "own", own or 0)


@contextmanager
def _explained(
    config: ModelConfig, model: nn.Module, where: str, classes: int | None, given: Any
) -> Iterator[None]:
    """Say with an error of weights that do not fit what would."""
    try:
        yield
    except ModelError as error:
        assert config.weights is not None
        size = given if isinstance(given, int) else OWN_SIZE
        hint = way_out(config.weights, config.model, model, where, classes, size)
        raise ModelError(f"{error}{hint}") from None


def _built(name: str, classes: int | None, given: Any, where: str) -> nn.Module:
    if classes is None and ":" not in name:
        raise ModelError(
            f"{where} {name!r}: how many outputs it shall have is not known; give the training "
            "data set an attribute `outputs`"
        )
    if name in OWN:
        size = given if isinstance(given, int) else _side(given, f"{where} {name!r}")
        if size < 4:
            raise ModelError(f"{where} {name!r} needs images of at least 4 pixels, not {size}")
        sized = {"image_size": size} if name in OF_ONE_SIDE else {}
        return OWN[name](num_classes=classes, **sized)
    offer = offer_of(name, where)
    if offer is not None:
        assert classes is not None
        return offer.fresh(classes)
    if ":" in name:
        return _called(name, classes, where)
    raise ModelError(f"{where}: {unknown('model', name, OWN)}; there are {MODEL}")


def _side(sample: Any, where: str) -> int:
    shape = list(sample.shape) if isinstance(sample, Tensor) else None
    if shape is None or shape[1:2] != [3] or len(shape) != 4 or shape[2] != shape[3]:
        got = type(sample).__name__ if shape is None else str(shape)
        raise ModelError(
            f"{where} takes square RGB images [batch, 3, size, size], the data gives {got}; name "
            "a model of your own as package.module:callable"
        )
    return int(shape[2])


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
    built: Built, classes: int | None, given: Any, where: str, task: Task | None
) -> None:
    images, model = isinstance(given, int), built.model
    sample = torch.zeros(2, 3, given, given) if images else given
    try:
        with evaluating(model):
            logits = logits_of(run_model(model, sample))
    except ModelError:
        raise
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
        if built.head == "other":
            return
        raise ModelError(
            f"{where}: its output holds no logits: expected a tensor, a tuple that begins with "
            "one, or an object with .logits; where they are elsewhere in it, set output"
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
