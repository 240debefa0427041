"""What somebody may hand over to do harm: one line, exit code 2, nothing run, nothing written."""

import json
import math
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from kdcore.cli.main import run_command
from kdcore.configfile import as_comparison, as_run, override, read_file
from kdcore.errors import UserError
from kdcore.files import save_weights
from kdcore.models.tutorial import LightNN

SMALL = [
    *("compare", "--recipe", "tutorial", "--epochs", "1", "--limit", "40", "--quiet"),
    *("--teacher-model", "lightnn", "--image-size", "8", "--device", "cpu"),
]


class Runs:
    """Makes a file when it is unpickled."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.made),)


@pytest.fixture
def refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., str]]:
    """Return a function that runs a command line and holds what it does against the promise."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def run(*arguments: str | Path) -> str:
        assert run_command([str(argument) for argument in arguments]) == 2
        *before, line = capsys.readouterr().err.splitlines()
        assert all(each.startswith("importing ") for each in before)
        assert line.startswith("error: ")
        assert line.isprintable()
        assert len(line) < 1000
        assert not (tmp_path / "made").exists()
        written = [path for path in work.rglob("*") if path.is_file()]
        assert not [path for path in written if path.name == "result.json"], written
        return line

    yield run
    assert not (tmp_path / "made").exists()


