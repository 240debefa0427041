"""Image files named in a CSV file: which there are, and what class each is of.

The images are not opened here; splitting and decoding them begins in `load`.
"""

import csv
import os
from collections.abc import Iterator
from pathlib import Path

from kdcore.data.folder import ListedFile, Listing, Part
from kdcore.errors import DataError

PARTS: dict[str, Part] = {"train": "train", "test": "test"}


def list_table(table: Path) -> Listing:
    """Read which images there are from a CSV file.

    It is UTF-8 text with a header row: ``path`` (relative to the file's folder), ``label``
    (empty: unlabelled) and, where wanted, ``split`` (``train`` or ``test``). Further columns
    are ignored. The header is row 1.

    Raises:
        DataError: the file cannot be read, lacks a column or has a row that cannot be used;
            names the row.
    """
    rows = _rows(table)
    _, header = next(rows, (1, []))
    header = [name.strip().casefold() for name in header]
    if doubled := sorted({name for name in header if header.count(name) > 1}):
        raise DataError(f"{str(table)!r} has two columns {doubled[0]!r}; rename or remove one")
    if missing := [name for name in ("path", "label") if name not in header]:
        raise DataError(
            f"{str(table)!r} has no column {' and no column '.join(missing)}; its first row must "
            f"be a header with path and label, separated by commas (found: {','.join(header)!r})"
        )
    files: list[ListedFile] = []
    seen: dict[str, int] = {}
    for number, row in rows:
        where = f"{str(table)!r}, row {number}"
        if len(row) != len(header):
            raise DataError(f"{where}: {len(row)} fields where the header has {len(header)}")
        file = _file(table, where, dict(zip(header, row, strict=True)))
        earlier = seen.setdefault(os.path.normpath(file.path), number)
        if earlier != number:
            raise DataError(
                f"{where}: {str(file.path)!r} is in row {earlier} already; remove one of the rows"
            )
        files.append(file)
    if not files:
        raise DataError(f"{str(table)!r} has no rows below its header; add a row an image")
    classes = sorted({file.label for file in files if file.label is not None})
    return Listing(table.parent, tuple(files), tuple(classes))


def _rows(table: Path) -> Iterator[tuple[int, list[str]]]:
    if table.is_dir():
        raise DataError(f"data.root: {str(table)!r} is a folder; give the CSV file itself")
    try:
        # Spreadsheet programs begin UTF-8 files with a byte order mark.
        with table.open(encoding="utf-8-sig", newline="") as lines:
            for number, row in enumerate(csv.reader(lines, strict=True), start=1):
                if row:
                    yield number, row
    except OSError as error:
        raise DataError(
            f"data.root: cannot read {str(table)!r}: {error.strerror}; give a CSV file"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{str(table)!r} is not UTF-8 text: {error}; save it as UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{str(table)!r} is not a CSV file: {error}; mend it") from error


def _file(table: Path, where: str, fields: dict[str, str]) -> ListedFile:
    path = table.parent / fields["path"]
    if not fields["path"] or not path.is_file():
        raise DataError(
            f"{where}: there is no file {str(path)!r}; paths are relative to the CSV file's folder"
        )
    label = fields["label"].strip() or None
    if "split" not in fields:
        return ListedFile(path, label, "train" if label is None else None)
    split = fields["split"].strip()
    if split not in PARTS:
        raise DataError(f"{where}: split is {split!r}; write train or test")
    if label is None and split == "test":
        raise DataError(f"{where}: a test image has no label; label it, or write train")
    return ListedFile(path, label, PARTS[split])
