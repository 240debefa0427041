"""Image files: decoding of every kind, the fingerprint, and what is refused."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from torch import Tensor

from kdcore.data.files import FileImages, check_readable, relative_name
from kdcore.errors import DataError

ORIENTATION = 0x0112


def _save(path: Path, size: tuple[int, int] = (4, 3), colour: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def _noise(path: Path) -> Path:
    values = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return path


def _truncate(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def _read(path: Path) -> Tensor:
    return FileImages([path], path.parent).read(0)


def _pixel(path: Path, x: int = 0, y: int = 0) -> list[int]:
    values: list[int] = _read(path)[:, y, x].tolist()
    return values


def test_an_image_is_read_channels_first_and_as_it_was_stored(tmp_path: Path) -> None:
    values = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    Image.fromarray(values).save(tmp_path / "a.png")
    image = _read(tmp_path / "a.png")
    assert image.is_contiguous()
    assert image.numpy().tolist() == values.transpose(2, 0, 1).tolist()


def test_reading_again_gives_the_same(tmp_path: Path) -> None:
    path = _noise(tmp_path / "a.jpg")
    assert _read(path).equal(_read(path))


@pytest.mark.parametrize(
    ("mode", "stored", "expected"),
    [
        ("L", 90, [90, 90, 90]),
        ("1", 1, [255, 255, 255]),
        ("RGBA", (200, 10, 20, 255), [200, 10, 20]),
        ("RGBA", (200, 10, 20, 0), [255, 255, 255]),
        ("LA", (90, 255), [90, 90, 90]),
        ("LA", (90, 0), [255, 255, 255]),
        ("I;16", 0xFFFF, [255, 255, 255]),
        ("I;16", 0x8000, [128, 128, 128]),
        ("I;16", 0x00FF, [0, 0, 0]),
    ],
)
def test_every_mode_becomes_rgb(
    tmp_path: Path, mode: str, stored: int | tuple[int, ...], expected: list[int]
) -> None:
    Image.new(mode, (2, 2), stored).save(tmp_path / "a.png")
    assert _pixel(tmp_path / "a.png") == expected


def test_a_palette_is_looked_up_and_its_transparent_entry_is_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "opaque.png")
    image.save(tmp_path / "transparent.png", transparency=b"\x00\xff")
    assert _pixel(tmp_path / "opaque.png") == [10, 20, 30]
    assert _pixel(tmp_path / "transparent.png") == [255, 255, 255]
    assert _pixel(tmp_path / "transparent.png", x=1) == [40, 50, 60]


def test_a_photograph_is_turned_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (3, 2), "black")
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    image.save(tmp_path / "straight.png")
    assert _read(tmp_path / "turned.png").shape == (3, 3, 2)
    assert _pixel(tmp_path / "turned.png", x=1) == [255, 255, 255]
    assert _pixel(tmp_path / "straight.png") == [255, 255, 255]


def test_pixels_of_unknown_range_are_refused(tmp_path: Path) -> None:
    Image.new("F", (2, 2), 0.5).save(tmp_path / "float.tif")
    Image.new("I", (2, 2), 0x10000).save(tmp_path / "wide.tif")
    Image.new("I", (2, 2), 0xFFFF).save(tmp_path / "fits.tif")
    with pytest.raises(DataError, match=r"float\.tif.*floating-point"):
        _read(tmp_path / "float.tif")
    with pytest.raises(DataError, match=r"wide\.tif.*more than 16 bits"):
        _read(tmp_path / "wide.tif")
    assert _pixel(tmp_path / "fits.tif") == [255, 255, 255]


def test_a_file_that_is_no_image_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a\nb.png").write_text("not an image")
    with pytest.raises(DataError, match="not an image of a known format") as caught:
        _read(tmp_path / "a\nb.png")
    assert r"a\nb.png" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_reason_of_several_lines_becomes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise SyntaxError("two\nlines")

    monkeypatch.setattr(ImageOps, "exif_transpose", fail)
    with pytest.raises(DataError, match=r"a\.png': two lines; mend"):
        _read(_save(tmp_path / "a.png"))


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_a_truncated_image_is_refused(tmp_path: Path, name: str) -> None:
    path = _noise(tmp_path / name)
    _read(path)
    with pytest.raises(DataError, match=r"cannot read image .*truncated"):
        _read(_truncate(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png': No such file or directory"):
        _read(tmp_path / "gone.png")


def test_a_format_that_starts_a_program_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "EPS"
    with pytest.raises(DataError, match="not an image of a known format"):
        _read(tmp_path / "a.png")


@pytest.mark.parametrize("side", [4, 40])
@pytest.mark.parametrize("action", ["ignore", "error"])
def test_an_absurdly_large_image_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int, action: str
) -> None:
    path = _save(tmp_path / "bomb.png", (side, side))
    _read(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 15)
    with warnings.catch_warnings():
        warnings.filterwarnings(action, category=Image.DecompressionBombWarning)  # type: ignore[arg-type]
        with pytest.raises(DataError, match=r"bomb\.png") as caught:
            _read(path)
    assert "\n" not in str(caught.value)


def test_checking_a_large_image_prints_no_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _save(tmp_path / "bomb.png", (4, 4))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 15)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert check_readable([path], tmp_path, skip=True) == ([], ("bomb.png",))
    assert not caught


def test_no_limit_on_pixels_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert _read(_save(tmp_path / "a.png")).shape == (3, 3, 4)


def test_the_fingerprint_stays_when_the_folder_moves(tmp_path: Path) -> None:
    before = FileImages([_save(tmp_path / "one" / "a.png")], tmp_path / "one").fingerprint()
    (tmp_path / "one").rename(tmp_path / "two")
    after = FileImages([tmp_path / "two" / "a.png"], tmp_path / "two").fingerprint()
    assert before == after


def test_the_fingerprint_changes_with_content_names_and_order(tmp_path: Path) -> None:
    a = _save(tmp_path / "a.png")
    b = _save(tmp_path / "b.png", colour="blue")
    same = _save(tmp_path / "c.png")
    prints = [
        FileImages(paths, tmp_path).fingerprint() for paths in ([a], [b], [same], [a, b], [b, a])
    ]
    assert len(set(prints)) == 5
    _save(tmp_path / "a.png", colour="green")
    assert FileImages([a], tmp_path).fingerprint() not in prints


def test_the_files_are_read_once_for_the_fingerprint(tmp_path: Path) -> None:
    path = _save(tmp_path / "a.png")
    images = FileImages([path], tmp_path)
    first = images.fingerprint()
    path.unlink()
    assert images.fingerprint() == first
    with pytest.raises(DataError, match=r"a\.png"):
        FileImages([path], tmp_path).fingerprint()


def test_the_common_size_is_that_of_all_images_or_none(tmp_path: Path) -> None:
    wide = [_save(tmp_path / "a.png", (5, 3)), _save(tmp_path / "b.jpg", (5, 3))]
    tall = _save(tmp_path / "c.png", (3, 5))
    assert FileImages(wide, tmp_path).common_size == (3, 5)
    assert FileImages([*wide, tall], tmp_path).common_size is None
    assert FileImages([], tmp_path).common_size is None


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_the_common_size_is_that_of_the_upright_image(tmp_path: Path, name: str) -> None:
    exif = Image.Exif()
    for orientation in range(1, 9):
        exif[ORIENTATION] = orientation
        Image.new("RGB", (5, 3)).save(tmp_path / name, exif=exif)
        images = FileImages([tmp_path / name], tmp_path)
        assert images.common_size == images.read(0).shape[1:]


def test_the_common_size_needs_no_decoding(tmp_path: Path) -> None:
    path = _truncate(_noise(tmp_path / "a.png"))
    assert FileImages([path], tmp_path).common_size == (64, 64)


def test_an_image_is_called_by_its_relative_path(tmp_path: Path) -> None:
    path = _save(tmp_path / "cat" / "a.png")
    images = FileImages([path], tmp_path)
    assert images.name(0) == "cat/a.png"
    assert len(images) == 1


def test_a_file_outside_the_root_keeps_its_whole_name(tmp_path: Path) -> None:
    assert relative_name(Path("/elsewhere/a.png"), tmp_path) == "/elsewhere/a.png"


def test_readable_files_are_all_returned_in_order(tmp_path: Path) -> None:
    paths = [_save(tmp_path / f"{index}.png") for index in range(300)]
    assert check_readable(paths[::-1], tmp_path, skip=False) == (paths[::-1], ())


def test_the_first_unreadable_file_is_named_with_the_way_to_skip_it(tmp_path: Path) -> None:
    paths = [_save(tmp_path / f"{index:03}.png") for index in range(300)]
    for bad in (200, 201):
        paths[bad].write_text("")
    with pytest.raises(DataError, match=r"200\.png.*--skip-unreadable.*data\.skip_unreadable"):
        check_readable(paths, tmp_path, skip=False)


def test_unreadable_files_are_skipped_where_asked(tmp_path: Path) -> None:
    good = _save(tmp_path / "cat" / "a.png")
    bad = _truncate(_noise(tmp_path / "cat" / "b.jpg"))
    assert check_readable([bad, good], tmp_path, skip=True) == ([good], ("cat/b.jpg",))
