"""The formats that a student is exported in: all that there is of one stands in its `Format`.

How a file is written is in `writing` and `quantize`, how it is run in `opened`; whether it gives
what the student gives is found out in `verify`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn
from torch.export import ExportedProgram

from kdcore.card import Card
from kdcore.data.source import Source
from kdcore.errors import UserError
from kdcore.files import save_weights
from kdcore.sections import ExportConfig
from kdcore.shipping.extras import check_onnx
from kdcore.shipping.graph import inputs_at
from kdcore.shipping.opened import Opened, check_unchanged, open_onnx, open_torch, open_weights
from kdcore.shipping.quantize import calibration_samples, quantize
from kdcore.shipping.writing import capture, write_onnx, write_torch


@dataclass(frozen=True)
class Draft:
    """What the files of a student are written from.

    Attributes:
        student: the student, in evaluation mode.
        card: of it.
        train: its training samples.
        folder: where the files are written.
        note: hears what is done.
        things: what samples are called.
    """

    student: nn.Module
    card: Card
    train: Source
    folder: Path
    note: Callable[[str], None]
    things: str = "images"

    @cached_property
    def program(self) -> ExportedProgram:
        """What the student computes, recorded when it is first asked for.

        Raises:
            ModelError: PyTorch cannot export it.
        """
        two = inputs_at(self.train, torch.arange(2) % len(self.train), self.card.image)
        return capture(self.student, self.card.image, two)


def _write_weights(path: Path, draft: Draft) -> None:
    save_weights(path, draft.student.state_dict(), draft.card.metadata())


def _write_torch(path: Path, draft: Draft) -> None:
    write_torch(path, draft.program, draft.card)


def _write_onnx(path: Path, draft: Draft) -> None:
    write_onnx(path, draft.program, draft.card)


def _write_int8(path: Path, draft: Draft) -> None:
    indices = calibration_samples(draft.train)
    draft.note(f"quantizing, calibrated on {len(indices)} training {draft.things}")
    quantize(draft.folder / ONNX.file, path, draft.train, indices, draft.card.image)


@dataclass(frozen=True)
class Format:
    """A format that a student is exported in.

    Attributes:
        name: as records have it.
        option: as users ask for it; empty for the one that is always written.
        file: what the student's file is called.
        write: writes the file; those of earlier formats are there.
        open: opens it, to be run; raises `UserError` of one that is damaged or holds no card.
        libraries: what writes it.
        bound: how far a logit may be from the student's; None where that is not asked.
        share: the same as a share of the student's largest logit, where that is more: numbers of
            32 bits have seven digits, so that of logits of a thousand a millionth cannot be told.
        onnx: whether it is ONNX, whose libraries kdcore does not need for anything else.
    """

    name: str
    option: str
    file: str
    write: Callable[[Path, Draft], None]
    open: Callable[[Path], Opened]
    libraries: tuple[str, ...]
    bound: float | None
    share: float = 0.0
    onnx: bool = False

    @property
    def ending(self) -> str:
        """How names of its files end."""
        return Path(self.file).suffix

    def allowed(self, largest_logit: float, tolerance: float | None) -> float | None:
        """Return how far a file's logits may be from the student's; None where that is not asked.

        Args:
            largest_logit: the student's, without its sign.
            tolerance: what a user set in place of the bound.
        """
        if self.bound is None:
            return None
        return max(self.bound, self.share * largest_logit) if tolerance is None else tolerance

    def check(self, what: str) -> None:
        """Refuse what needs the format where its libraries are missing.

        Args:
            what: begins the error.

        Raises:
            UserError: names those that are missing, and how to install them.
        """
        if self.onnx:
            check_onnx(what)

    def versions(self, path: Path) -> dict[str, str]:
        """Return what wrote a file, by name; of ONNX also the version of its operators."""
        found = {name: version(name) for name in self.libraries}
        if self.onnx:
            import onnx

            model = onnx.load(str(path), load_external_data=False)
            opset = next(each.version for each in model.opset_import if not each.domain)
            found["opset"] = str(opset)
        return found


SAFETENSORS = Format(
    "safetensors",
    "",
    "student.safetensors",
    _write_weights,
    open_weights,
    ("safetensors",),
    bound=1e-6,
    share=1e-6,
)
TORCH = Format(
    "torch.export",
    "torch",
    "student.pt2",
    _write_torch,
    open_torch,
    ("torch",),
    bound=1e-6,
    share=1e-6,
)
ONNX = Format(
    "onnx",
    "onnx",
    "student.onnx",
    _write_onnx,
    open_onnx,
    ("torch", "onnx", "onnxscript"),
    bound=1e-4,
    share=1e-5,
    onnx=True,
)
INT8 = Format(
    "onnx int8",
    "int8",
    "student.int8.onnx",
    _write_int8,
    open_onnx,
    ("torch", "onnx", "onnxscript", "onnxruntime"),
    bound=None,
    onnx=True,
)
FORMATS = {each.name: each for each in (SAFETENSORS, TORCH, ONNX, INT8)}
"""By name, in the order in which they are written."""


def wanted(config: ExportConfig) -> Iterator[Format]:
    """Go through the formats that are asked for; the weights themselves always are."""
    asked = ("", *config.options)
    return (each for each in FORMATS.values() if each.option in asked)


def check_formats(config: ExportConfig) -> None:
    """Refuse formats whose libraries are missing, before anything is trained for them.

    Raises:
        UserError: names those that are missing, and how to install them.
    """
    for each in wanted(config):
        each.check("export")


def open_file(path: Path) -> Opened:
    """Open an exported file, by its ending.

    A ``.pt2`` file holds a program, which runs as code does. Where ``export.json`` lies beside a
    file, it must be the one that was exported.

    Raises:
        UserError: it does not exist, is of another kind, damaged, changed, or holds no card.
    """
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"{path} {found}; give a file that kdcore export wrote")
    # Of those with one ending the first stays: quantized ONNX is opened as any ONNX is.
    by_ending = {each.ending: each for each in reversed(FORMATS.values())}
    if path.suffix not in by_ending:
        raise UserError(f"{path}: expected a file that ends in {', '.join(by_ending)}")
    check_unchanged(path)
    return by_ending[path.suffix].open(path)
