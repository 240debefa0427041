"""What the labels of a table mean for each task."""

import math
from pathlib import Path

import pytest
import torch

from kdcore.data.folder import ListedFile, Listing
from kdcore.data.labels import encode
from kdcore.errors import DataError

ROOT = Path("/data")


def _listing(*labels: str | None) -> Listing:
    files = tuple(ListedFile(ROOT / f"{i}.png", label, None) for i, label in enumerate(labels))
    classes = sorted({label for label in labels if label is not None})
    return Listing(ROOT, files, tuple(classes))


@pytest.mark.parametrize("kind", ["classification", "none"])
def test_names_are_classes(kind: str) -> None:
    targets, classes = encode(_listing("dog", "cat", None, "dog"), kind, "table.csv")
    assert classes == ("cat", "dog")
    assert targets.tolist() == [1, 0, -100, 1]


def test_several_names_are_labels_of_their_own_and_a_line_is_none_of_them() -> None:
    targets, labels = encode(_listing("red; round", "-", None, "red;"), "multi-label", "t.csv")
    assert labels == ("red", "round")
    assert targets[[0, 1, 3]].tolist() == [[1, 1], [0, 0], [1, 0]]
    assert targets[2].isnan().all()
    assert targets.dtype == torch.float32


def test_numbers_are_values() -> None:
    targets, values = encode(_listing("1.5 -2", None, "0;3e2"), "regression", "t.csv")
    assert values == ("value 1", "value 2")
    assert targets[[0, 2]].tolist() == [[1.5, -2.0], [0.0, 300.0]]
    assert all(math.isnan(value) for value in targets[1].tolist())


@pytest.mark.parametrize(
    ("kind", "labels", "words"),
    [
        ("classification", ("cat", "cat"), "needs two classes or more, found 'cat'"),
        ("multi-label", ("-", None), "has no labels"),
        ("regression", ("1", "far"), r"1.png: its label is 'far', expected numbers"),
        ("regression", ("1", "inf"), r"1.png: its label is 'inf', expected numbers"),
        ("regression", ("1", "1 2"), "labelled with 1 and 2 numbers; give each as many"),
        ("regression", (None, None), "labelled with no numbers"),
    ],
)
def test_labels_that_do_not_do_are_refused(
    kind: str, labels: tuple[str | None, ...], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        encode(_listing(*labels), kind, "t.csv")
