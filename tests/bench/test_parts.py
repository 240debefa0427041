"""Hooks that compute nothing, and whether a command imports PyTorch."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdcore.bench import parts
from kdcore.bench.work import Settings
from kdcore.errors import RunError
from kdcore.hooks import HookCaller, Member


def _said(code: str, *arguments: str, path: Path | None = None) -> str:
    environment = {} if path is None else {"PYTHONPATH": str(path)}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stderr


def test_a_command_that_imports_pytorch_is_told_from_one_that_does_not(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("")
    assert _said(parts.START, "--version") == "without torch"
    assert _said(f"import torch\n{parts.START}", "--version", path=tmp_path) == "with torch"


def test_start_up_is_told_in_seconds_and_beside_python_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = SimpleNamespace(returncode=0, stderr="with torch\n")
    monkeypatch.setattr("subprocess.run", lambda *_, **__: said)
    results = parts.startup(Settings(repeats=2))
    assert [result.what for result in results] == [
        "kdcore --help (with torch)",
        "kdcore strategies (with torch)",
    ]
    assert all(result.facts["torch_imported"] is True for result in results)
    assert all(len(result.values) == 2 for result in results)
    said.returncode, said.stderr = 2, "error: it broke"
    with pytest.raises(RunError, match=r"kdcore --help failed with exit code 2: error: it broke"):
        parts.startup(Settings(repeats=1))


def test_hooks_are_asked_as_often_as_is_divided_by(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    ask = HookCaller.compute_auxiliary_loss

    def counting(hooks: HookCaller, member: Member, **rest: Any) -> object:
        asked.append(member.label)
        return ask(hooks, member, **rest)

    def timed(work: Callable[[], object]) -> float:
        work()
        return 1.0

    monkeypatch.setattr(parts, "CALLS", 5)
    monkeypatch.setattr(HookCaller, "compute_auxiliary_loss", counting)
    monkeypatch.setattr(parts, "timed", timed)
    result = parts.dispatch(Settings(repeats=1))
    # Three strategies, five steps; a round goes before the one that counts.
    assert asked == ["constant0", "constant1", "constant2"] * 5 * 2
    assert result.values == [0.2e6]
