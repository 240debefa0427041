"""Data sets by an experiment's description: parts, limits, groups, notes and refusals."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from kdcore.data.files import FileImages
from kdcore.data.images import ImageData, LabelledImages, Subset
from kdcore.data.load import LOADERS, hold_out, keep_labels, load_data
from kdcore.errors import DataError
from kdcore.sections import DATA_NAMES, DataConfig
from kdcore.tasks import UNLABELLED


def _load(root: Path, name: str = "folder", **keys: object) -> ImageData:
    return load_data(DataConfig.model_validate({"name": name, "root": root, **keys}))


def _put(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(root / name)
    return root


def _classes(root: Path, **counts: int) -> Path:
    for name, count in counts.items():
        _put(root, *(f"{name}/{index:03}.png" for index in range(count)))
    return root


def _parts(root: Path, train: int, test: int) -> Path:
    for name in ("cat", "dog"):
        _put(root, *(f"train/{name}/{index:03}.png" for index in range(train)))
        _put(root, *(f"test/{name}/{index:03}.png" for index in range(test)))
    return root


def _names(data: LabelledImages) -> list[str]:
    return [data.images.name(index) for index in range(len(data))]


def _refused(root: Path, name: str = "folder", **keys: object) -> str:
    with pytest.raises(DataError) as caught:
        _load(root, name, **keys)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_every_name_that_an_experiment_may_give_has_a_loader() -> None:
    assert set(LOADERS) == set(DATA_NAMES)


def test_the_digits_need_no_root() -> None:
    data = load_data(DataConfig.model_validate({"limit": 300}))
    assert (len(data.train), len(data.test)) == (300, 300)
    whole = load_data(DataConfig.model_validate({}))
    assert data.train.targets.equal(whole.train.targets[:300])


def test_files_have_the_targets_of_their_folders(tmp_path: Path) -> None:
    data = _load(_parts(tmp_path, 5, 3))
    assert data.name == tmp_path.name
    for part, count in ((data.train, 10), (data.test, 6)):
        assert len(part) == count
        for name, target in zip(_names(part), part.targets.tolist(), strict=True):
            assert name.split("/")[1] == part.classes[target]


def test_class_folders_are_split_by_the_share(tmp_path: Path) -> None:
    data = _load(_classes(tmp_path, a=20, b=10), test_share=0.3)
    assert data.test.targets.bincount().tolist() == [6, 3]
    assert data.train.targets.bincount().tolist() == [14, 7]
    assert not set(_names(data.train)) & set(_names(data.test))


def test_the_split_depends_on_its_seed(tmp_path: Path) -> None:
    _classes(tmp_path, a=20, b=20)
    first, again, other = (_load(tmp_path, split_seed=seed) for seed in (0, 0, 1))
    assert _names(first.test) == _names(again.test)
    assert _names(first.train) == _names(again.train)
    assert set(_names(first.test)) != set(_names(other.test))


def test_files_are_stored_in_an_order_shuffled_by_the_seed(tmp_path: Path) -> None:
    _parts(tmp_path, 30, 30)
    first, again, other = (_load(tmp_path, split_seed=seed) for seed in (0, 0, 1))
    assert _names(first.train) == _names(again.train)
    assert _names(first.train) != _names(other.train)
    for part in (first.train, first.test):
        assert _names(part) != sorted(_names(part))
        assert set(part.targets[:15].tolist()) == {0, 1}


def test_a_limit_takes_the_first_images_of_each_part(tmp_path: Path) -> None:
    _parts(tmp_path, 30, 20)
    whole, cut = _load(tmp_path), _load(tmp_path, limit=25)
    assert _names(cut.train) == _names(whole.train)[:25]
    assert _names(cut.test) == _names(whole.test)[:25]
    assert len(_load(tmp_path, limit=1000).train) == 60


def test_images_beyond_the_limit_are_not_decoded(tmp_path: Path) -> None:
    _parts(tmp_path, 30, 30)
    used = _load(tmp_path, limit=20)
    for path in tmp_path.rglob("*.png"):
        if path.relative_to(tmp_path).as_posix() not in _names(used.train) + _names(used.test):
            path.write_text("")
    assert _names(_load(tmp_path, limit=20).train) == _names(used.train)
    assert "cannot read image" in _refused(tmp_path)


def test_a_limit_that_leaves_a_class_without_images_is_refused(tmp_path: Path) -> None:
    _classes(tmp_path, **{f"class{index}": 5 for index in range(8)})
    message = _refused(tmp_path, limit=7)
    assert "none of the 7 training images is labelled 'class" in message
    assert "raise data.limit, now 7" in message
    _load(tmp_path)


def test_a_class_that_is_only_in_the_test_part_is_refused(tmp_path: Path) -> None:
    _put(tmp_path, "a.png", "b.png", "c.png")
    table = tmp_path / "t.csv"
    table.write_text("path,label,split\na.png,x,train\nb.png,y,test\nc.png,x,test\n")
    assert "is labelled 'y'; add some, or remove the class" in _refused(table, "csv")


def test_an_empty_part_is_refused(tmp_path: Path) -> None:
    _put(tmp_path, "a.png", "b.png")
    for given, empty in (("train", "test"), ("test", "training")):
        table = tmp_path / "t.csv"
        table.write_text(f"path,label,split\na.png,x,{given}\nb.png,y,{given}\n")
        assert f"t.csv has no {empty} images" in _refused(table, "csv")


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    assert "needs two classes or more, found 'a'" in _refused(_classes(tmp_path, a=5))
    _load(_classes(tmp_path, b=5))


def test_a_table_without_any_label_is_refused(tmp_path: Path) -> None:
    _put(tmp_path, "a.png")
    (tmp_path / "t.csv").write_text("path,label\na.png,\n")
    assert "found none; add labelled images" in _refused(tmp_path / "t.csv", "csv")


def test_a_table_is_split_as_a_folder_is(tmp_path: Path) -> None:
    _classes(tmp_path, a=20, b=10)
    rows = [f"{name}/{i:03}.png,{name}" for name, n in (("a", 20), ("b", 10)) for i in range(n)]
    (tmp_path / "t.csv").write_text("\n".join(["path,label", *rows]))
    table, folder = _load(tmp_path / "t.csv", "csv"), _load(tmp_path)
    assert table.name == "t.csv"
    assert _names(table.train) == _names(folder.train)
    assert _names(table.test) == _names(folder.test)


def test_unlabelled_images_are_for_training_only(tmp_path: Path) -> None:
    _put(_classes(tmp_path, a=10, b=10), *(f"unlabelled/{index}.png" for index in range(30)))
    data = _load(tmp_path)
    assert (data.train.targets == UNLABELLED).sum() == 30
    assert data.test.targets.bincount().tolist() == [2, 2]


def test_groups_stay_on_one_side(tmp_path: Path) -> None:
    names = [f"{c}/p{person:02}_{n}.png" for c in "ab" for person in range(20) for n in range(3)]
    _put(tmp_path, *names)

    def persons(part: LabelledImages) -> set[str]:
        return {name.split("/")[1][:3] for name in _names(part)}

    data = _load(tmp_path, group_by=r"/(p\d+)_")
    assert not persons(data.train) & persons(data.test)
    assert data.test.targets.bincount().tolist() == [12, 12]
    train, validation = hold_out(data.train, 0.2, 0)
    assert not persons(train) & persons(validation)
    # The control: without groups, persons are on both sides.
    data = _load(tmp_path)
    assert persons(data.train) & persons(data.test)


@pytest.mark.parametrize(
    ("pattern", "group"),
    [(r"/(p\d+)_", "p00"), (r"p\d+_", "p00_"), (r"/(?:p\d+)_", "/p00_")],
)
def test_a_group_is_the_pattern_s_group_or_the_whole_match(
    tmp_path: Path, pattern: str, group: str
) -> None:
    _put(tmp_path, *(f"train/{c}/p00_1.png" for c in "ab"), *(f"test/{c}/p01_1.png" for c in "ab"))
    assert _load(tmp_path, group_by=pattern).train.groups == (group, group)


def test_a_group_on_both_sides_of_a_given_split_is_refused(tmp_path: Path) -> None:
    _put(tmp_path, *(f"{part}/{c}/p00_{part}.png" for part in ("train", "test") for c in "ab"))
    message = _refused(tmp_path, group_by=r"p\d+")
    assert "'p00'" in message
    assert "both the training and the test part" in message


@pytest.mark.parametrize("pattern", [r"p\d", r"p(\d)?(?!x)"])
def test_a_file_that_does_not_match_is_its_own_group(tmp_path: Path, pattern: str) -> None:
    _put(tmp_path, "test/a/1.png", "test/b/1.png")
    _put(tmp_path, "train/a/p1.png", "train/a/p1b.png", "train/a/px.png", "train/b/q.png")
    groups = _load(tmp_path, group_by=pattern).train.groups
    assert groups is not None
    assert len(set(groups)) == 3


def test_a_pattern_that_matches_nothing_is_refused(tmp_path: Path) -> None:
    message = _refused(_parts(tmp_path, 3, 3), group_by="patient")
    assert "data.group_by = 'patient' matches no file" in message
    assert "'train/cat/000.png'" in message


def test_a_split_that_groups_make_impossible_names_the_class(tmp_path: Path) -> None:
    _put(tmp_path, "a/p1_1.png", "a/p1_2.png", "b/p2_1.png", "b/p3_1.png")
    assert "class 'a', in 1 group(s)" in _refused(tmp_path, group_by=r"p\d")


def test_an_unreadable_image_is_refused_with_the_way_to_skip_it(tmp_path: Path) -> None:
    _parts(tmp_path, 3, 3)
    (tmp_path / "test" / "cat" / "001.png").write_text("")
    message = _refused(tmp_path)
    assert "test/cat/001.png" in message
    assert "--skip-unreadable" in message


def test_skipped_images_are_counted_and_ten_are_named(tmp_path: Path) -> None:
    _parts(tmp_path, 20, 3)
    for index in range(12):
        (tmp_path / "train" / "cat" / f"{index:03}.png").write_text("")
    data = _load(tmp_path, skip_unreadable=True)
    assert len(data.train) == 28
    (note,) = data.notes
    assert note.startswith("left out, being unreadable: 12, 'train/cat/000.png', ")
    assert note.endswith("'train/cat/009.png' and 2 more")


def test_a_class_of_which_nothing_can_be_read_is_refused(tmp_path: Path) -> None:
    _parts(tmp_path, 3, 3)
    for path in (tmp_path / "train" / "cat").iterdir():
        path.write_text("")
    assert "is labelled 'cat'" in _refused(tmp_path, skip_unreadable=True)


def test_notes_of_the_listing_are_kept(tmp_path: Path) -> None:
    data = _load(_put(_parts(tmp_path, 3, 3), "val/cat/1.png"))
    assert len(data.notes) == 1
    assert "'val/'" in data.notes[0]


def test_a_root_may_begin_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    _parts(tmp_path / "flowers", 3, 3)
    assert _load(Path("~/flowers")).name == "flowers"


def test_a_limited_folder_has_the_fingerprint_of_the_files_it_uses(tmp_path: Path) -> None:
    data = _load(_parts(tmp_path, 5, 5), limit=5)
    paths = [tmp_path / name for name in _names(data.train)]
    assert data.train.images.fingerprint() == FileImages(paths, tmp_path).fingerprint()


def test_validation_is_held_out_alike_of_every_class(tmp_path: Path) -> None:
    data = _load(_parts(tmp_path, 20, 2)).train
    train, validation = hold_out(data, 0.25, 0)
    assert train.targets.bincount().tolist() == [15, 15]
    assert validation.targets.bincount().tolist() == [5, 5]
    assert sorted(_names(train) + _names(validation)) == sorted(_names(data))
    assert isinstance(validation.images, Subset)
    assert _names(hold_out(data, 0.25, 0)[1]) == _names(validation)
    assert _names(hold_out(data, 0.25, 1)[1]) != _names(validation)


def test_validation_that_cannot_be_held_out_names_the_class(tmp_path: Path) -> None:
    _put(tmp_path, "train/a/p1.png", "train/a/p1b.png", "train/b/p2.png", "train/b/p3.png")
    data = _load(_put(tmp_path, "test/a/p4.png", "test/b/p4.png"), group_by=r"p\d").train
    with pytest.raises(DataError, match="class 'a'"):
        hold_out(data, 0.5, 0)


def test_labels_that_are_not_kept_become_unlabelled(tmp_path: Path) -> None:
    data = _load(_parts(tmp_path, 20, 2)).train
    few = keep_labels(data, 7, 0)
    assert few.images is data.images
    assert len(few.labelled) == 7
    assert sorted(few.targets[few.labelled].bincount().tolist()) == [3, 4]
    assert few.targets[few.labelled].equal(data.targets[few.labelled])
    assert torch.equal(keep_labels(data, 7, 0).targets, few.targets)
    assert not torch.equal(keep_labels(data, 7, 1).targets, few.targets)


def test_more_labels_than_there_are_cannot_be_kept(tmp_path: Path) -> None:
    data = _load(_parts(tmp_path, 5, 2)).train
    said = r"cannot keep 11 labels.*--labels N.*--set data\.labels=none"
    with pytest.raises(DataError, match=said):
        keep_labels(data, 11, 0)
    assert keep_labels(data, 10, 0).targets.equal(data.targets)
