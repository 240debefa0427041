from collections.abc import Iterable
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import get_args

import pytest

from kdcore.cli import export, options
from kdcore.errors import ConfigError, UserError
from kdcore.sections import ExportConfig, ExportFormat
from kdcore.shipping.formats import FORMATS, INT8, ONNX, Format, open_file, wanted


@pytest.mark.parametrize(
    ("format_", "largest", "bound"),
    [
        ("onnx", 0.5, 1e-4),
        ("onnx", 9.9, 1e-4),
        ("onnx", 500.0, 5e-3),
        ("torch.export", 0.5, 1e-6),
        ("torch.export", 500.0, 5e-4),
        ("onnx int8", 0.5, None),
    ],
)
def test_the_bound_grows_with_logits_that_32_bits_cannot_tell_apart(
    format_: str, largest: float, bound: float | None
) -> None:
    found = FORMATS[format_].allowed(largest, None)
    assert found == (None if bound is None else pytest.approx(bound))
    assert FORMATS[format_].allowed(largest, 0.25) == (None if bound is None else 0.25)


def test_files_are_written_after_those_that_they_are_made_of() -> None:
    every = ExportConfig(formats=("onnx", "torch"), int8=True)
    assert list(wanted(every)) == list(FORMATS.values())
    names = [each.name for each in wanted(every)]
    assert names.index("onnx") < names.index("onnx int8")
    assert [each.name for each in wanted(ExportConfig(formats=()))] == ["safetensors"]


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (ExportConfig(formats=("torch",)), ["safetensors", "torch.export"]),
        (ExportConfig(formats=("onnx",)), ["safetensors", "onnx"]),
        (ExportConfig(formats=("onnx",), int8=True), ["safetensors", "onnx", "onnx int8"]),
    ],
)
def test_what_is_asked_for_is_written_and_nothing_else(
    config: ExportConfig, names: list[str]
) -> None:
    assert [each.name for each in wanted(config)] == names


def _not_asked_alike(formats: Iterable[Format]) -> set[str]:
    """Return what experiments can ask for and no format is, or the other way round."""
    every = [each.option for each in formats if each.option]
    assert len(set(every)) == len(every)
    return {*get_args(ExportFormat), "int8"} ^ set(every)


def test_experiments_can_ask_for_the_formats_that_there_are() -> None:
    assert not _not_asked_alike(FORMATS.values())
    assert [each.name for each in FORMATS.values() if not each.option] == ["safetensors"]
    other = replace(ONNX, option="other")  # the control
    assert _not_asked_alike([*FORMATS.values(), other]) == {"other"}
    assert _not_asked_alike([each for each in FORMATS.values() if each is not INT8]) == {"int8"}


def test_commands_can_ask_for_every_format() -> None:
    asked = [each.option for each in FORMATS.values() if each.option]
    flags = signature(export.command).parameters
    for option in asked:
        assert any(each.split("_")[0] == option for each in flags), option
    keys = options.export_keys(",".join(asked))
    assert keys == {"export.formats": ["torch", "onnx"], "export.int8": True}
    with pytest.raises(ConfigError, match=r"^--export tflite: unknown format .*int8, onnx, torch"):
        options.export_keys("tflite")


def test_a_file_of_an_unknown_ending_is_told_those_that_are_known(tmp_path: Path) -> None:
    file = tmp_path / "student.tflite"
    file.touch()
    with pytest.raises(UserError, match=r"ends in \.onnx, \.pt2, \.safetensors$"):
        open_file(file)
