"""What `kdcore` exports: one list, told three times, and free of PyTorch until it is used."""

import ast
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import kdcore

SOURCE = Path(inspect.getsourcefile(kdcore) or "")
HEAVY = ("torch", "torchvision", "numpy", "pydantic", "matplotlib", "sklearn", "scipy")


def _declared() -> dict[str, str]:
    """Return the names of the TYPE_CHECKING block, each with its module."""
    declared: dict[str, str] = {}
    for node in ast.parse(SOURCE.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for statement in node.body:
                assert isinstance(statement, ast.ImportFrom)
                for alias in statement.names:
                    # `X as X` is what tells a type checker that a name is exported again.
                    assert alias.asname == alias.name
                    declared[alias.name] = str(statement.module)
    return declared


def _loaded_by(statement: str) -> set[str]:
    """Return the modules that a fresh interpreter has after one statement."""
    code = f"{statement}; import sys; print('\\n'.join(sys.modules))"
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    return set(run.stdout.split())


def test_type_checkers_are_told_the_names_that_are_exported() -> None:
    assert sorted(_declared()) == [name for name in kdcore.__all__ if name != "__version__"]
    assert list(kdcore.__all__) == sorted(set(kdcore.__all__))


def test_every_exported_name_is_what_type_checkers_are_told() -> None:
    for name, module in _declared().items():
        assert getattr(kdcore, name) is getattr(import_module(module), name)


def test_dir_lists_what_is_exported() -> None:
    assert dir(kdcore) == list(kdcore.__all__)


def test_every_exported_class_and_function_is_documented() -> None:
    for name in kdcore.__all__:
        found = getattr(kdcore, name)
        if inspect.isclass(found) or inspect.isfunction(found):
            assert found.__doc__, name


def test_a_star_import_gives_what_is_exported() -> None:
    names: dict[str, object] = {}
    exec("from kdcore import *", names)
    assert set(names) - {"__builtins__"} == set(kdcore.__all__)


@pytest.mark.parametrize("name", ["Distilller", "ensemble_", "_HOMES_", "__wrapped__"])
def test_any_other_name_is_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match=f"module 'kdcore' has no attribute '{name}'"):
        getattr(kdcore, name)


def test_the_version_is_that_of_the_distribution() -> None:
    project = (SOURCE.parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert f'\nversion = "{kdcore.__version__}"\n' in project


@pytest.mark.parametrize("module", ["kdcore", "kdcore.errors", "kdcore.catalog", "kdcore.cli.main"])
def test_what_must_start_at_once_imports_nothing_heavy(module: str) -> None:
    loaded = _loaded_by(f"import {module}")
    assert module in loaded
    assert loaded.isdisjoint(HEAVY)


def test_listing_the_strategies_imports_nothing_heavy_and_no_strategy() -> None:
    loaded = _loaded_by("from kdcore.catalog import Catalog; Catalog().listings()")
    assert loaded.isdisjoint(HEAVY)
    assert not [name for name in loaded if name.startswith("kdcore_")]


def test_a_name_that_needs_pytorch_imports_it_when_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text("raise RuntimeError('PyTorch was imported')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "kdcore.errors" in _loaded_by("from kdcore import KdcoreError")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        _loaded_by("from kdcore import Distiller")
    assert "PyTorch was imported" in caught.value.stderr