def _safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _entry(start: int, end: int, shape: list[int] | None = None) -> dict[str, object]:
    return {"dtype": "F32", "shape": shape or [(end - start) // 4], "data_offsets": [start, end]}


def _good(path: Path) -> bytes:
    save_weights(path, LightNN(image_size=8).state_dict())
    return path.read_bytes()


def _pickled_call(path: Path) -> None:
    path.write_bytes(pickle.dumps(Runs(path.parent / "made")))


def _torch_call(path: Path) -> None:
    torch.save({"weight": Runs(path.parent / "made")}, path)


def _wrapped_call(path: Path) -> None:
    torch.save({"state_dict": LightNN(image_size=8).state_dict(), "hook": Runs(path)}, path)


def _reads(write: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_bytes(write(_good(path)))

    return make


def _flipped_header(data: bytes) -> bytes:
    return data[:20] + bytes([data[20] ^ 0x80]) + data[21:]


def _zip_of_nothing(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "nothing")


def _not_finite(path: Path) -> None:
    weights = LightNN(image_size=8).state_dict()
    next(iter(weights.values())).fill_(math.nan)
    save_weights(path, weights)


def _objects(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.array([Runs(path.parent / "made")], dtype=object), allow_pickle=True)


TWICE = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'  # noqa: E501
WEIGHTS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a pickle that calls": ("t.pt", _pickled_call),
    "a torch file that calls": ("t.pt", _torch_call),
    "a call beside weights": ("t.pt", _wrapped_call),
    "a pickled module": ("t.pt", lambda path: torch.save(nn.Linear(1, 1), path)),
    "a list of tensors": ("t.pt", lambda path: torch.save([torch.ones(1)], path)),
    "an object array": ("t.pt", _objects),
    "an object array of the other name": ("t.safetensors", _objects),
    "a zip of something else": ("t.pt", _zip_of_nothing),
    "an empty file": ("t.safetensors", lambda path: path.write_bytes(b"")),
    "an empty torch file": ("t.pt", lambda path: path.write_bytes(b"")),
    "a truncated file": ("t.safetensors", _reads(lambda data: data[:-5])),
    "a truncated header": ("t.safetensors", _reads(lambda data: data[:30])),
    "a flipped header": ("t.safetensors", _reads(_flipped_header)),
    "trailing bytes": ("t.safetensors", _reads(lambda data: data + b"more")),
    "a header longer than the file": (
        "t.safetensors",
        lambda path: path.write_bytes(_safetensors({}, length=2**40)),
    ),
    "a negative header": (
        "t.safetensors",
        lambda path: path.write_bytes(_safetensors({}, length=2**64 - 1)),
    ),
    "overlapping tensors": (
        "t.safetensors",
        lambda path: path.write_bytes(
            _safetensors({"a": _entry(0, 8), "b": _entry(4, 12)}, bytes(12))
        ),
    ),
    "offsets outside": (
        "t.safetensors",
        lambda path: path.write_bytes(_safetensors({"a": _entry(0, 400)}, bytes(4))),
    ),
    "a shape that lies": (
        "t.safetensors",
        lambda path: path.write_bytes(_safetensors({"a": _entry(0, 4, [2**40])}, bytes(4))),
    ),
    "a name twice": ("t.safetensors", lambda path: path.write_bytes(_safetensors(TWICE, bytes(4)))),
    "a header of brackets": (
        "t.safetensors",
        lambda path: path.write_bytes(_safetensors(b"[" * 100_000)),
    ),
    "weights that are not finite": ("t.safetensors", _not_finite),
    "weights of another model": (
        "t.safetensors",
        lambda path: save_weights(path, {"escape\x1b[31m": torch.ones(1)}),
    ),
    "a folder": ("t.safetensors", lambda path: path.mkdir()),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_of_bad_intent(tmp_path: Path, refused: Callable[..., str], kind: str) -> None:
    name, make = WEIGHTS[kind]
    path = tmp_path / name
    make(path)
    assert str(path) in refused(*SMALL, "--teacher", path)


def test_good_weights_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the control
    _good(tmp_path / "t.safetensors")
    assert run_command([*SMALL, "--teacher", "t.safetensors"]) == 0


CONFIGS: dict[str, bytes] = {
    "not UTF-8": b"seed = \xff",
    "an unclosed string": b'device = "cpu',
    "a key twice": b"seed = 1\nseed = 2",
    "a table twice": b"[data]\n[data]",
    "an unknown key": b"sed = 1",
    "an unknown key with an escape": b'"\\u001b[31mred" = 1',
    "a truth value for a number": b"[train]\nepochs = true",
    "text for a number": b'[train]\nepochs = "ten"',
    "no epochs": b"[train]\nepochs = 0",
    "negative epochs": b"[train]\nepochs = -5",
    "a number that is none": b"[train]\nlr = nan",
    "an infinite number": b"[train]\nlr = inf",
    "a fraction of an epoch": b"[train]\nepochs = 1.5",
    "a seed beyond all seeds": b"seed = 99999999999999999999999",
    "brackets of a megabyte": b"a = " + b"[" * 2**20,
    "tables of a megabyte": b"[" + b"a." * 2**19 + b"a]\nb = 1",
    "a list for a table": b"data = [1]",
    "a table for a list": b"[strategies]\nname = 'logits'",
    "a strategy without a name": b"strategies = [{ weight = 1.0 }]",
    "a strategy that is nowhere": b"strategies = [{ name = 'nowhere' }]",
    "a strategy's name with an escape": b'strategies = [{ name = "\\u001b]0;owned\\u0007" }]',
    "a label that climbs": b"strategies = [{ name = 'logits', label = '../../up' }]",
    "a label of a path": b"strategies = [{ name = 'logits', label = '/etc/passwd' }]",
    "a setting of another method": b"strategies = [{ name = 'logits', kernel_size = 3 }]",
    "a weight that is none": b"strategies = [{ name = 'logits', weight = nan }]",
    "a device of nowhere": b"device = 'toaster'",
    "a wrapper of nowhere": b"wrappers = ['nowhere']",
    "a model of nowhere": b"[student]\nmodel = 'nowhere'",
    "a model that is no model": b"[student]\nmodel = 'os.path:join'",
    "a regular expression that is none": b"[data]\nname='folder'\nroot='.'\ngroup_by = '('",
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_files_of_bad_intent(tmp_path: Path, refused: Callable[..., str], kind: str) -> None:
    file = tmp_path / "experiment.toml"
    file.write_bytes(CONFIGS[kind])
    refused("run", file)


@pytest.mark.parametrize("kind", ["truncated", "text", "a bomb", "empty"])
def test_images_of_bad_intent(tmp_path: Path, refused: Callable[..., str], kind: str) -> None:
    root = tmp_path / "photos"
    for label in ("a", "b"):
        (root / label).mkdir(parents=True)
        for number in range(6):
            Image.new("RGB", (8, 8), (40 * number, 9, 9)).save(root / label / f"{number}.png")
    victim = root / "a" / "3.png"
    if kind == "truncated":
        victim.write_bytes(victim.read_bytes()[:40])
    elif kind == "text":
        victim.write_text("import os")
    elif kind == "empty":
        victim.write_bytes(b"")
    else:
        Image.new("1", (20000, 20000)).save(victim)
    line = refused("compare", "--data", "folder", "--root", root, "--image-size", "8", "--quiet")
    assert "3.png" in line


JSONLIKE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["logits", "fitnets", "digits", "auto", "nan", "../x", "deepnn"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = [
    *("seed", "seeds", "device", "task_weight", "wrappers", "strategies", "stages", "candidates"),
    *("data", "teacher", "student", "train", "augment", "cache", "checkpoint", "nothing"),
]
INNER = [
    *("name", "root", "labels", "limit", "model", "weights", "epochs", "lr", "batch_size", "steps"),
    *(
        "schedule",
        "milestones",
        "views",
        "crop",
        "mixup",
        "mode",
        "dtype",
        "folder",
        "keep",
        "train",
    ),
]
TREES = st.dictionaries(
    st.sampled_from(KEYS),
    JSONLIKE | st.dictionaries(st.sampled_from(INNER), JSONLIKE, max_size=4),
    max_size=5,
)


def _one_line(error: UserError) -> bool:
    return "\n" not in str(error)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TREES)
def test_no_configuration_ends_in_a_traceback(tree: dict[str, Any]) -> None:
    for read in (as_run, as_comparison):
        with suppress(_Refused), _refusals():
            read(dict(tree), "random")


class _Refused(Exception):  # noqa: N818 - nothing is wrong
    pass


@contextmanager
def _refusals() -> Iterator[None]:
    """Let nothing but a refusal of one line pass."""
    try:
        yield
    except UserError as error:
        if not _one_line(error):
            raise AssertionError(str(error)) from error
        raise _Refused from error


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30), st.text(max_size=30))
def test_no_assignment_ends_in_a_traceback(key: str, value: str) -> None:
    tree: dict[str, Any] = {"strategies": [{"name": "logits"}], "train": {"epochs": 1}}
    with suppress(_Refused), _refusals():
        override(tree, [f"{key}={value}".replace("\n", " ")])


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=200))
def test_no_file_ends_in_a_traceback(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "experiment.toml"
    file.write_bytes(data)
    with suppress(_Refused), _refusals():
        as_run(read_file(file), "random")


def test_a_traceback_would_be_found_out() -> None:  # the control
    with pytest.raises(ZeroDivisionError), suppress(_Refused), _refusals():
        _ = 1 / 0
    with pytest.raises(AssertionError), suppress(_Refused), _refusals():
        raise UserError("two\nlines")
