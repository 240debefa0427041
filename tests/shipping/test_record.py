from dataclasses import replace
from pathlib import Path

import pytest

from kdcore.shipping.record import EXPORT, Shipment, ShippedFile
from kdcore.tasks import Classification

FILE = ShippedFile(
    "student.onnx",
    "onnx",
    2048,
    "0" * 64,
    2.5e-6,
    7.25,
    1e-4,
    99.5,
    {"accuracy": 91.25, "macro-F1": 90.5},
    0.125,
    0.25,
    "onnxruntime 1.20.0, 2 threads",
    {"onnx": "1.17", "opset": "20"},
)
SHIPMENT = Shipment(
    "logits",
    7,
    "best",
    120,
    Classification.metrics,
    {"accuracy": 91.5, "macro-F1": 91.0},
    0,
    "a machine",
    "0.1.0",
    (FILE, replace(FILE, name="student.int8.onnx", format="onnx int8", bound=None)),
)


def test_a_record_comes_back(tmp_path: Path) -> None:
    SHIPMENT.save(tmp_path)
    assert Shipment.load(tmp_path) == SHIPMENT


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[1]", b'{"run": 3}'])
def test_what_is_no_record_is_none(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / EXPORT).write_bytes(content)
    assert Shipment.load(tmp_path) is None


def test_lines_say_size_difference_scores_and_latency() -> None:
    first, second = SHIPMENT.lines()
    assert first == (
        "student.onnx       2.0 KiB; largest difference 2.5e-06 of logits to 7.25; accuracy "
        "91.25 %; macro-F1 90.50 %; 0.12 ms, p95 0.25 ms (onnxruntime 1.20.0, 2 threads)"
    )
    assert "agrees in 99.50 %" in second
