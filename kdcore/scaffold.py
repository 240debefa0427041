"""The package of a new strategy: files from `templates`, with a name filled in."""

import keyword
import re
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files
from pathlib import Path
from string import Template

import kdcore
from kdcore.catalog import Catalog, own_version
from kdcore.errors import ConfigError, UserError
from kdcore.selection import check_label

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

PLACES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "strategy.py": "src/$module/__init__.py",
    "test_strategy.py": "tests/test_$module.py",
}
"""Where in the package each template goes."""


@dataclass(frozen=True)
class Package:
    """What was written.

    Attributes:
        folder: the package's own.
        module: the file that the method is in.
    """

    folder: Path
    module: Path


def write_package(name: str, parent: Path) -> Package:
    """Write the package ``kdcore-NAME`` into a folder.

    Args:
        name: what the strategy will be selected by: lower-case letters, digits, hyphens.
        parent: the folder that gets the package's own; it is made where it is missing.

    Raises:
        ConfigError: the name cannot be one, or an installed strategy has it.
        UserError: there is something already, or it cannot be written.
    """
    if not NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ConfigError(
            f"{name!r} is no name of a strategy: lower-case letters, digits and single hyphens, "
            "beginning with a letter, such as my-method"
        )
    check_label(name)
    for listing in Catalog().listings():
        if listing.name == name:
            raise ConfigError(f"{name!r} is installed already ({listing.origin}): take another")
    module = f"kdcore_{name.replace('-', '_')}"
    values = {
        "name": name,
        "module": module,
        "cls": _class_name(name),
        "versions": _versions(),
    }
    folder = parent.expanduser() / f"kdcore-{name}"
    texts = {f"src/{module}/py.typed": "", "LICENSE": _licence()}
    for template, place in PLACES.items():
        text = (files("kdcore") / "templates" / f"{template}.txt").read_text(encoding="utf-8")
        texts[Template(place).substitute(values)] = Template(text).substitute(values)
    if folder.exists():
        raise UserError(f"{folder} is there already: take another name or --dir")
    try:
        folder.mkdir(parents=True)
        for place, text in texts.items():
            _write(folder / place, text)
    except OSError as error:
        # A half would be taken for a whole, and be in the way.
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(f"{folder} cannot be written: {error.strerror}") from None
    return Package(folder, folder / "src" / module / "__init__.py")


def _class_name(name: str) -> str:
    """Return a class's name, none that its own module imports or that means something else."""
    found = "".join(part.capitalize() for part in name.split("-"))
    taken = keyword.iskeyword(found) or found in (*kdcore.__all__, "Field", "Tensor")
    return f"{found}Method" if taken else found


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def _versions() -> str:
    """Return which versions of kdcore a package that is written now will work with."""
    major, minor, *_ = own_version().split(".")
    # Before 1.0 a minor version may change the contract.
    following = f"0.{int(minor) + 1}" if major == "0" else f"{int(major) + 1}"
    return f">={major}.{minor},<{following}"


def _licence() -> str:
    """Return the text of the Apache License, as kdcore's own package has it."""
    try:
        text = distribution("kdcore").read_text("licenses/LICENSE")
    except PackageNotFoundError:
        text = None
    if text is None:
        raise UserError("kdcore is not installed as a package, whose licence would be copied")
    return text
