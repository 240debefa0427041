from pathlib import Path

import pytest
import torch

from kdcore.data.images import ArrayImages, LabelledImages
from kdcore.data.source import DatasetSource, ImageSource
from kdcore.errors import ModelError
from kdcore.shipping.formats import open_file
from kdcore.shipping.quantize import CALIBRATION, calibration_samples, quantize
from kdcore.shipping.writing import capture, write_onnx
from tests.extras import needed
from tests.shipping.models import IMAGE, BatchNorm, Words, card, images, lived, pixels

onnx = needed("onnx")
needed("onnxscript")
needed("onnxruntime")


class Told(ArrayImages):
    """Images that tell which of them were read."""

    def __init__(self, count: int) -> None:
        super().__init__(pixels(count))
        self.told: set[int] = set()

    def fitted(self, indices: torch.Tensor, geometry: object) -> torch.Tensor:
        """Remember what is read."""
        self.told |= set(indices.tolist())
        return super().fitted(indices, geometry)  # type: ignore[arg-type]  # a geometry


def _source(data: ArrayImages) -> ImageSource:
    return ImageSource(LabelledImages(data, torch.zeros(len(data)).long(), ("a", "b")), IMAGE)


def test_eight_bits_are_a_quarter_of_the_size_and_nearly_the_student(tmp_path: Path) -> None:
    torch.manual_seed(0)
    student = lived(BatchNorm())
    file, small = tmp_path / "it.onnx", tmp_path / "small.onnx"
    write_onnx(file, capture(student, IMAGE, images(2)), card())
    data = Told(40)
    indices = torch.arange(1, 40, 2)
    source = _source(data)
    data.told.clear()
    quantize(file, small, source, indices, IMAGE)
    assert data.told == set(indices.tolist())
    found, expected = (open_file(each).run(images(9, seed=4)) for each in (small, file))
    difference = float((found - expected).abs().max())
    assert 0 < difference < 0.15 * float(expected.abs().max())
    assert open_file(small).card == card()
    # Weights of convolutions are kept as whole numbers, each filter with a scale of its own.
    graph = onnx.load(str(small)).graph
    kinds = {each.name: each.data_type for each in graph.initializer}
    scales = [each for each in graph.initializer if each.name.startswith("student.second.0.weight")]
    assert any(kinds[each.name] == onnx.TensorProto.INT8 for each in scales)
    assert any(each.dims == [8] for each in scales)


def test_normalisation_stays_in_32_bits(tmp_path: Path) -> None:
    file, small = tmp_path / "it.onnx", tmp_path / "small.onnx"
    write_onnx(file, capture(lived(BatchNorm()), IMAGE, images(2)), card())
    quantize(file, small, _source(ArrayImages(pixels(8))), torch.arange(4), IMAGE)
    graph = onnx.load(str(small)).graph
    (first,) = [node for node in graph.node if "image" in node.input]
    (second,) = [node for node in graph.node if first.output[0] in node.input]
    assert (first.op_type, second.op_type) == ("Cast", "Mul")


def test_students_of_other_samples_are_quantized_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    rows = [
        ({"input_ids": torch.tensor([i % 20, 3]), "attention_mask": torch.tensor([1, 1])}, i % 3)
        for i in range(12)
    ]
    source = DatasetSource(rows, "words", same_every_epoch=True)
    from kdcore.shipping.graph import Inputs

    sample = Inputs.of(source.batch(torch.arange(2)).inputs)
    file, small = tmp_path / "it.onnx", tmp_path / "small.onnx"
    write_onnx(file, capture(Words().eval(), None, sample), card(None))
    quantize(file, small, source, calibration_samples(source), None)
    found, expected = (open_file(each).run(sample) for each in (small, file))
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0)


def test_calibration_samples_are_spread_over_all() -> None:
    few, many = _source(ArrayImages(pixels(5, 4))), _source(ArrayImages(pixels(2000, 4)))
    assert calibration_samples(few).tolist() == [0, 1, 2, 3, 4]
    found = calibration_samples(many)
    assert len(set(found.tolist())) == CALIBRATION
    assert (int(found[0]), int(found[-1])) == (0, 1999)


def test_what_cannot_be_quantized_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "it.onnx"
    file.write_bytes(b"nothing")
    with pytest.raises(ModelError, match="int8: onnxruntime cannot quantize this model") as raised:
        quantize(file, tmp_path / "o.onnx", _source(ArrayImages(pixels(5))), torch.arange(2), IMAGE)
    assert len(str(raised.value).splitlines()) == 1
