"""Which strategies and wrappers are installed, read from metadata; only what is chosen is imported.

A plugin is code: loading one runs it. Listing does not.
"""

import difflib
import os
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, distributions
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from kdcore.errors import CatalogError, unknown
from kdcore.imports import FILE, placed

STRATEGIES = "kdcore.strategies"
WRAPPERS = "kdcore.wrappers"
BLOCK_VARIABLE = "KDCORE_BLOCK"


@dataclass(frozen=True)
class Origin:
    """The distribution that something comes from; printed as ``name version``."""

    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}".strip()


UNPACKAGED = Origin("not from a package", "")

Found = tuple[EntryPoint, Origin, str, SpecifierSet]
"""An entry point, whose it is, what that says of itself, and the versions of kdcore it needs."""


@dataclass(frozen=True)
class Listing:
    """An installed plugin, as its metadata has it.

    Attributes:
        name: the name that users select it by.
        origin: its distribution and version.
        summary: the distribution's one-line description.
        target: what would be imported, ``module:attribute``.
        needs: the versions of kdcore that it says it works with.
        problem: why it cannot be used, as far as metadata tell; empty where it can.
    """

    name: str
    origin: Origin
    summary: str
    target: str
    needs: str
    problem: str = ""


class Catalog:
    """The installed plugins of one group.

    Args:
        group: entry-point group.
        blocked: names, ``distribution:name`` or files that must not be loaded, beside those of the
            variable KDCORE_BLOCK.

    Raises:
        CatalogError: a blocked name is not installed.
    """

    def __init__(self, group: str = STRATEGIES, blocked: Collection[str] = ()) -> None:
        self.group = group
        environment = os.environ.get(BLOCK_VARIABLE, "")
        self.blocked = {*blocked, *filter(None, re.split(r"[,\s]+", environment))}
        self._found = _discover(group)
        for name in blocked:
            if not FILE.fullmatch(name) and not any(map(self._blocks([name]), self._found)):
                raise CatalogError(f"--no-strategy: {self._unknown(name, offer=False)}")

    def listings(self) -> list[Listing]:
        """Return all installed plugins by name, without importing any."""
        return [
            Listing(
                printable(entry.name),
                origin,
                printable(summary),
                printable(entry.value),
                f"kdcore{needed}",
                self._problem(entry, origin, needed),
            )
            for entry, origin, summary, needed in self._found
        ]

    def usable(self) -> list[str]:
        """Return the names of the plugins that can be used, each once, without importing any."""
        return list(dict.fromkeys(each.name for each in self.listings() if not each.problem))

    def blocks_file(self, name: str) -> bool:
        """Return whether a strategy in a file is blocked, however its path is written."""
        return placed(name) in {placed(each) for each in self.blocked if FILE.fullmatch(each)}

    @staticmethod
    def _blocks(names: Iterable[str]) -> Callable[[Found], bool]:
        """Return what says whether a plugin is among names, of any distribution or of one."""

        def among(found: Found) -> bool:
            entry, origin, *_ = found
            for name in names:
                distribution, _, bare = name.rpartition(":")
                if bare == entry.name and (
                    not distribution or _same(distribution, origin.distribution)
                ):
                    return True
            return False

        return among

    def _problem(self, entry: EntryPoint, origin: Origin, needed: SpecifierSet) -> str:
        if self._blocks(self.blocked)((entry, origin, "", needed)):
            return f"blocked by name ({BLOCK_VARIABLE} or --no-strategy)"
        others = [o for e, o, _, _ in self._found if e.name == entry.name and o != origin]
        if others:
            return f"its name is claimed by {' and '.join(map(str, others))} too"
        return _misfit(entry, needed)

    def load(self, name: str) -> tuple[Any, Origin]:
        """Import the plugin of one name.

        Args:
            name: its name, or ``distribution:name`` where two distributions claim one.

        Raises:
            CatalogError: unknown, blocked, claimed twice, made for another kdcore, or it failed
                while it was imported.
        """
        distribution, _, bare = name.rpartition(":")
        found = [
            item
            for item in self._found
            if item[0].name == bare
            and (not distribution or _same(item[1].distribution, distribution))
        ]
        allowed = [item for item in found if not self._blocks(self.blocked)(item)]
        if bare in self.blocked or (found and not allowed):
            raise CatalogError(f"{name!r} is blocked by name ({BLOCK_VARIABLE} or --no-strategy)")
        found = allowed
        if not found:
            raise self._unknown(name)
        if len(found) > 1:
            claims = " and ".join(str(origin) for _, origin, _, _ in found)
            raise CatalogError(
                f"{bare!r} is claimed by {claims}; say which: {found[0][1].distribution}:{bare}"
            )
        entry, origin, _, needed = found[0]
        if misfit := _misfit(entry, needed):
            raise CatalogError(f"{name!r} ({origin}) cannot be used: {misfit}")
        return _import(entry, origin), origin

    def _unknown(self, name: str, *, offer: bool = True) -> CatalogError:
        kind = self.group.removeprefix("kdcore.").replace("strategies", "strategy").rstrip("s")
        names = [printable(entry.name) for entry, *_ in self._found]
        message = unknown(kind, name, names)
        # Of what is clearly a slip of the finger, the name may be a stranger's package.
        slip = difflib.get_close_matches(name, names, cutoff=0.8)
        if offer and re.fullmatch(r"[A-Za-z0-9_-]+", name) and not slip:
            message += f"; if it exists, install it: pip install kdcore-{name}"
        return CatalogError(message)


