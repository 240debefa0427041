"""Image files by path: their decoding, their fingerprint, and whether all of them can be read.

Finding the files is in `folder` and `table`; labels become targets in `load`.
"""

import hashlib
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from kdcore.data.images import Images
from kdcore.errors import DataError

# Without this list Pillow tries every format it knows, among them some that start programs.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
ORIENTATION = 0x0112
SIDEWAYS = (5, 6, 7, 8)
CHUNK = 128


class FileImages(Images):
    """Images decoded from their files whenever they are read.

    Args:
        paths: the files.
        root: the folder that names in messages and in the fingerprint are relative to.
    """

    def __init__(self, paths: Sequence[Path], root: Path) -> None:
        self.paths = list(paths)
        self.root = root

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> Tensor:
        """Return one image, upright and with white where it is transparent; see `Images.read`."""
        return torch.from_numpy(_decode(self.paths[index])).permute(2, 0, 1).contiguous()

    @cached_property
    def common_size(self) -> tuple[int, int] | None:
        """Height and width where all files have the same, by their headers."""
        common: tuple[int, int] | None = None
        for path in self.paths:
            size = _size(path)
            if size != (common or size):
                return None
            common = size
        return common

    def fingerprint(self) -> str:
        """Return the hash of all names and bytes, as they were when it was first asked for."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for path in self.paths:
            digest.update(os.fsencode(relative_name(path, self.root)) + b"\0")
            try:
                digest.update(hashlib.sha256(path.read_bytes()).digest())
            except OSError as error:
                raise _unreadable(path, error) from error
        return digest.hexdigest()

    def name(self, index: int) -> str:
        """Return the file's path relative to the root."""
        return relative_name(self.paths[index], self.root)


def relative_name(path: Path, root: Path) -> str:
    """Return the path below the root with forward slashes; whole where it lies elsewhere."""
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def check_readable(
    paths: Sequence[Path], root: Path, skip: bool
) -> tuple[list[Path], tuple[str, ...]]:
    """Decode every file once.

    Returns:
        The paths of the readable files, and the names below `root` of those that are not.

    Raises:
        DataError: a file cannot be read, and `skip` is false; names the first of them.
    """
    good: list[Path] = []
    skipped: list[str] = []
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    pool = ThreadPoolExecutor(os.cpu_count())
    # Warning filters belong to the whole process: threads that set them would undo each other's.
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            for chunk, problems in zip(chunks, pool.map(_problems, chunks), strict=True):
                for path, problem in zip(chunk, problems, strict=True):
                    if problem is None:
                        good.append(path)
                    elif skip:
                        skipped.append(relative_name(path, root))
                    else:
                        hint = "leave out such files with --skip-unreadable"
                        raise DataError(f"{problem}, or {hint} (data.skip_unreadable = true)")
        finally:
            pool.shutdown(cancel_futures=True)
    return good, tuple(skipped)


def _problems(paths: Sequence[Path]) -> list[DataError | None]:
    problems: list[DataError | None] = []
    for path in paths:
        try:
            _decode(path)
            problems.append(None)
        except DataError as error:
            problems.append(error)
    return problems


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path, formats=FORMATS) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise ValueError(f"{image.width} x {image.height} pixels are absurdly many")
            yield image
    except Exception as error:  # a damaged file can make Pillow raise nearly anything
        raise _unreadable(path, error) from error


def _decode(path: Path) -> NDArray[np.uint8]:
    with _opened(path) as image:
        ImageOps.exif_transpose(image, in_place=True)
        return np.array(_to_rgb(image))


def _size(path: Path) -> tuple[int, int]:
    with _opened(path) as image:
        width, height = image.size
        # Pillow decodes the whole of a PNG to look for its EXIF; squares need not be asked.
        if width != height and image.getexif().get(ORIENTATION) in SIDEWAYS:
            return width, height
        return height, width


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("its pixels have more than 16 bits")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        # The colours below transparent pixels are arbitrary, and no viewer shows them.
        page = Image.new("RGBA", image.size, "white")
        page.alpha_composite(image.convert("RGBA"))
        return page.convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _unreadable(path: Path, error: Exception) -> DataError:
    if isinstance(error, UnidentifiedImageError):
        reason = f"not an image of a known format ({', '.join(FORMATS)})"
    elif isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    else:
        reason = " ".join(str(error).split()) or type(error).__name__
    return DataError(f"cannot read image {str(path)!r}: {reason}; mend or remove it")
