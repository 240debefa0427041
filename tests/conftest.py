"""What the tests of several modules share."""

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

METHOD = """
from kdcore import Strategy, hookimpl

class Method(Strategy):
    @hookimpl
    def compute_auxiliary_loss(self, student, teacher):
        return (student.logits - teacher.logits).square().mean(1)
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Return a function that puts a distribution on the path, as an installer would.

    It takes the name, the entry points as ``{name: "module:attribute"}``, and by keyword the
    version, what is required, the source of modules (one with a `Method` where none is given),
    and the group. It returns the folder of the metadata.
    """
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    modules: set[str] = set()

    def install(
        name: str,
        entries: Mapping[str, str],
        *,
        version: str = "1.0",
        requires: Sequence[str] = (),
        source: Mapping[str, str] | None = None,
        group: str = "kdcore.strategies",
    ) -> Path:
        info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Summary: the summary of {name}", *(f"Requires-Dist: {r}" for r in requires)]
        (info / "METADATA").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
        points = "".join(f"{key} = {value}\n" for key, value in entries.items())
        (info / "entry_points.txt").write_text(f"[{group}]\n{points}", encoding="utf-8")
        defaults = {value.partition(":")[0]: METHOD for value in entries.values()}
        for module, text in (defaults if source is None else source).items():
            (folder / f"{module}.py").write_text(text, encoding="utf-8")
            modules.add(module)
        importlib.invalidate_caches()
        return info

    yield install
    for module in modules:
        sys.modules.pop(module, None)
