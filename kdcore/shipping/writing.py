"""Writing a student: ``torch.export`` and ONNX, each with any number of samples at a time.

Safetensors are written by `kdcore.files`. What is written is proven elsewhere, in `verify`.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import torch
from torch import nn
from torch.export import ExportedProgram

from kdcore.card import Card
from kdcore.data.preprocess import Preprocess
from kdcore.errors import ModelError
from kdcore.shipping.extras import without_logs
from kdcore.shipping.graph import LOGITS, Inputs, shipped

LARGEST_ONNX = 2_000_000_000
"""Bytes of weights that one ONNX file may hold: its format ends at 2 GiB."""


def capture(student: nn.Module, image: Preprocess | None, sample: Inputs) -> ExportedProgram:
    """Record what a student computes, with any number of samples.

    Args:
        student: the student.
        image: how it wants images; None where it takes something else.
        sample: two or more samples.

    Raises:
        ModelError: PyTorch cannot export it.
    """
    batch = {0: torch.export.Dim("batch", min=1)}
    module = shipped(student, image, sample.names)
    with _exporting("torch.export"):
        return torch.export.export(
            module,
            sample.positional,
            dict(sample.named),
            dynamic_shapes=dict.fromkeys(sample.names, batch),
        )


def write_torch(path: Path, program: ExportedProgram, card: Card) -> None:
    """Write a student as ``torch.export`` does, with its card as extra files.

    Args:
        path: of the file, which ends in ``.pt2``.
        program: what `capture` recorded.
        card: of the student.

    Raises:
        ModelError: PyTorch cannot write it.
    """
    with _exporting("torch.export"):
        torch.export.save(program, path, extra_files=card.metadata())


def write_onnx(path: Path, program: ExportedProgram, card: Card) -> None:
    """Write a student as one ONNX file, with its card as metadata.

    Args:
        path: of the file.
        program: what `capture` recorded.
        card: of the student.

    Raises:
        ModelError: ONNX has no such operators, or it is too large for one file.
    """
    weights = sum(each.numel() * each.element_size() for each in program.state_dict.values())
    if weights > LARGEST_ONNX:
        raise ModelError(
            f"ONNX: weights of {weights / 2**30:.1f} GiB do not fit into one file, which holds "
            "2 GiB; export with --torch-export"
        )
    with _exporting("ONNX"):
        written = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            output_names=[LOGITS],
            # They are in the program; this is for their name alone.
            dynamic_shapes={name: {0: "batch"} for name in program.graph_signature.user_inputs},
        )
        assert written is not None
        written.model.metadata_props.update(card.metadata())
        written.save(path, external_data=False)


@contextmanager
def _exporting(what: str) -> Iterator[None]:
    """Keep what exporters print to themselves, and say in one line why they fail."""
    try:
        # What they warn of is their own insides, which users cannot mend.
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            with torch.no_grad(), without_logs(logging.WARNING):
                yield
    except Exception as error:  # a model may do anything that an exporter does not know
        raise ModelError(
            f"{what} cannot take this model ({_reason(error)}); safetensors hold it in any case"
        ) from error


def _reason(error: BaseException) -> str:
    """Return the first line that says why, of the error that it began with."""
    first = error
    while first.__cause__ is not None:
        first = first.__cause__
    lines = [line.strip() for line in str(first).splitlines() if line.strip()]
    return f"{type(first).__name__}: {lines[0]}" if lines else type(first).__name__
