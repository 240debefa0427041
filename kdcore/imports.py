"""What an experiment names as ``package.module:callable``: where it is, and importing it."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdcore.errors import UserError, unknown


def where_from(name: str) -> str | None:
    """Say what would be imported for a name, None for one of kdcore's own or torchvision's."""
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


def _add_working_folder() -> None:
    # A console script's path lacks the folder that it is typed in, unlike `python -m`.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
