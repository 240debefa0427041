"""Image files in folders of classes: which there are, and what class each is of.

The files are not opened here; splitting and decoding them begins in `load`.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kdcore.errors import DataError

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
PARTS = {"train", "test", "val", "valid", "validation", "dev", "eval"}
UNLABELLED_FOLDER = "unlabelled"
MEANT = {"unlabelled", "unlabeled"}
"""What that folder may be called by mistake, in any case."""

Part = Literal["train", "test"]


@dataclass(frozen=True)
class ListedFile:
    """An image file, its class (None: unlabelled) and its part (None: yet to be split)."""

    path: Path
    label: str | None
    part: Part | None


@dataclass(frozen=True)
class Listing:
    """The files of a data set, none of them opened, and what a user should know about them."""

    root: Path
    files: tuple[ListedFile, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()


def list_folder(root: Path) -> Listing:
    """Find the images below a folder.

    The folder has ``train/`` and ``test/``, each with a folder a class, or it has a folder a
    class itself. All images below a class's folder are of the class. Those below
    ``unlabelled/``, beside either, have no label. What is hidden is left out.

    Raises:
        DataError: there is no such folder, it has neither layout, a class has no images, or
            ``train/`` and ``test/`` have different classes.
    """
    if not root.is_dir():
        found = "is a file" if root.exists() else "does not exist"
        raise DataError(f"data.root: {str(root)!r} {found}; give a folder of images")
    folders = _folders(root)
    extra = [
        ListedFile(path, None, "train")
        for path in (images_below(root / UNLABELLED_FOLDER) if UNLABELLED_FOLDER in folders else [])
    ]
    if misspelt := [name for name in folders if _meant(name) and name != UNLABELLED_FOLDER]:
        raise DataError(
            f"{str(root / misspelt[0])!r}: images without labels belong into "
            f"{UNLABELLED_FOLDER!r}, spelt so; rename the folder"
        )
    named = [name for name in folders if name != UNLABELLED_FOLDER]
    if not {"train", "test"} <= set(named):
        _refuse_half_a_layout(root, named)
        return Listing(root, (*_class_files(root, named, None), *extra), tuple(named))
    classes = _folders(root / "train")
    _refuse_different(root, classes, _folders(root / "test"))
    train = _class_files(root / "train", classes, "train")
    test = _class_files(root / "test", classes, "test")
    ignored = [f"{name}/" for name in named if name not in ("train", "test")]
    notes = [f"not used, being neither train/ nor test/: {some(ignored)}"] if ignored else []
    return Listing(root, (*train, *extra, *test), tuple(classes), tuple(notes))


def some(names: Iterable[str], most: int = 10) -> str:
    """Return the first names, quoted, and how many more there are."""
    quoted = [repr(name) for name in names]
    more = f" and {len(quoted) - most} more" if len(quoted) > most else ""
    return ", ".join(quoted[:most]) + more


def _folders(root: Path) -> list[str]:
    try:
        with os.scandir(root) as entries:
            return sorted(each.name for each in entries if each.is_dir() and not _hidden(each.name))
    except OSError as error:
        raise _unlistable(error) from error


def _meant(name: str) -> bool:
    """Return whether a folder's name says that its images have no labels."""
    return name.lower() in MEANT


def _hidden(name: str) -> bool:
    return name.startswith(".")


def _class_files(root: Path, classes: Sequence[str], part: Part | None) -> list[ListedFile]:
    if not classes:
        raise DataError(
            f"data.root: {str(root)!r} has no folders in it; put the images of each class into a "
            "folder with the class's name"
        )
    found = {name: images_below(root / name) for name in classes}
    if empty := [name for name, paths in found.items() if not paths]:
        raise DataError(
            f"data.root: {str(root)!r} has folders without images: {some(empty)}; fill or remove "
            f"them (images end in {' '.join(ENDINGS)})"
        )
    return [ListedFile(path, name, part) for name in classes for path in found[name]]


def images_below(folder: Path) -> list[Path]:
    """Return the image files below a folder, by their endings, in order; none that is hidden."""
    found: list[Path] = []
    seen: set[Path] = set()
    for at, folders, names in os.walk(folder, onerror=_refuse_unlistable, followlinks=True):
        # A link to a folder above it would never end.
        real = Path(at).resolve()
        folders[:] = [] if real in seen else sorted(each for each in folders if not _hidden(each))
        names = [] if real in seen else names
        seen.add(real)
        found += [
            Path(at, name) for name in names if name.lower().endswith(ENDINGS) and not _hidden(name)
        ]
    return sorted(found, key=Path.as_posix)


def _refuse_unlistable(error: OSError) -> None:
    raise _unlistable(error) from error


def _unlistable(error: OSError) -> DataError:
    return DataError(
        f"cannot list folder {error.filename!r}: {error.strerror}; make it readable or remove it"
    )


def _refuse_half_a_layout(root: Path, named: Sequence[str]) -> None:
    if named and set(named) <= PARTS:
        missing = " and ".join(f"{part}/" for part in ("train", "test") if part not in named)
        raise DataError(
            f"data.root: {str(root)!r} has {some(named)} but no {missing}; name the two parts "
            "train/ and test/, or give a folder of class folders"
        )


def _refuse_different(root: Path, train: Sequence[str], test: Sequence[str]) -> None:
    if meant := sorted(name for name in {*train, *test} if _meant(name)):
        part = "train" if meant[0] in train else "test"
        raise DataError(
            f"{str(root / part / meant[0])!r}: images without labels lie beside train/; move "
            f"the folder to {str(root / UNLABELLED_FOLDER)!r}"
        )
    differences = [
        f"only {part}/ has {some(sorted(only))}"
        for part, only in (("train", set(train) - set(test)), ("test", set(test) - set(train)))
        if only
    ]
    if differences:
        raise DataError(
            f"data.root: train/ and test/ in {str(root)!r} have different classes: "
            f"{' and '.join(differences)}; give both the same class folders"
        )
