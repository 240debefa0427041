import pytest

from kdcore.sections import ExportConfig
from kdcore.shipping.formats import FORMATS, wanted


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
