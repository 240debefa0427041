"""Folders of class folders: which files are found, of what class and part, and what is refused."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from kdcore.data.folder import Listing, list_folder, some
from kdcore.errors import DataError


def _put(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(root / name)
    return root


def _found(listing: Listing) -> list[tuple[str, str | None, str | None]]:
    return [
        (file.path.relative_to(listing.root).as_posix(), file.label, file.part)
        for file in listing.files
    ]


def _refused(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        list_folder(root)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_train_and_test_are_two_parts_of_the_same_classes(tmp_path: Path) -> None:
    _put(tmp_path, "train/dog/1.png", "train/cat/1.jpg", "test/cat/1.png", "test/dog/1.png")
    listing = list_folder(tmp_path)
    assert listing.classes == ("cat", "dog")
    assert _found(listing) == [
        ("train/cat/1.jpg", "cat", "train"),
        ("train/dog/1.png", "dog", "train"),
        ("test/cat/1.png", "cat", "test"),
        ("test/dog/1.png", "dog", "test"),
    ]


def test_class_folders_alone_are_yet_to_be_split(tmp_path: Path) -> None:
    _put(tmp_path, "dog/1.png", "cat/2.png", "cat/1.png")
    listing = list_folder(tmp_path)
    assert listing.classes == ("cat", "dog")
    assert _found(listing) == [
        ("cat/1.png", "cat", None),
        ("cat/2.png", "cat", None),
        ("dog/1.png", "dog", None),
    ]


def test_unlabelled_images_lie_beside_train_and_test_at_any_depth(tmp_path: Path) -> None:
    _put(tmp_path, "train/a/1.png", "test/a/1.png", "unlabelled/x/y/1.png", "unlabelled/2.png")
    listing = list_folder(tmp_path)
    assert listing.classes == ("a",)
    assert [file for file in _found(listing) if file[1] is None] == [
        ("unlabelled/2.png", None, "train"),
        ("unlabelled/x/y/1.png", None, "train"),
    ]


def test_unlabelled_is_no_class_among_class_folders(tmp_path: Path) -> None:
    _put(tmp_path, "a/1.png", "b/1.png", "unlabelled/1.png")
    listing = list_folder(tmp_path)
    assert listing.classes == ("a", "b")
    assert ("unlabelled/1.png", None, "train") in _found(listing)


@pytest.mark.parametrize("name", ["unlabelled", "Unlabelled", "unlabeled"])
def test_unlabelled_images_in_train_are_to_be_moved_beside_it(tmp_path: Path, name: str) -> None:
    _put(tmp_path, "train/a/1.png", "test/a/1.png", f"train/{name}/1.png")
    message = _refused(tmp_path)
    assert repr(str(tmp_path / "train" / name)) in message
    assert f"move the folder to {str(tmp_path / 'unlabelled')!r}" in message
    (tmp_path / "train" / name).rename(tmp_path / "unlabelled")
    assert ("unlabelled/1.png", None, "train") in _found(list_folder(tmp_path))


@pytest.mark.parametrize("parts", [("train", "test"), ("test",)])
def test_unlabelled_is_no_class_where_test_has_it_too(
    tmp_path: Path, parts: tuple[str, ...]
) -> None:
    _put(tmp_path, "train/a/1.png", "test/a/1.png")
    assert list_folder(tmp_path).classes == ("a",)  # the control
    _put(tmp_path, *(f"{part}/unlabelled/1.png" for part in parts))
    assert repr(str(tmp_path / parts[0] / "unlabelled")) in _refused(tmp_path)


@pytest.mark.parametrize("name", ["unlabeled", "Unlabeled", "Unlabelled", "UNLABELLED"])
@pytest.mark.parametrize("labelled", [("a/1.png", "b/1.png"), ("train/a/1.png", "test/a/1.png")])
def test_the_folder_without_labels_is_spelt_in_one_way(
    tmp_path: Path, name: str, labelled: tuple[str, ...]
) -> None:
    _put(tmp_path, *labelled, f"{name}/1.png")
    message = _refused(tmp_path)
    assert f"{str(tmp_path / name)!r}: images without labels belong into 'unlabelled'" in message


def test_an_empty_folder_of_unlabelled_images_does_no_harm(tmp_path: Path) -> None:
    _put(tmp_path, "a/1.png")
    (tmp_path / "unlabelled").mkdir()
    assert _found(list_folder(tmp_path)) == [("a/1.png", "a", None)]


def test_hidden_files_and_other_endings_are_left_out(tmp_path: Path) -> None:
    _put(tmp_path, "a/1.png", "a/.2.png", "a/.hidden/3.png", ".git/4.png", "a/UPPER.JPG")
    (tmp_path / "a" / "notes.txt").write_text("")
    (tmp_path / "a" / "png").write_text("")
    assert [name for name, _, _ in _found(list_folder(tmp_path))] == ["a/1.png", "a/UPPER.JPG"]


def test_nested_files_are_of_the_outer_folder_s_class(tmp_path: Path) -> None:
    _put(tmp_path, "a/x/y/1.png", "a/2.png")
    assert _found(list_folder(tmp_path)) == [("a/2.png", "a", None), ("a/x/y/1.png", "a", None)]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    _put(tmp_path, "root/a/1.png", "elsewhere/2.png")
    (tmp_path / "root" / "a" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "a" / "circle").symlink_to(tmp_path / "root" / "a")
    names = [name for name, _, _ in _found(list_folder(tmp_path / "root"))]
    assert names == ["a/1.png", "a/linked/2.png"]


def test_the_order_does_not_depend_on_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _put(tmp_path, *(f"{name}/{index}.png" for name in "ab" for index in range(5)))
    expected = list_folder(tmp_path)
    walk = os.walk

    def backwards(
        top: Path, onerror: Callable[[OSError], object], followlinks: bool
    ) -> Iterator[tuple[str, list[str], list[str]]]:
        for at, folders, names in walk(top, onerror=onerror, followlinks=followlinks):
            yield str(at), folders, sorted(names, reverse=True)

    monkeypatch.setattr(os, "walk", backwards)
    assert list_folder(tmp_path) == expected


def test_classes_that_train_or_test_lacks_are_named(tmp_path: Path) -> None:
    _put(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/1.png", "test/c/1.png")
    assert "only train/ has 'b' and only test/ has 'c'" in _refused(tmp_path)
    _put(tmp_path, "train/c/1.png", "test/b/1.png")
    list_folder(tmp_path)


def test_folders_without_images_are_named(tmp_path: Path) -> None:
    _put(tmp_path, "a/1.png")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1.txt").write_text("")
    message = _refused(tmp_path)
    assert "folders without images: 'b'; fill or remove" in message
    assert ".png" in message


def test_a_root_without_folders_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "1.png")
    assert f"{str(tmp_path)!r} has no folders in it; put" in _refused(tmp_path)


def test_unlabelled_images_alone_are_refused(tmp_path: Path) -> None:
    assert "has no folders in it" in _refused(_put(tmp_path, "unlabelled/1.png"))


def test_empty_parts_are_refused(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
    assert f"{str(tmp_path / 'train')!r} has no folders in it" in _refused(tmp_path)


def test_a_missing_root_is_told_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "does not exist; give a folder" in _refused(tmp_path / "missing")
    assert "is a file; give a folder" in _refused(tmp_path / "file")


@pytest.mark.parametrize(
    ("parts", "missing"),
    [
        (["train"], "test/"),
        (["test"], "train/"),
        (["train", "val"], "test/"),
        (["train", "val", "unlabelled"], "test/"),
        (["val", "validation"], "train/ and test/"),
    ],
)
def test_half_a_layout_is_not_taken_for_classes(
    tmp_path: Path, parts: list[str], missing: str
) -> None:
    _put(tmp_path, *(f"{part}/a/1.png" for part in parts))
    assert f"but no {missing}; name the two parts train/ and test/" in _refused(tmp_path)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    _put(tmp_path, "train/1.png", "bus/1.png")
    assert list_folder(tmp_path).classes == ("bus", "train")


def test_a_third_part_is_not_used_in_silence(tmp_path: Path) -> None:
    _put(tmp_path, "train/a/1.png", "test/a/1.png")
    assert list_folder(tmp_path).notes == ()
    _put(tmp_path, "val/a/1.png")
    listing = list_folder(tmp_path)
    assert len(listing.files) == 2
    assert listing.notes == ("not used, being neither train/ nor test/: 'val/'",)


@pytest.mark.parametrize("function", ["scandir", "walk"])
def test_a_folder_that_cannot_be_listed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    # Not by permissions: the tests may run as a user whom those do not stop.
    _put(tmp_path, "a/deep/1.png")
    error = PermissionError(13, "Permission denied", str(tmp_path / "a"))

    def scandir(path: str | Path) -> object:
        del path
        raise error

    def walk(*_: object, onerror: object, **__: object) -> list[object]:
        assert callable(onerror)
        onerror(error)
        return []

    monkeypatch.setattr(os, function, {"scandir": scandir, "walk": walk}[function])
    assert re.search(r"cannot list folder '.*a': Permission denied", _refused(tmp_path))


def test_at_most_ten_names_are_given() -> None:
    assert some(["a", "b"]) == "'a', 'b'"
    assert some(map(str, range(10))).endswith("'9'")
    assert some(map(str, range(12))).endswith("'9' and 2 more")
