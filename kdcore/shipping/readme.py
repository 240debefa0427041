"""The model card beside a student's files: what it is, and how an image is read for it."""

from collections.abc import Sequence

from kdcore.card import Card
from kdcore.data.preprocess import Preprocess
from kdcore.shipping.graph import Inputs
from kdcore.shipping.record import Shipment, ShippedFile
from kdcore.tasks import Metric

README = "README.md"

SHOWN_CLASSES = 20

READER = '''\
import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def read_image(path):
    """Return an image file as the model takes it: uint8 [1, 3, {size}, {size}]."""
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file)
    if image.mode.startswith("I"):  # 16 bits
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        page = Image.new("RGBA", image.size, "white")
        page.alpha_composite(image.convert("RGBA"))
        image = page
    image = image.convert("RGB")
{scaling}
    left, top = round((image.width - {size}) / 2), round((image.height - {size}) / 2)
    image = image.crop((left, top, left + {size}, top + {size}))
    return np.asarray(image).transpose(2, 0, 1)[np.newaxis]


session = onnxruntime.InferenceSession("{file}")
{names}for path in sys.argv[1:]:
    (logits,) = session.run(None, {{"image": read_image(path)}})
{shown}
'''

_SQUASHED = "    image = image.resize(({shorter}, {shorter}), Image.Resampling.{interpolation})"

_SCALED = """\
    width, height = ({shorter} * side // min(image.size) for side in image.size)
    image = image.resize((width, height), Image.Resampling.{interpolation})"""

_CLASSES = """\
    probabilities = np.exp(logits[0] - logits[0].max())
    probabilities /= probabilities.sum()
    for place in probabilities.argsort()[::-1][:3]:
        print(f"{path}: {names[place]} {probabilities[place]:.1%}")"""

_LABELS = """\
    for name, logit in zip(names, logits[0]):
        print(f"{path}: {name} {1 / (1 + np.exp(-logit)):.1%}")"""

_NAMES = """\
names = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
"""

_VALUES = """\
    print(f"{path}: {logits[0].tolist()}")"""


def readme(card: Card, shipment: Shipment, sample: Inputs) -> str:
    """Return the model card as Markdown.

    Args:
        card: of the student.
        shipment: its files.
        sample: what it is given.
    """
    parts = [
        f"# {card.model}, trained on {card.data}",
        _about(card, shipment),
        "## Files\n\n" + _table(shipment),
        "## What it is given\n\n" + _inputs(card, sample),
        "## What it returns\n\n" + _outputs(card),
    ]
    onnx = [file.name for file in shipment.files if file.name.endswith(".onnx")]
    if onnx and card.image is not None:
        parts.append("## How an image is read\n\n" + _reading(card, card.image, onnx[0]))
    parts.append("## Metadata\n\n" + _metadata())
    return "\n\n".join(parts) + "\n"


def _about(card: Card, shipment: Shipment) -> str:
    learned = "its labels alone" if card.run == "student" else f"`{card.run}`"
    which = "best on the validation split" if card.weights == "best" else "of the last epoch"
    known = [each for each in shipment.metrics if each.name in shipment.scores]
    scores = ", ".join(each.text(shipment.scores[each.name]) for each in known)
    return "\n".join(
        [
            f"- task: {card.task}",
            f"- learned from {card.data} by {learned}, seed {card.seed}; weights {which}",
            f"- its weights began: {card.origin}",
            f"- on {shipment.samples} test samples: {scores or 'no scores'}",
            f"- trained by kdcore {card.kdcore}, exported by kdcore {shipment.kdcore}",
        ]
    )


