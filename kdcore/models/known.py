"""kdcore's own models by name, and which of them a file of weights is of."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn

from kdcore.errors import ModelError
from kdcore.files import read_weights
from kdcore.models.cifar import FAMILIES, own_name
from kdcore.models.quick import QuickCNN
from kdcore.models.tutorial import DeepNN, LightNN
from kdcore.teachers import TEACHER

OF_ONE_SIDE = {"deepnn": DeepNN, "lightnn": LightNN}
"""Those whose layers depend on the side of their images."""

OWN: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {**OF_ONE_SIDE, "quickcnn": QuickCNN, **FAMILIES}
)
OWN_SIZE = 32
"""Side in pixels of images that they are made for."""


def naming_of(name: str) -> Callable[[str], str]:
    """Return what turns the names of a published file's tensors into those of a model."""
    return own_name if name in FAMILIES else str


def models_of(weights: Mapping[str, Tensor], size: int) -> list[str]:
    """Return which of kdcore's own models have exactly tensors of these names and shapes.

    Args:
        weights: of a file, by name; its head may be of any number of classes.
        size: side in pixels of the images that the model would be given.
    """
    found = []
    for name, build in OWN.items():
        given = {naming_of(name)(key): tensor.shape for key, tensor in weights.items()}
        sized = {"image_size": size} if name in OF_ONE_SIDE else {}
        with torch.device("meta"):  # neither memory nor random numbers are used
            model = build(num_classes=1, **sized)
        own = {key: tensor.shape for key, tensor in model.state_dict().items()}
        if own == given or (own.keys() == given.keys() and _other_classes(own, given, 1)):
            found.append(name)
    return found


def way_out(
    file: Path, name: str, model: nn.Module, where: str, classes: int | None, size: int
) -> str:
    """Say what a file is of that does not fit its model, and what to do; appended to an error.

    Args:
        file: the weights.
        name: of the model, as experiments have it.
        model: that they do not fit.
        where: whose model it is, as errors say it.
        classes: of the model.
        size: side in pixels of its images.
    """
    try:
        weights = read_weights(file, where)
    except ModelError:
        return ""  # as was said
    own = {key: tensor.shape for key, tensor in model.state_dict().items()}
    given = {naming_of(name)(key): tensor.shape for key, tensor in weights.items()}
    named = where.removeprefix(f"{TEACHER} ")
    section = where if named == where else f"teachers.{named}"
    same_names = own.keys() == given.keys()
    other = _other_classes(own, given, classes) if same_names else None
    if other is not None and section != "student":
        return (
            f"; its head is of {other} classes, the data has {classes}: keep its layers and train "
            f"a head with --set {section}.classes={other} --set {section}.fit.mode=head"
        )
    found = models_of(weights, size)
    if found == [name] or (same_names and len(found) != 1):
        return ""  # it is of this model, or of one that differs from it in sizes alone
    whose = found[0] if len(found) == 1 else "NAME"
    option = f"--{where}-model {whose}, or " if named == where else ""
    they = f"they are of {whose!r}" if len(found) == 1 else "say what they are of"
    return f"; {they}: {option}--set {section}.model={whose}"


def _other_classes(
    own: Mapping[str, torch.Size], given: Mapping[str, torch.Size], classes: int | None
) -> int | None:
    """Return of how many classes a head is that alone differs; None where more does."""
    found = set()
    for key in own:
        if own[key] == given[key]:
            continue
        if own[key][:1] != (classes,) or own[key][1:] != given[key][1:]:
            return None
        found.add(given[key][0])
    return found.pop() if len(found) == 1 else None
