"""CSV files of images: which rows are read and which are refused, by number."""

from pathlib import Path

import pytest
from PIL import Image

from kdcore.data.folder import ListedFile
from kdcore.data.table import list_table
from kdcore.errors import DataError


def _table(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (2, 2)).save(folder / name)
    (folder / "table.csv").write_text(text, encoding=encoding)
    return folder / "table.csv"


def _refused(table: Path) -> str:
    with pytest.raises(DataError) as caught:
        list_table(table)
    message = str(caught.value)
    assert "\n" not in message
    assert repr(str(table)) in message
    return message


def test_paths_are_relative_to_the_table(tmp_path: Path) -> None:
    listing = list_table(_table(tmp_path, "path,label\na.png,dog\nb.png,cat\n"))
    assert listing.root == tmp_path
    assert listing.classes == ("cat", "dog")
    assert listing.files == (
        ListedFile(tmp_path / "a.png", "dog", None),
        ListedFile(tmp_path / "b.png", "cat", None),
    )


def test_a_split_column_gives_the_parts(tmp_path: Path) -> None:
    listing = list_table(_table(tmp_path, "split,path,label\ntrain,a.png,x\ntest,b.png,x\n"))
    assert [file.part for file in listing.files] == ["train", "test"]


def test_an_empty_label_is_an_unlabelled_training_image(tmp_path: Path) -> None:
    without = list_table(_table(tmp_path, "path,label\na.png,x\nb.png,\n"))
    assert [(file.label, file.part) for file in without.files] == [("x", None), (None, "train")]
    split = list_table(_table(tmp_path, "path,label,split\na.png,x,test\nb.png, ,train\n"))
    assert [(file.label, file.part) for file in split.files] == [("x", "test"), (None, "train")]
    assert split.classes == ("x",)


def test_a_test_image_without_a_label_is_refused(tmp_path: Path) -> None:
    table = _table(tmp_path, "path,label,split\na.png,x,test\nb.png,,test\n")
    assert "row 3: a test image has no label" in _refused(table)


def test_further_columns_blank_lines_and_a_byte_order_mark_do_no_harm(tmp_path: Path) -> None:
    text = "path,label,age\n\na.png,x,3\n"
    listing = list_table(_table(tmp_path, text, encoding="utf-8-sig"))
    assert [file.path.name for file in listing.files] == ["a.png"]


def test_rows_are_numbered_as_a_spreadsheet_shows_them(tmp_path: Path) -> None:
    table = _table(tmp_path, "path,label\na.png,x\n\ngone.png,x\n")
    message = _refused(table)
    assert "row 4: there is no file" in message
    assert "gone.png" in message


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in ("folder", ""):
        assert "row 2: there is no file" in _refused(_table(tmp_path, f"path,label\n{path},x\n"))


def test_a_bad_split_is_shown(tmp_path: Path) -> None:
    table = _table(tmp_path, "path,label,split\na.png,x,train\nb.png,x,val\n")
    assert "row 3: split is 'val'; write train or test" in _refused(table)


@pytest.mark.parametrize("again", ["a.png", "./a.png", "sub/../a.png"])
def test_a_path_may_come_once(tmp_path: Path, again: str) -> None:
    (tmp_path / "sub").mkdir()
    table = _table(tmp_path, f"path,label\na.png,x\nb.png,x\n{again},y\n")
    message = _refused(table)
    assert "row 4" in message
    assert "is in row 2 already" in message


def test_missing_columns_are_named_with_what_was_found(tmp_path: Path) -> None:
    assert "has no column label" in _refused(_table(tmp_path, "path,class\na.png,x\n"))
    message = _refused(_table(tmp_path, "path;label\na.png;x\n"))
    assert "no column path and no column label" in message
    assert "found: 'path;label'" in message


def test_a_row_of_another_length_is_refused(tmp_path: Path) -> None:
    message = _refused(_table(tmp_path, "path,label\na.png,x\nb.png\n"))
    assert "row 3: 1 fields where the header has 2" in message


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    assert "has no rows below its header" in _refused(_table(tmp_path, "path,label\n"))
    assert "has no column path" in _refused(_table(tmp_path, ""))


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    table = _table(tmp_path, "path,label\na.png,k\u00e4fer\n", encoding="latin-1")
    assert "is not UTF-8 text" in _refused(table)
    table = _table(tmp_path, "path,label\na.png,k\u00e4fer\n")
    assert list_table(table).classes == ("k\u00e4fer",)


def test_a_quotation_mark_without_its_end_is_refused(tmp_path: Path) -> None:
    assert "is not a CSV file" in _refused(_table(tmp_path, 'path,label\n"a.png,x\n'))


def test_a_folder_in_place_of_the_table_is_refused(tmp_path: Path) -> None:
    assert "is a folder; give the CSV file itself" in _refused(tmp_path)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    assert "No such file or directory" in _refused(tmp_path / "gone.csv")


def test_columns_are_found_whatever_their_case_and_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    table = tmp_path / "list.csv"
    table.write_text("Path,LABEL,Split\na.png,cat,test\n")
    assert list_table(table).files[0].part == "test"
    table.write_text("path,label,Label\na.png,cat,dog\n")
    with pytest.raises(DataError, match="has two columns 'label'"):
        list_table(table)
