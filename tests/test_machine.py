"""The machine is told apart by what decides how long a training takes."""

from pathlib import Path

import pytest
import torch

from kdcore import machine
from kdcore.fingerprint import machine_facts
from kdcore.machine import describe_machine, machine_line, threads_text


@pytest.mark.parametrize(
    ("text", "processor", "instructions"),
    [
        (
            "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx2 amx_bf16\n",
            "Some CPU @ 2 GHz",
            ["avx2", "amx_bf16"],
        ),
        ("processor : 0\nFeatures : fp asimd bf16\n", None, ["asimd", "bf16"]),
        (None, None, []),
    ],
)
def test_the_machine_is_described_also_without_linux(
    text: str | None,
    processor: str | None,
    instructions: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    file = tmp_path / "cpuinfo"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(machine, "Path", lambda _: file)
    found = describe_machine()
    assert found["instructions"] == instructions
    assert found["processor"]
    if processor:
        assert found["processor"] == processor
    assert isinstance(found["cores"], int)
    assert found["cores"] >= 1


def test_the_line_of_a_machine_has_its_threads_and_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu = torch.device("cpu")
    line = machine_line(cpu)
    assert f"{describe_machine()['cores']} cores of {describe_machine()['processor']}" in line
    assert f", {threads_text()}; " in line
    assert f"PyTorch {torch.__version__}" in line
    facts = {**machine_facts(cpu), "threads": 77}
    monkeypatch.setattr(machine, "machine_facts", lambda _: {**facts, "processes": 3})
    assert "77 threads in each of 3 processes; " in machine_line(cpu)


def test_one_thread_is_no_threads() -> None:
    assert [threads_text(count) for count in (1, 2)] == ["1 thread", "2 threads"]
