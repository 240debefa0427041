import importlib.util

import pytest

from kdcore.errors import UserError
from kdcore.sections import ExportConfig
from kdcore.shipping import extras
from kdcore.shipping.extras import check_onnx
from kdcore.shipping.formats import check_formats


def _without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name in missing else real("json"))


def test_missing_libraries_are_named_with_how_to_install_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _without(monkeypatch, "onnx", "onnxruntime")
    with pytest.raises(UserError) as raised:
        check_onnx("--onnx")
    expected = (
        '--onnx needs onnx and onnxruntime: pip install "kdcore[export]", or in a clone '
        "uv sync --extra export"
    )
    assert str(raised.value) == expected
    with pytest.raises(UserError, match="export needs onnx"):
        check_formats(ExportConfig())


def test_what_needs_none_asks_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    _without(monkeypatch, "onnx")
    check_formats(ExportConfig(formats=("torch",)))
    _without(monkeypatch)
    check_formats(ExportConfig(int8=True))
