import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models

from kdcore.card import Card
from kdcore.errors import ModelError
from kdcore.models.tutorial import LightNN
from kdcore.shipping import writing
from kdcore.shipping.formats import open_file
from kdcore.shipping.graph import Inputs, of_pixels, shipped
from kdcore.shipping.writing import capture, write_onnx, write_torch
from tests.extras import needed
from tests.shipping.models import (
    IMAGE,
    BatchNorm,
    OfOneSize,
    Polygamma,
    Undecided,
    Words,
    card,
    images,
    lived,
    pixels,
)

onnx = needed("onnx")
onnxruntime = needed("onnxruntime")
needed("onnxscript")

STUDENTS: Mapping[str, Callable[[], nn.Module]] = {
    "lightnn": LightNN,
    "batch norm": BatchNorm,
    "mobilenet": lambda: models.mobilenet_v3_small(num_classes=10),
}


@pytest.mark.parametrize(
    "name", ["lightnn", "batch norm", pytest.param("mobilenet", marks=pytest.mark.slow)]
)
def test_files_give_the_students_logits_for_any_number_of_images(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    student = lived(STUDENTS[name]())
    module = shipped(student, IMAGE, ())
    _write(tmp_path, student, images(2), card())
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (IMAGE.mean, IMAGE.std))
    for count in (1, 2, 7, 33):
        given = pixels(count, seed=count)
        with torch.no_grad():
            expected = student((given / 255 - mean) / std)
            wrong = student(given / 255)
            same = module(given)
        assert float(expected.abs().max()) > 0.01  # or differences would say nothing
        of_torch = open_file(tmp_path / "it.pt2").run(of_pixels(given))
        of_onnx = open_file(tmp_path / "it.onnx").run(of_pixels(given))
        torch.testing.assert_close(of_torch, same, atol=1e-6, rtol=0)
        torch.testing.assert_close(of_onnx, expected, atol=1e-4, rtol=0)
        # What another normalisation would give is told apart.
        assert float((wrong - expected).abs().max()) > 1e-3


def test_both_files_hold_the_card(tmp_path: Path) -> None:
    _write(tmp_path, LightNN(), images(2), card())
    assert open_file(tmp_path / "it.pt2").card == card()
    assert open_file(tmp_path / "it.onnx").card == card()
    (given,) = onnx.load(str(tmp_path / "it.onnx")).graph.input
    shape = given.type.tensor_type.shape.dim
    assert given.name == "image"
    assert given.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert shape[0].dim_param == "batch"
    assert [each.dim_value for each in shape[1:]] == [3, 32, 32]


def test_inputs_by_name_keep_their_names(tmp_path: Path) -> None:
    student = Words().eval()
    ids = torch.randint(0, 20, (5, 7), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(7) < torch.tensor([[1], [3], [7], [5], [2]])).long()
    sample = Inputs.of({"input_ids": ids[:2], "attention_mask": mask[:2]})
    _write(tmp_path, student, sample, card(None))
    session = onnxruntime.InferenceSession(str(tmp_path / "it.onnx"))
    assert [each.name for each in session.get_inputs()] == ["input_ids", "attention_mask"]
    assert [each.name for each in session.get_outputs()] == ["logits"]
    for count in (1, 5):
        given = Inputs.of({"input_ids": ids[:count], "attention_mask": mask[:count]})
        with torch.no_grad():
            expected = student(ids[:count], mask[:count])["logits"]
        for file, within in (("it.pt2", 1e-6), ("it.onnx", 1e-4)):
            found = open_file(tmp_path / file).run(given)
            torch.testing.assert_close(found, expected, atol=within, rtol=0)


def test_inputs_by_position_keep_their_order(tmp_path: Path) -> None:
    class Difference(nn.Module):
        def forward(self, one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
            return one - 2 * two

    one, two = torch.tensor([[0.1, 0.2, 0.3]]), torch.tensor([[3.0, 2.0, 1.0]])
    sample = Inputs.of((torch.cat([one, two]), torch.cat([two, one])))
    _write(tmp_path, Difference(), sample, card(None))
    for file in ("it.pt2", "it.onnx"):
        found = open_file(tmp_path / file).run(Inputs.of((one, two)))
        torch.testing.assert_close(found, one - 2 * two)


@pytest.mark.parametrize("student", [OfOneSize(), Undecided()])
def test_a_model_that_cannot_be_exported_is_one_line(
    student: nn.Module, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelError, match=r"torch.export cannot take this model \(\w+: ") as raised:
        capture(student, IMAGE, images(2))
    assert len(str(raised.value).splitlines()) == 1
    assert capfd.readouterr() == ("", "")


def test_what_onnx_has_no_operator_for_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    program = capture(Polygamma(), IMAGE, images(2))
    with pytest.raises(ModelError, match="ONNX cannot take this model") as raised:
        write_onnx(tmp_path / "it.onnx", program, card())
    assert "polygamma" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    assert not (tmp_path / "it.onnx").exists()
    assert capfd.readouterr() == ("", "")


def test_weights_that_one_file_cannot_hold_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(writing, "LARGEST_ONNX", 1000)
    with pytest.raises(ModelError, match="do not fit into one file"):
        write_onnx(tmp_path / "it.onnx", capture(LightNN(), IMAGE, images(2)), card())


def test_what_exporters_warn_of_reaches_nobody(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _write(tmp_path, LightNN(), images(2), card())
    assert not caught
    assert capfd.readouterr() == ("", "")


def _write(folder: Path, student: nn.Module, sample: Inputs, described: Card) -> None:
    program = capture(student.eval(), described.image, sample)
    write_torch(folder / "it.pt2", program, described)
    write_onnx(folder / "it.onnx", program, described)
