"""Data sets that an experiment names: what a callable may return, parts, labels and refusals."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

from kdcore.data.named import NamedData, load_named
from kdcore.errors import DataError
from kdcore.positions import Segmentation, Sequences
from kdcore.sections import DataConfig
from kdcore.tasks import Classification, Task, labelled_samples
from kdcore.values import MultiLabel, NoTask, Regression

MODULE = """
import torch
from torch.utils.data import TensorDataset

INPUTS = torch.arange(20.0).view(20, 1)

def pair():
    return (INPUTS, torch.arange(20) % 4), (INPUTS[:5], torch.arange(5) % 4)

def numbers():
    return TensorDataset(INPUTS, INPUTS * 2), TensorDataset(INPUTS[:5], INPUTS[:5] * 2)

def tokens():
    targets = torch.arange(60).view(20, 3) % 7
    targets[3:6] = -100
    return (INPUTS, targets), (INPUTS[:5], targets[:5])

def masks():
    targets = torch.arange(80).view(20, 2, 2) % 3
    return (INPUTS, targets), (INPUTS[:5], targets[:5])

def marks():
    targets = torch.arange(40).view(20, 2).float() % 2
    return (INPUTS, targets), (INPUTS[:5], targets[:5])

class Rows:
    outputs = 9
    def __init__(self, same):
        self.same_every_epoch = same
    def __len__(self):
        return 4
    def __getitem__(self, index):
        return torch.ones(2) * index, index % 2

def named():
    return Rows(True), Rows(False)

def one():
    return Rows(True)

def three():
    return 1, 2, 3

def fails():
    raise RuntimeError("out of luck")

def ragged():
    return [(torch.zeros(1), torch.zeros(1)), (torch.zeros(1), torch.zeros(2))], Rows(True)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_data.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_data", raising=False)


def _load(name: str, task: Task, **keys: Any) -> NamedData:
    config = {"name": f"my_data:{name}", **keys}
    return load_named(DataConfig.model_validate(config), task)


pytestmark = pytest.mark.usefixtures("module")


def test_pairs_of_tensors_and_data_sets_are_samples() -> None:
    data = _load("pair", Classification())
    assert (len(data.student), len(data.teacher), len(data.test)) == (20, 20, 5)
    assert (data.outputs, data.validation, data.student.views) == (4, None, 1)
    batch = data.student.batch(torch.tensor([3, 1]))
    assert (batch.inputs.tolist(), batch.targets.tolist()) == ([[3.0], [1.0]], [3, 1])
    assert _load("numbers", Regression()).student.targets[2].tolist() == [4.0]


@pytest.mark.parametrize(
    ("name", "task", "outputs"),
    [
        ("pair", Classification(), 4),
        ("masks", Segmentation(), 3),
        ("tokens", Sequences(), 7),
        ("numbers", Regression(), 1),
        ("marks", MultiLabel(), 2),
        ("numbers", NoTask(), None),
        ("named", Classification(), 9),
    ],
)
def test_how_many_outputs_there_are_is_said_by_the_data_set_or_its_targets(
    name: str, task: Task, outputs: int | None
) -> None:
    assert _load(name, task).outputs == outputs


def test_only_data_that_is_the_same_every_epoch_has_one_view_and_a_fingerprint() -> None:
    data = _load("named", Classification())
    assert (data.student.views, data.test.views) == (1, None)
    assert data.student.fingerprint is not None
    assert data.test.fingerprint is None


def test_the_limit_is_of_both_parts() -> None:
    data = _load("pair", Classification(), limit=3)
    assert (len(data.student), len(data.test)) == (3, 3)


def test_what_is_held_out_keeps_the_shares_of_classes_and_is_not_learned_from() -> None:
    data = _load("pair", Classification(), validation=0.2)
    assert data.validation is not None
    assert sorted(data.validation.targets.tolist()) == [0, 1, 2, 3]
    kept = [float(data.student.batch(torch.tensor([i])).inputs) for i in range(16)]
    held = [float(data.validation.batch(torch.tensor([i])).inputs) for i in range(4)]
    assert sorted([*kept, *held]) == list(map(float, range(20)))


def test_few_labels_are_the_students_and_the_teacher_keeps_its_own() -> None:
    for name, task in (("numbers", Regression()), ("tokens", Sequences())):
        data = _load(name, task, labels=5)
        assert int(labelled_samples(data.student.targets).sum()) == 5
        assert len(data.student) == 20
        assert bool(labelled_samples(data.teacher.targets).all())
    assert len(data.teacher) == 17  # those of the sequences that have a token


def test_a_subset_has_a_fingerprint_of_its_own() -> None:
    student = _load("pair", Classification()).student
    some = student.subset(torch.arange(19))
    assert some.fingerprint not in (None, student.fingerprint)
    assert student.subset(torch.arange(20)).fingerprint == student.fingerprint


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("one", "returned Rows, expected a training and a test data set"),
        ("three", "returned tuple, expected a training and a test data set"),
        ("fails", "failed: RuntimeError: out of luck"),
        ("missing", "has no such callable: unknown name 'missing'"),
        ("ragged", r"training\[1\]: the target is float32 \[2\], that of .*training\[0\] float32"),
    ],
)
def test_what_is_no_data_is_refused(name: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        _load(name, Regression())


def test_a_module_that_is_not_there_is_named_with_where_it_was_looked_for() -> None:
    config = DataConfig.model_validate({"name": "no_such_module:data"})
    with pytest.raises(DataError, match=r"'no_such_module:data' cannot be imported.*looked for"):
        load_named(config, Classification())


def test_a_tensor_data_set_is_the_same_every_epoch_and_what_is_derived_may_not_be() -> None:
    from kdcore.data.named import source_from

    class Derived(TensorDataset):
        pass

    tensors = torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64)
    assert source_from(TensorDataset(*tensors), "x").views == 1
    assert source_from(Derived(*tensors), "x").views is None