def printable(text: str) -> str:
    """Return text from somebody's metadata with what a terminal might obey made visible."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def own_version() -> str:
    """Return the version of the installed kdcore."""
    from kdcore import __version__

    return __version__


def _discover(group: str) -> list[Found]:
    # pluggy's own loading drops the second of two distributions that claim one name in silence.
    found: dict[tuple[str, str], Found] = {}
    for distribution in distributions():
        try:
            read = _read(distribution, group)
        except Exception:  # anything on the path, ours or not, may have metadata of any form
            continue
        for item in read:
            # The first on the path is what Python would import; a shadowed copy is no rival.
            found.setdefault((item[0].name, canonicalize_name(item[1].distribution)), item)
    return sorted(found.values(), key=lambda item: (item[0].name, item[1].distribution))


def _read(distribution: Distribution, group: str) -> list[Found]:
    entries = [entry for entry in distribution.entry_points if entry.group == group]
    if not entries:
        return []
    metadata = distribution.metadata
    name, version = metadata["Name"] or "unnamed", distribution.version or "0"
    origin = Origin(printable(name), printable(version))
    needed = _needed(distribution.requires or [])
    return [(entry, origin, metadata["Summary"] or "", needed) for entry in entries]


def _needed(requires: Iterable[str]) -> SpecifierSet:
    """Return which versions of kdcore a distribution works with."""
    needed = SpecifierSet()
    for line in requires:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if canonicalize_name(requirement.name) == "kdcore" and applies:
            needed &= requirement.specifier
    return needed


def _misfit(entry: EntryPoint, needed: SpecifierSet) -> str:
    """Say why a plugin cannot work here, as far as its metadata tell; empty where it can."""
    if not needed.contains(own_version(), prereleases=True):
        return f"it needs kdcore{needed}, this is kdcore {own_version()}"
    match = EntryPoint.pattern.match(entry.value)
    if match is None or not match["attr"]:
        return f"its entry point {entry.value!r} is not module:attribute"
    return ""


def _same(one: str, other: str) -> bool:
    return canonicalize_name(one) == canonicalize_name(other)


def _import(entry: EntryPoint, origin: Origin) -> Any:
    try:
        return entry.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may well call sys.exit
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CatalogError(
            f"{printable(entry.name)!r} ({origin}) cannot be imported from "
            f"{printable(entry.value)}: {printable(reason)}"
        ) from error
