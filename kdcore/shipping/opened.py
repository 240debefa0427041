"""Exported files as they are used: opened anew, and run on samples."""

import hashlib
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdcore.card import KEYS, Card
from kdcore.errors import ModelError, UserError
from kdcore.machine import threads_text
from kdcore.models.build import build_model
from kdcore.sections import ModelConfig
from kdcore.shipping.extras import check_onnx, without_logs
from kdcore.shipping.graph import Inputs, shipped
from kdcore.shipping.record import EXPORT, Shipment


@dataclass(frozen=True)
class Opened:
    """A student that can be run.

    Attributes:
        card: its card.
        run: gives logits, on the CPU, of samples: images are ``uint8 [batch, 3, size, size]``.
        runtime: what runs it, with its version and threads.
    """

    card: Card
    run: Callable[[Inputs], Tensor]
    runtime: str


def check_unchanged(path: Path) -> None:
    """Refuse a file that is not the one of its name that was written and held to the student."""
    shipment = Shipment.load(path.parent)
    known = {each.name: each.sha256 for each in shipment.files} if shipment else {}
    own = known.get(path.name)
    if own is not None and own != hashlib.sha256(path.read_bytes()).hexdigest():
        raise ModelError(
            f"{path} was changed since it was exported: {EXPORT} beside it has another hash; "
            "export the student again"
        )


def open_onnx(path: Path) -> Opened:
    """Open an ONNX file in a session of its own."""
    check_onnx(str(path))
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
    except Exception as error:  # it has a type a status, none of which is public
        raise ModelError(f"{path} cannot be opened by onnxruntime: {_first_line(error)}") from None
    card = _known(Card.of_metadata(session.get_modelmeta().custom_metadata_map, str(path)), path)

    def run(inputs: Inputs) -> Tensor:
        values = {name: tensor.numpy() for name, tensor in inputs.by_name().items()}
        return torch.from_numpy(session.run(None, values)[0])

    return Opened(card, run, f"onnxruntime {onnxruntime.__version__}, {threads_text()}")


def open_torch(path: Path) -> Opened:
    """Open a file of ``torch.export``."""
    extra: dict[str, Any] = dict.fromkeys(KEYS, "")
    try:
        with without_logs(logging.CRITICAL), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch's own insides
            program = torch.export.load(path, extra_files=extra)
            module = program.module()
    except Exception as error:  # what it raises on a file that is something else is not documented
        raise ModelError(f"{path} cannot be opened by torch.export: {_first_line(error)}") from None
    found = {
        key: value.decode() if isinstance(value, bytes) else value
        for key, value in extra.items()
        if value
    }
    card = _known(Card.of_metadata(found, str(path)), path)
    return Opened(card, _without_gradients(module), _pytorch())


def open_weights(path: Path) -> Opened:
    """Build the model that a safetensors file names; one of kdcore's own or of a library's."""
    card = _known(Card.of_weights(path), path)
    if ":" in card.model or card.image is None:
        raise UserError(
            f"{path} names {card.model!r}, which files of weights may not import: give the folder "
            "of its run, or an .onnx or .pt2 file of it"
        )
    config = ModelConfig(model=card.model, output=card.output, weights=path)
    try:
        student = build_model(config, card.outputs, card.image.size, str(path))
    except (RuntimeError, MemoryError) as error:  # such as room for a layer of absurd width
        raise ModelError(
            f"{path}: the model that its card describes cannot be built: {_first_line(error)}; "
            "export the student again"
        ) from None
    return open_student(student, card)


def open_student(student: torch.nn.Module, card: Card, names: Sequence[str] = ()) -> Opened:
    """Take a student as PyTorch runs it.

    Args:
        student: the student.
        card: its card.
        names: what its inputs are called, in order, where they are no images.
    """
    return Opened(card, _without_gradients(shipped(student, card.image, names)), _pytorch())


def _without_gradients(module: Callable[..., Any]) -> Callable[[Inputs], Tensor]:
    def run(inputs: Inputs) -> Tensor:
        with torch.no_grad():
            return inputs.run(module)

    return run


def _known(card: Card | None, path: Path) -> Card:
    if card is None:
        raise UserError(
            f"{path} holds no card of a student, so that its classes and images are not known: "
            "give a file that kdcore export wrote"
        )
    return card


def _pytorch() -> str:
    return f"PyTorch {torch.__version__}, {threads_text()}"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
