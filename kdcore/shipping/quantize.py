"""A student of eight bits, quantized after training from its ONNX file."""

import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdcore.data.preprocess import Preprocess
from kdcore.data.source import Source
from kdcore.errors import ModelError
from kdcore.shipping.graph import IMAGE, inputs_at

CALIBRATION = 256
"""So many training samples show in what range activations lie."""

_NORMALISING = ("Cast", "Mul", "Add")
"""What stands between pixels and the student's first layer."""


def calibration_samples(source: Source) -> Tensor:
    """Return the indices of the training samples to calibrate on, spread over all of them."""
    count = min(CALIBRATION, len(source))
    return torch.linspace(0, len(source) - 1, count, dtype=torch.float64).round().long()


def quantize(
    path: Path, to: Path, source: Source, indices: Tensor, image: Preprocess | None
) -> None:
    """Quantize an ONNX file: weights by channel, activations by what training samples show.

    Weights and activations are signed, with nodes that quantize and dequantize around each layer
    (QDQ), which is onnxruntime's own first advice for CPUs. Weights take seven of their eight bits:
    CPUs without VNNI add up products of eight in sixteen bits, which overflow (measured: logits 14
    times further off), and where a file will run is not known. Normalisation stays in 32 bits.

    Args:
        path: the file.
        to: where the quantized one is written, with the same metadata.
        source: training samples.
        indices: of those to calibrate on, ``int64 [samples]``.
        image: how the student wants images; None where it takes something else.

    Raises:
        ModelError: onnxruntime cannot quantize it.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # it has no types
        """Hands training samples out one by one."""

        def __init__(self) -> None:
            self._feeds = _feeds(source, indices, image)

        def get_next(self) -> dict[str, Any] | None:
            """Return the next sample; None after the last."""
            return next(self._feeds, None)

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it advises on preparations that are made here
    try:
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")
            prepared = Path(folder) / "prepared.onnx"
            quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
            excluded = _normalisation(prepared) if image else []
            quantization.quantize_static(
                str(prepared),
                str(to),
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                reduce_range=True,
                activation_type=quantization.QuantType.QInt8,
                weight_type=quantization.QuantType.QInt8,
                nodes_to_exclude=excluded,
            )
    except Exception as error:  # it raises whatever it meets
        reason = (str(error).splitlines() or [""])[0]
        raise ModelError(
            f"int8: onnxruntime cannot quantize this model ({type(error).__name__}: {reason}); "
            "export it without --int8"
        ) from error
    finally:
        logging.disable(before)


def _feeds(source: Source, indices: Tensor, image: Preprocess | None) -> Iterator[dict[str, Any]]:
    for index in indices:
        inputs = inputs_at(source, index.view(1), image)
        yield {name: tensor.numpy() for name, tensor in inputs.by_name().items()}


def _normalisation(path: Path) -> list[str]:
    """Return the names of the nodes of a file that normalise images."""
    import onnx

    graph = onnx.load(str(path)).graph
    found: list[str] = []
    value = IMAGE
    while True:
        users = [node for node in graph.node if value in node.input]
        if len(users) != 1 or users[0].op_type not in _NORMALISING:
            return found
        found.append(users[0].name)
        value = users[0].output[0]
