"""What must be known to use a student beside its weights: its model, its classes, its images.

A card lies beside a run's weights as JSON, and in every file that is made of them as metadata.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open

from kdcore.catalog import own_version
from kdcore.data.prepared import PreparedData
from kdcore.data.preprocess import Preprocess
from kdcore.errors import ModelError
from kdcore.experiment import Experiment
from kdcore.files import write_json

CARD = "student.json"

MARK = "kdcore"
"""What metadata that hold a card have as a key: the version that wrote it."""

READING = "reading"
"""What metadata hold for people alone: how an image is read."""


Weights = Literal["last", "best"]
"""Which of a run's weights: those after the last epoch, or the best on the validation split."""


@dataclass(frozen=True)
class Card:
    """A student's own description.

    Attributes:
        model: its name, as experiments have it.
        output: part of what it returns that is its logits; None where that needs no saying.
        task: the kind of its task.
        outputs: how many classes, or values a sample, it has; None where that is not known.
        classes: names of them, by index; none where they have no names.
        image: how it wants images; None where it is given something else.
        run: what its run is called: what it learned by.
        data: name of the data that it learned from.
        seed: of its run.
        weights: which of the run's it is about.
        scores: of these weights on the test samples, by name.
        origin: where they began.
        kdcore: the version that trained it.
    """

    model: str
    output: str | None
    task: str
    outputs: int | None
    classes: tuple[str, ...]
    image: Preprocess | None
    run: str
    data: str
    seed: int
    weights: Weights
    scores: Mapping[str, float]
    origin: str
    kdcore: str

    @property
    def reading(self) -> str:
        """How an image becomes what the student takes, in words; empty where it takes none."""
        if self.image is None:
            return ""
        return f"RGB, upright, white where it is transparent; {_square(self.image)}"

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Card":
        """Read what `save` wrote.

        Raises:
            ModelError: it is not there, or damaged.
        """
        try:
            return _checked(path.read_text(encoding="utf-8"), str(path))
        except OSError as error:
            raise ModelError(f"{path}: {error.strerror}; it lies in the folder of a run") from None
        except UnicodeDecodeError:
            raise ModelError(f"{path} is no card of a student: it is no text") from None

    def metadata(self) -> dict[str, str]:
        """Return it as files of weights hold it: names as they are, everything else as JSON."""
        values: dict[str, Any] = asdict(self)
        plain = _plain()
        texts = {key: values[key] if key in plain else json.dumps(values[key]) for key in values}
        return {**texts, READING: self.reading}

    @classmethod
    def of_metadata(cls, metadata: Mapping[str, str], where: str) -> "Card | None":
        """Read what `metadata` returned; None where it holds no card.

        Args:
            metadata: by key; others than a card's are left alone.
            where: the file that they were in, for errors.

        Raises:
            ModelError: a card is in it, and damaged.
        """
        if MARK not in metadata:
            return None
        try:
            plain = _plain()
            values = {
                key: metadata[key] if key in plain else json.loads(metadata[key]) for key in KEYS
            }
        except KeyError as error:
            raise _damaged(where, f"{error.args[0]} is missing") from None
        except ValueError:
            raise _damaged(where, "a value is no JSON") from None
        return _checked(json.dumps(values), where)

    @classmethod
    def of_weights(cls, path: Path) -> "Card | None":
        """Return the card that a safetensors file holds; None where it holds none.

        Raises:
            ModelError: the file cannot be read, or its card is damaged.
        """
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
        except (OSError, SafetensorError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ModelError(f"{path} cannot be read: {reason}") from None
        return cls.of_metadata(metadata, str(path))


def card_of(
    experiment: Experiment,
    data: PreparedData,
    run: str,
    seed: int,
    scores: Mapping[str, float],
    *,
    best: bool = False,
    origin: str = "random",
) -> Card:
    """Describe the student of a run.

    Args:
        experiment: of the run.
        data: its data.
        run: what it is called.
        seed: of it.
        scores: of the weights that are described.
        best: whether they are the best on the validation split.
        origin: where they began.
    """
    return Card(
        experiment.student.model,
        experiment.student.output,
        experiment.task.kind,
        data.outputs,
        data.classes,
        data.student_preprocess,
        run,
        data.name,
        seed,
        "best" if best else "last",
        dict(scores),
        origin,
        own_version(),
    )


KEYS = tuple(each.name for each in fields(Card))
"""What metadata that hold a card have as keys."""

_FORM = TypeAdapter(Card)


def _plain() -> frozenset[str]:
    """Return the keys whose values are names, which metadata hold as they are."""
    return frozenset(each.name for each in fields(Card) if each.type in (str, Weights))


def _checked(text: str, where: str) -> Card:
    try:
        card = _FORM.validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"]))
        raise _damaged(where, f"{at}: {first['msg']}" if at else first["msg"]) from None
    if card.classes and len(card.classes) != card.outputs:
        raise _damaged(where, f"{len(card.classes)} classes, {card.outputs} outputs")
    image = card.image
    if image and (min(image.size, image.resize or image.size) < 1 or min(image.std) <= 0):
        raise _damaged(where, "image: no sizes or deviations that can be")
    return card


def _damaged(where: str, what: str) -> ModelError:
    return ModelError(f"{where}: its card is damaged ({what}); export the student again")


def _square(image: Preprocess) -> str:
    sides = "both sides" if image.squash else "the shorter side"
    return (
        f"{sides} scaled to {image.resize or image.size} pixels ({image.interpolation}, "
        f"antialiased), the middle {image.size} x {image.size} cut out"
    )
