"""Teachers by name: what they may be called, and what those are that are no model of their own.

How teachers are asked is in `frozen_teacher`, how an average follows its student in `moving`.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from kdcore.errors import ConfigError, unknown

TEACHER = "teacher"
"""Name of the teacher where there is one and nobody named it."""

ALL_TEACHERS = "all"
"""What binds a strategy to every teacher of its run."""

OWN_NAMES = {
    ALL_TEACHERS: "it binds a strategy to every teacher",
    "student": "that is the model that learns",
}


@dataclass(frozen=True)
class TeacherEnsemble:
    """Several teachers as one, whose logits are the mean of theirs.

    The softmax of a mean of logits is the normalised geometric mean of the members' predictive
    distributions, one of the two means that Hinton, Vinyals and Dean (2015) distil from.

    Args:
        members: names of the teachers, two or more; none of them an ensemble.
        shares: each member's share in the mean, relative to the others'; equal if not given.

    Raises:
        ConfigError: a member stands there twice or alone, or shares do not fit.
    """

    members: tuple[str, ...]
    shares: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "members", tuple(self.members))
        if len(self.members) < 2 or len(set(self.members)) < len(self.members):
            raise ConfigError(
                f"an ensemble has two members or more, each once; got {', '.join(self.members)}"
            )
        if self.shares is None:
            return
        object.__setattr__(self, "shares", tuple(self.shares))
        if len(self.shares) != len(self.members):
            raise ConfigError(
                f"an ensemble of {len(self.members)} members has {len(self.shares)} shares: give "
                "one to each, or leave shares out"
            )
        if not all(0 < share < math.inf for share in self.shares):
            raise ConfigError(f"shares are numbers above 0, got {list(self.shares)}")

    def weights(self) -> dict[str, float]:
        """Return what each member counts in the mean, by name; they sum up to 1."""
        shares = self.shares or (1.0,) * len(self.members)
        total = sum(shares)
        return {name: share / total for name, share in zip(self.members, shares, strict=True)}


@dataclass(frozen=True)
class MovingAverageTeacher:
    """The student's own moving average as its teacher: the mean teacher of Tarvainen and Valpola.

    It begins as the student and follows it step by step; it is asked with the student's inputs, in
    evaluation mode and without gradients. https://arxiv.org/abs/1703.01780 (2017).

    Args:
        decay: what it keeps of itself an optimizer step, in ``[0, 1)``; in the first steps t no
            more than ``(1 + t) / (10 + t)``.

    Raises:
        ConfigError: the decay is out of bounds.
    """

    decay: float = 0.999

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ConfigError(f"the decay of a moving average is from 0 to below 1: {self.decay}")


def ensembles_of(teachers: Mapping[str, object]) -> dict[str, TeacherEnsemble]:
    """Return those teachers that are ensembles."""
    return {name: each for name, each in teachers.items() if isinstance(each, TeacherEnsemble)}


def check_teachers(names: Collection[str], ensembles: Mapping[str, TeacherEnsemble]) -> None:
    """Refuse names that mean something else, and ensembles whose members are no teachers.

    Raises:
        ConfigError: names the teacher.
    """
    for name in names:
        if name in OWN_NAMES:
            raise ConfigError(f"no teacher can be called {name!r}: {OWN_NAMES[name]}")
    for name, ensemble in ensembles.items():
        for member in ensemble.members:
            if member not in names:
                others = [each for each in names if each not in ensembles]
                raise ConfigError(f"{title_of(name)}: {unknown('member', member, others)}")
            if member in ensembles:
                raise ConfigError(
                    f"{title_of(name)}: its member {member!r} is an ensemble, which cannot be one "
                    "of another: name its members"
                )


def needed(chosen: Iterable[str], ensembles: Mapping[str, TeacherEnsemble]) -> set[str]:
    """Return the teachers that some of them need: themselves, and the members of ensembles."""
    chosen = set(chosen)
    return chosen.union(*(ensembles[name].members for name in chosen if name in ensembles))


def title_of(name: str) -> str:
    """Return what a teacher is called in messages and tables."""
    return TEACHER if name == TEACHER else f"{TEACHER} {name}"
