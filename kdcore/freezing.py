"""Which part of a student learns: the rest keeps its weights and running statistics for a while."""

from collections.abc import Collection
from dataclasses import dataclass

from torch import nn

from kdcore.errors import ModelError, unknown


@dataclass(frozen=True)
class Frozen:
    """What of a student does not learn.

    Attributes:
        modules: those that hold nothing that learns.
        parameters: those whose gradients are taken away; what a user froze is none of them.
    """

    modules: tuple[nn.Module, ...] = ()
    parameters: tuple[nn.Parameter, ...] = ()

    @classmethod
    def but(cls, student: nn.Module, trainable: Collection[str]) -> "Frozen":
        """Find what is frozen where some modules alone shall learn; nothing if none is named.

        Raises:
            ModelError: there is no module of a name.
        """
        if not trainable:
            return cls()
        named = dict(student.named_modules())
        for name in trainable:
            if not name or name not in named:
                raise ModelError(f"trainable: {unknown('module', name, filter(None, named))}")
        learning = {id(each) for name in trainable for each in named[name].parameters()}
        kept = {id(module) for name in trainable for module in named[name].modules()}
        return cls(
            tuple(
                module
                for module in student.modules()
                if (*module.parameters(), *module.buffers())
                and not kept & set(map(id, module.modules()))
            ),
            tuple(
                each
                for each in student.parameters()
                if each.requires_grad and id(each) not in learning
            ),
        )

    def learn(self, wanted: bool) -> None:
        """Take the gradients away, or give them back."""
        for parameter in self.parameters:
            parameter.requires_grad_(wanted)