def _table(shipment: Shipment) -> str:
    scores = [each for each in shipment.metrics if each.name in shipment.scores]
    head = ["file", "bytes", "largest difference of a logit", "same class (%)"]
    head += [each.heading for each in scores]
    head += ["ms a sample", "95 % within (ms)", "run by"]
    rows = [
        "| " + " | ".join(head) + " |",
        "|---" + "|---:" * (len(head) - 2) + "|---|",
        *(_row(file, scores) for file in shipment.files),
    ]
    note = (
        "Differences are to the student in PyTorch, whose largest logit on these samples is "
        f"{shipment.files[0].largest_logit:.3g}. Times are of one sample at a time on "
        f"{shipment.machine}."
    )
    if shipment.calibrated_on:
        note += (
            f" The file of eight bits was calibrated on {shipment.calibrated_on} training samples; "
            "it is not equal to the student, its scores say what that costs."
        )
    return "\n".join(rows) + "\n\n" + note


def _row(file: ShippedFile, scores: Sequence[Metric]) -> str:
    agreement = "–" if file.agreement is None else f"{file.agreement:.2f}"
    cells = [
        f"`{file.name}`",
        f"{file.bytes:,}",
        f"{file.max_difference:.1e}",
        agreement,
        *(format(file.scores[each.name], each.form) for each in scores),
        f"{file.latency_p50_ms:.2f}",
        f"{file.latency_p95_ms:.2f}",
        file.runtime,
    ]
    return "| " + " | ".join(cells) + " |"


def _inputs(card: Card, sample: Inputs) -> str:
    if card.image:
        size = card.image.size
        return (
            f"ONNX and torch.export: `image`, uint8 `[batch, 3, {size}, {size}]`, any number of "
            "images at a time. Normalisation is inside. An image is read so: "
            f"{card.reading}.\n\n`student.safetensors` holds the weights of `{card.model}` "
            "itself, which is given the same normalised: values from 0 to 1, minus "
            f"{_list(card.image.mean)}, divided by {_list(card.image.std)}."
        )
    lines = [
        f"- `{name}`: {str(each.dtype).removeprefix('torch.')} `[batch"
        + "".join(f", {side}" for side in each.shape[1:])
        + "]`"
        for name, each in sample.by_name().items()
    ]
    return "Any number of samples at a time:\n\n" + "\n".join(lines)


def _list(values: tuple[float, float, float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"


def _outputs(card: Card) -> str:
    what = {
        "classification": "the largest is of the class that it takes the sample for; softmax "
        "makes probabilities of them",
        "multi-label": "the sigmoid of each is the probability of its label",
        "regression": "the values themselves",
    }.get(card.task, "before any softmax")
    said = f"`logits`, float32 `[batch, {card.outputs or '...'}]`: {what}."
    if card.task not in ("classification", "multi-label", "regression"):
        said = f"`logits`, float32: {what}."
    if not card.classes:
        return said
    shown = ", ".join(f"{place} {name}" for place, name in enumerate(card.classes[:SHOWN_CLASSES]))
    more = len(card.classes) - SHOWN_CLASSES
    return f"{said}\n\nBy index: {shown}" + (f" and {more} more" if more > 0 else "") + "."


def _reading(card: Card, image: Preprocess, file: str) -> str:
    scaling = (_SQUASHED if image.squash else _SCALED).format(
        shorter=image.resize or image.size, interpolation=image.interpolation.upper()
    )
    shown = {"classification": _CLASSES, "multi-label": _LABELS}.get(card.task)
    names = _NAMES if shown and card.classes else ""
    code = READER.format(
        size=image.size,
        scaling=scaling,
        file=file,
        names=names,
        shown=shown if shown and names else _VALUES,
    )
    return (
        "`pip install numpy pillow onnxruntime`, and run this beside the file with names of image "
        "files behind it. Pillow and PyTorch, which the student was trained with, round the values "
        "of scaled images differently here and there, by 1 of 255; images that need no scaling are "
        f"the same.\n\n```python\n{code}```"
    )


def _metadata() -> str:
    return (
        "Each file says what is written here: safetensors and ONNX in their metadata, "
        "torch.export in its extra files. `classes` and `image` (size, scaling, mean and "
        "deviation) are JSON."
    )
