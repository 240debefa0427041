"""CIFAR-10 and CIFAR-100 from their authors' archives, downloaded where that can be done.

The archives' names, addresses, checksums and layout are torchvision's.
"""

import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_integrity, download_and_extract_archive

from kdcore.data.folder import ENDINGS
from kdcore.data.images import ArrayImages, ImageData, LabelledImages
from kdcore.errors import DataError

PATIENCE_SECONDS = 30.0


def load_cifar10(root: Path) -> ImageData:
    """Return CIFAR-10: images ``[3, 32, 32]`` of 10 classes, 50,000 to train and 10,000 to test.

    Args:
        root: the folder that has the archive or its extracted files, or that will have them.

    Raises:
        DataError: it is not there and cannot be downloaded, or it is damaged.
    """
    return _load("cifar10", CIFAR10, root)


def load_cifar100(root: Path) -> ImageData:
    """Return CIFAR-100: as CIFAR-10, of 100 classes; see `load_cifar10`."""
    return _load("cifar100", CIFAR100, root)


def _load(name: str, dataset: type[CIFAR10], root: Path) -> ImageData:
    try:
        train, test = _parts(dataset, root)
    except RuntimeError:  # torchvision's for files that are missing or have another checksum
        _fetch(name, dataset, root)
        try:
            train, test = _parts(dataset, root)
        except RuntimeError as error:
            raise DataError(
                f"{name}: files in {str(root / dataset.base_folder)!r} are damaged; remove that "
                "folder and try again"
            ) from error
    return ImageData(name, train, test)


def _parts(dataset: type[CIFAR10], root: Path) -> tuple[LabelledImages, LabelledImages]:
    with warnings.catch_warnings():
        # NumPy 2.4.0 to 2.4.4 warns about pickles as old as these.
        warnings.filterwarnings("ignore", category=np.exceptions.VisibleDeprecationWarning)
        train, test = (dataset(root, train=part) for part in (True, False))
    return _labelled(train), _labelled(test)


def _labelled(part: CIFAR10) -> LabelledImages:
    pixels = torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()
    return LabelledImages(ArrayImages(pixels), torch.tensor(part.targets), tuple(part.classes))


def _fetch(name: str, dataset: type[CIFAR10], root: Path) -> None:
    archive = root / dataset.filename
    by_hand = f"download {dataset.url} into {str(root)!r}"
    made = _refuse_elsewhere(name, dataset, root)
    if archive.exists() and not check_integrity(archive, dataset.tgz_md5):
        raise DataError(
            f"{name}: {str(archive)!r} is damaged or incomplete (its MD5 sum is wrong); remove "
            f"it, and {by_hand}"
        )
    _require_writable(name, root)
    try:
        with _patience(PATIENCE_SECONDS):
            download_and_extract_archive(
                dataset.url, root, filename=dataset.filename, md5=dataset.tgz_md5
            )
    except (OSError, HTTPException, RuntimeError) as error:
        # What a broken download leaves would be refused as damaged the next time.
        if not check_integrity(archive, dataset.tgz_md5):
            archive.unlink(missing_ok=True)
        if made:  # nor shall an empty folder look as if it were one of the user's
            with suppress(OSError):
                root.rmdir()
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{name}: {dataset.filename} is not in {str(root)!r} and could not be downloaded and "
            f"extracted ({reason}); {by_hand} by hand"
        ) from error


def _refuse_elsewhere(name: str, dataset: type[CIFAR10], root: Path) -> bool:
    """Refuse a folder that nobody wants a download in; return whether it is yet to be made."""
    if not root.exists():
        if not root.parent.exists():
            raise DataError(
                f"data.root: {str(root)!r} does not exist, nor does the folder that it would be "
                f"in; give the folder that {name} is in, or shall be downloaded into"
            )
        return True
    theirs = (root / dataset.filename, root / dataset.base_folder)
    if not any(path.exists() for path in theirs) and _holds_folders_of_images(root):
        raise DataError(
            f"data.root: {str(root)!r} holds folders of images: add --data folder (or --set "
            f"data.name=folder), or give the folder of {name}"
        )
    return False


def _holds_folders_of_images(root: Path) -> bool:
    patterns = ("*/*", "train/*/*")
    return any(
        path.suffix.lower() in ENDINGS and not path.parent.name.startswith(".")
        for pattern in patterns
        for path in root.glob(pattern)
    )


def _require_writable(name: str, root: Path) -> None:
    try:
        root.mkdir(exist_ok=True)
        if not os.access(root, os.W_OK):
            raise PermissionError(None, "it is read-only")
    except OSError as error:
        raise DataError(
            f"{name} is not in {str(root)!r} and cannot be put there: {error.strerror}; give a "
            "folder that can be written to as data.root"
        ) from error


@contextmanager
def _patience(seconds: float) -> Iterator[None]:
    # Where a firewall drops packets, connecting would take minutes to fail.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
