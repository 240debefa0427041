"""Where a model's logits are: which part of its output, and which of its classes are the data's.

A hook on the model hands the logits on as its output, so that nobody downstream needs to know. What
is saved of a model is its weights, which no hook touches.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.errors import ModelError, unknown
from kdcore.taps import OtherClasses, logits_of

ClassMap = Mapping[str, "int | str | Sequence[int | str]"]
"""By class of the data, which class of the teacher it is, or which several: indices or names."""


class LogitsRule:
    """Turns what a model returns into its logits.

    Args:
        where: whose output it is; begins errors.
        part: keys, positions and attributes that lead to the logits, such as ``"1"`` or
            ``"preds.cls"``; where they are usually if empty. An output that is a tensor is taken
            as it is.
        groups: of each class of the data, the model's own classes that make it up; as they are
            if not given. A class of several has the logit of any of them,
            ``log(sum(exp(logit)))``.
        hidden: whether there are none, because they are of other classes.
    """

    def __init__(
        self,
        where: str,
        part: str = "",
        groups: Sequence[Sequence[int]] | None = None,
        *,
        hidden: bool = False,
    ) -> None:
        self.where = where
        self.part = part
        self.groups = groups
        self.hidden = hidden

    def __call__(self, _module: nn.Module, _inputs: object, output: object) -> object:
        """Hear of an output; return what takes its place."""
        if self.hidden:
            return OtherClasses(self._found(output) if self.part else output)
        logits = self._found(output)
        if self.groups is None:
            return logits
        mapped = [
            logits[:, list(group)].logsumexp(1) if len(group) > 1 else logits[:, group[0]]
            for group in self.groups
        ]
        return torch.stack(mapped, 1)

    def _found(self, output: object) -> Tensor:
        now: Any = output
        for step in self.part.split(".") if self.part and not isinstance(output, Tensor) else ():
            now = self._step(now, step)
        found = logits_of(now) if isinstance(now, Tensor) or not self.part else None
        if found is None:
            what = f"output = {self.part!r} leads to {type(now).__name__}" if self.part else ""
            raise ModelError(
                f"{self.where}: {what or 'its output holds no logits'}; set output to the part of "
                "it that is a tensor of logits, such as '0', 'logits' or '1.cls'"
            )
        return found

    def _step(self, now: Any, step: str) -> Any:
        if isinstance(now, Mapping):
            if step not in now:
                raise ModelError(f"{self.where}: {unknown('part of its output', step, now)}")
            return now[step]
        if isinstance(now, Sequence) and step.lstrip("-").isdecimal():
            if not -len(now) <= int(step) < len(now):
                raise ModelError(
                    f"{self.where}: output = {self.part!r}: its output has {len(now)} parts, "
                    "counted from 0"
                )
            return now[int(step)]
        if not hasattr(now, step):
            names = [name for name in dir(now) if not name.startswith("_")]
            raise ModelError(f"{self.where}: {unknown('part of its output', step, names)}")
        return getattr(now, step)


def give_logits(model: nn.Module, answer: LogitsRule) -> None:
    """Have a model return its logits."""
    model.register_forward_hook(answer)


def groups_of(
    class_map: ClassMap, classes: Sequence[str], own: int, names: Sequence[str], where: str
) -> list[list[int]]:
    """Return of each class of the data which of a model's own classes make it up.

    Args:
        class_map: as an experiment has it.
        classes: names of the data's classes, by index.
        own: how many classes the model has.
        names: of these, where they are known.
        where: whose they are; begins errors.

    Raises:
        ModelError: a class of the data is missing, unknown or empty, or one of the model is
            unknown or stands twice.
    """
    for name in class_map:
        if name not in classes:
            raise ModelError(f"{where}.class_map: {unknown('class of the data', name, classes)}")
    if missing := [name for name in classes if name not in class_map]:
        raise ModelError(
            f"{where}.class_map: it does not say what {missing[0]!r} is among the model's {own} "
            "classes; name each class of the data"
        )
    groups = []
    for name in classes:
        given = class_map[name]
        several = [given] if isinstance(given, int | str) else list(given)
        if not several:
            raise ModelError(f"{where}.class_map: {name!r} is none of the model's classes")
        groups.append([_index(each, own, names, f"{where}.class_map.{name}") for each in several])
    used = [index for group in groups for index in group]
    if twice := [index for index in used if used.count(index) > 1]:
        raise ModelError(f"{where}.class_map: class {twice[0]} of the model stands twice")
    return groups


def _index(given: int | str, own: int, names: Sequence[str], where: str) -> int:
    if isinstance(given, int):
        if not 0 <= given < own:
            raise ModelError(f"{where}: {given} is none of 0 to {own - 1}")
        return given
    places = [str(index) for index, name in enumerate(names) if name == given]
    if len(places) > 1:
        raise ModelError(f"{where}: {given!r} is the name of classes {' and '.join(places)}")
    if not places:
        raise ModelError(f"{where}: {unknown('class of the model', given, names)}")
    return int(places[0])
