"""What an experiment names as ``package.module:callable`` or ``file.py:Class``: importing it."""

import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from kdcore.errors import UserError, unknown


def where_from(name: str) -> str | None:
    """Say what would be imported for a name, None for one of kdcore's own or torchvision's."""
    if found := FILE.fullmatch(name):
        return f"{found['attribute']} from {Path(found['file']).expanduser().absolute()}"
    if ":" not in name:
        return None
    top = name.partition(":")[0].split(".")[0]
    _add_working_folder()
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    return f"{name} from {spec.origin or top}" if spec else None


def imported(name: str, where: str, error: type[UserError]) -> Callable[..., Any]:
    """Import a callable.

    Args:
        name: ``package.module:callable``; looked for in the working folder, too.
        where: what it is for, ``"student"``; begins errors.
        error: what is raised.

    Raises:
        UserError: of the kind given: the module cannot be imported, or has no such callable.
    """
    module_name, _, attribute = name.partition(":")
    _add_working_folder()
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as failure:  # a user's module may fail in any way
        reason = f"{type(failure).__name__}: {failure}"
        raise error(
            f"{where} {name!r} cannot be imported: {reason} (looked for among what is installed "
            f"and in {Path.cwd()})"
        ) from failure
    function = getattr(module, attribute, None)
    if not callable(function):
        names = [key for key in vars(module) if not key.startswith("_")]
        missing = unknown("name", attribute, names)
        file = getattr(module, "__file__", None) or "no file"
        raise error(f"{where}: {module_name} ({file}) has no such callable: {missing}")
    found: Callable[..., Any] = function
    return found


FILE = re.compile(r"(?P<file>.+\.py):(?P<attribute>[A-Za-z_]\w*)")
"""What a strategy in a file is called: ``./my_strategy.py:MyStrategy``."""


def placed(name: str) -> str:
    """Return the name of a strategy in a file by the file's whole path; any other as it is."""
    found = FILE.fullmatch(name)
    if found is None:
        return name
    return f"{Path(found['file']).expanduser().absolute()}:{found['attribute']}"


def from_file(name: str, error: type[UserError]) -> object:
    """Import what a file of Python defines, anew where the file has changed.

    Args:
        name: as `FILE` has it.
        error: what is raised.

    Raises:
        UserError: of the kind given: there is no such file, it fails, or does not define it.
    """
    found = FILE.fullmatch(name)
    assert found is not None  # whoever calls has looked
    file = Path(found["file"]).expanduser().absolute()
    if not file.is_file():
        raise error(f"{name!r}: there is no file {file}")
    # Two files may have one name, and a file may have changed since it was imported.
    digest = hashlib.sha256(str(file).encode() + file.read_bytes()).hexdigest()[:12]
    module_name = f"{file.stem}_{digest}"
    if module_name not in sys.modules:
        try:
            run_file(module_name, file)
        except (Exception, SystemExit) as failure:  # a user's file may fail in any way
            reason = f"{type(failure).__name__}: {failure}"
            raise error(f"{name!r} cannot be imported: {reason}") from failure
    attributes = vars(sys.modules[module_name])
    if found["attribute"] not in attributes:
        names = [key for key in attributes if not key.startswith("_")]
        raise error(f"{name!r}: {unknown('name', found['attribute'], names)}")
    return attributes[found["attribute"]]


def run_file(module_name: str, file: Path) -> None:
    """Import a file as a module of a name; what it imports itself is looked for beside it, too."""
    spec = importlib.util.spec_from_file_location(module_name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise


def files_of(module_name: str) -> dict[str, str]:
    """Return the file of a module that another process would not find by its name, by its name."""
    file = getattr(sys.modules.get(module_name), "__file__", None)
    if file is None or "." in module_name or module_name == "__main__":
        return {}
    return {} if PathFinder.find_spec(module_name) else {module_name: file}


def _add_working_folder() -> None:
    # A console script's path lacks the folder that it is typed in, unlike `python -m`.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
