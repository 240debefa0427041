import hashlib
import importlib.util
from pathlib import Path

import pytest
import torch

from kdcore.errors import ModelError, UserError
from kdcore.files import save_weights
from kdcore.models.tutorial import LightNN
from kdcore.shipping import extras
from kdcore.shipping.formats import open_file
from kdcore.shipping.opened import open_student
from kdcore.shipping.record import Shipment, ShippedFile
from kdcore.shipping.writing import capture, write_onnx, write_torch
from tests.extras import needed
from tests.shipping.models import IMAGE, card, images

onnx = needed("onnx")
needed("onnxscript")
needed("onnxruntime")


def test_weights_alone_are_opened_by_the_model_that_they_name(tmp_path: Path) -> None:
    student = LightNN().eval()
    save_weights(tmp_path / "it.safetensors", student.state_dict(), card().metadata())
    found = open_file(tmp_path / "it.safetensors").run(images(3))
    assert torch.equal(found, open_student(student, card()).run(images(3)))
    assert not found.requires_grad


@pytest.mark.parametrize("model", ["somewhere:model", "os:system"])
def test_weights_that_name_code_are_not_opened_without_their_run(
    model: str, tmp_path: Path
) -> None:
    save_weights(tmp_path / "it.safetensors", {}, card(model=model).metadata())
    with pytest.raises(UserError, match="may not import: give the folder of its run"):
        open_file(tmp_path / "it.safetensors")


def test_files_that_are_none_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "it.txt").write_text("x")
    for name, says in (
        ("none.onnx", "does not exist"),
        ("folder.onnx", "is a folder"),
        ("it.txt", "ends in .onnx, .pt2, .safetensors"),
    ):
        with pytest.raises(UserError, match=says):
            open_file(tmp_path / name)


@pytest.mark.parametrize("ending", ["onnx", "pt2", "safetensors"])
@pytest.mark.parametrize("harm", ["cut", "other", "empty"])
def test_damaged_files_are_refused_in_one_line(
    ending: str, harm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / f"it.{ending}"
    if ending == "safetensors":
        save_weights(file, LightNN().state_dict(), card().metadata())
    else:
        write = write_onnx if ending == "onnx" else write_torch
        write(file, capture(LightNN().eval(), IMAGE, images(2)), card())
    caplog.clear()
    whole = file.read_bytes()
    file.write_bytes({"cut": whole[: len(whole) // 2], "other": b"no file", "empty": b""}[harm])
    with pytest.raises((ModelError, UserError)) as raised:
        open_file(file)
    assert len(str(raised.value).splitlines()) == 1
    assert str(file) in str(raised.value)
    assert caplog.records == []


def test_a_file_that_is_not_the_one_that_was_exported_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "it.safetensors"
    save_weights(file, LightNN().state_dict(), card().metadata())
    shipped = ShippedFile(
        file.name, "safetensors", 1, hashlib.sha256(file.read_bytes()).hexdigest(), 0.0, 1.0, None,
        None, {}, 1.0, 1.0, "PyTorch", {},
    )  # fmt: skip
    Shipment("a", 1, "last", 1, (), {}, 0, "a machine", "0.1", (shipped,)).save(tmp_path)
    open_file(file)
    save_weights(file, LightNN().state_dict(), card().metadata())  # of other weights
    with pytest.raises(ModelError, match="was changed since it was exported"):
        open_file(file)


def test_a_card_that_describes_an_absurd_model_is_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "it.safetensors"
    told = card(outputs=10**13, classes=())
    save_weights(file, LightNN().state_dict(), told.metadata())
    with pytest.raises(ModelError, match=r"the model that its card describes cannot be built"):
        open_file(file)


def test_files_without_a_card_are_refused(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    end = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([node], "g", [value], [end])
    opsets = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.save(model, str(tmp_path / "foreign.onnx"))
    save_weights(tmp_path / "foreign.safetensors", LightNN().state_dict())
    program = torch.export.export(LightNN().eval(), (torch.zeros(2, 3, 32, 32),))
    torch.export.save(program, tmp_path / "foreign.pt2")
    for ending in ("onnx", "safetensors", "pt2"):
        with pytest.raises(UserError, match="holds no card of a student"):
            open_file(tmp_path / f"foreign.{ending}")


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "it.onnx").write_bytes(b"x")
    found = importlib.util.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "onnx" else found(name))
    with pytest.raises(UserError, match=r'needs onnx: pip install "kdcore\[export\]"'):
        open_file(tmp_path / "it.onnx")
