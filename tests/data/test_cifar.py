"""CIFAR from tiny archives of the same layout: found, damaged, or out of reach."""

import hashlib
import io
import os
import pickle
import socket
import tarfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100

from kdcore.data.cifar import load_cifar10, load_cifar100
from kdcore.data.images import ImageData
from kdcore.errors import DataError

UNREACHABLE = "http://127.0.0.1:9/{}"
"""Nothing listens on the discard port of this machine."""


class _Warns:
    """Unpickles to 0, with the warning that some versions of NumPy give for old pickles."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return _warn, ()


def _warn() -> int:
    warnings.warn("dtype(): align", np.exceptions.VisibleDeprecationWarning, stacklevel=1)
    return 0


def _pixels(seed: int, images: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (images, 3072), dtype=np.uint8)


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _archive(dataset: type[CIFAR10], files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{dataset.base_folder}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _expect(
    monkeypatch: pytest.MonkeyPatch, dataset: type[CIFAR10], labels: str, names: list[str]
) -> bytes:
    """Make torchvision expect a tiny archive, reachable nowhere, and return it."""
    train, test, meta = (
        dataset.train_list[0][0],
        dataset.test_list[0][0],
        dataset.meta["filename"],
    )
    files = {
        train: pickle.dumps({"data": _pixels(0, 6), labels: [0, 1] * 3, "old": _Warns()}),
        test: pickle.dumps({"data": _pixels(1, 2), labels: [0, 1]}),
        meta: pickle.dumps({dataset.meta["key"]: names}),
    }
    archive = _archive(dataset, files)
    monkeypatch.setattr(dataset, "train_list", [[train, _md5(files[train])]])
    monkeypatch.setattr(dataset, "test_list", [[test, _md5(files[test])]])
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": _md5(files[meta])})
    monkeypatch.setattr(dataset, "tgz_md5", _md5(archive))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(dataset, "url", UNREACHABLE.format(dataset.filename))
    return archive


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> bytes:
    return _expect(monkeypatch, CIFAR10, "labels", ["cat", "dog"])


def _put(root: Path, archive: bytes) -> Path:
    root.mkdir(exist_ok=True)
    path: Path = root / CIFAR10.filename
    path.write_bytes(archive)
    return path


@contextmanager
def _served(content: bytes) -> Iterator[str]:
    """Serve the content on this machine alone, and yield its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/{CIFAR10.filename}"
        finally:
            server.shutdown()
            thread.join()


def _message(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_cifar10(root)
    message = str(caught.value)
    assert "\n" not in message
    return message


def _check(data: ImageData) -> None:
    assert (len(data.train), len(data.test)) == (6, 2)
    assert data.train.classes == data.test.classes == ("cat", "dog")
    assert data.train.targets.tolist() == [0, 1] * 3
    expected = torch.from_numpy(_pixels(0, 6)).view(6, 3, 32, 32)
    assert data.train.images.read(5).equal(expected[5])


def test_an_archive_is_extracted_and_read(
    tmp_path: Path, archive: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    _put(tmp_path, archive)
    _check(load_cifar10(tmp_path))
    assert capsys.readouterr().out == ""


def test_extracted_files_need_neither_archive_nor_a_folder_to_write_to(
    tmp_path: Path, archive: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _put(tmp_path, archive)
    load_cifar10(tmp_path)
    path.unlink()
    monkeypatch.setattr(os, "access", lambda *_: False)
    _check(load_cifar10(tmp_path))


def test_cifar100_has_its_fine_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = _expect(monkeypatch, CIFAR100, "fine_labels", ["cat", "dog"])
    (tmp_path / CIFAR100.filename).write_bytes(archive)
    data = load_cifar100(tmp_path)
    _check(data)
    assert data.name == "cifar100"


def test_without_a_network_the_archive_its_address_and_its_folder_are_named(
    tmp_path: Path, archive: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    del archive
    root = tmp_path / "data"
    message = _message(root)
    for part in (CIFAR10.filename, CIFAR10.url, repr(str(root))):
        assert part in message
    assert capsys.readouterr().out == ""


def test_a_download_is_used_without_noise(
    tmp_path: Path,
    archive: bytes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with _served(archive) as url:
        monkeypatch.setattr(CIFAR10, "url", url)
        _check(load_cifar10(tmp_path / "data"))
    assert capsys.readouterr().out == ""


def test_a_broken_download_leaves_nothing_behind(
    tmp_path: Path, archive: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    with _served(archive[:50]) as url:
        monkeypatch.setattr(CIFAR10, "url", url)
        assert "could not be downloaded" in _message(root)
        assert not root.exists()
        root.mkdir()
        assert "could not be downloaded" in _message(root)
    assert list(root.iterdir()) == []


def test_a_damaged_archive_is_named_and_left_alone(tmp_path: Path, archive: bytes) -> None:
    path = _put(tmp_path, archive[:-5])
    message = _message(tmp_path)
    assert "damaged or incomplete" in message
    assert repr(str(path)) in message
    assert path.read_bytes() == archive[:-5]


def test_damaged_files_are_mended_from_the_archive(tmp_path: Path, archive: bytes) -> None:
    _put(tmp_path, archive)
    load_cifar10(tmp_path)
    for name in ("test_batch", "batches.meta"):
        (tmp_path / CIFAR10.base_folder / name).write_bytes(b"")
    _check(load_cifar10(tmp_path))


def test_files_that_are_damaged_in_the_archive_are_named(
    tmp_path: Path, archive: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    _put(tmp_path, archive)
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": "another"})
    assert f"{str(tmp_path / CIFAR10.base_folder)!r} are damaged" in _message(tmp_path)


def test_a_root_that_cannot_be_made_is_named(tmp_path: Path, archive: bytes) -> None:
    del archive
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        message = _message(root)
        assert "cannot be put there" in message
        assert repr(str(root)) in message


def test_a_read_only_root_is_named(
    tmp_path: Path, archive: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    _put(tmp_path, archive)
    # Not by permissions: the tests may run as a user whom those do not stop.
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)
        assert "read-only" in _message(tmp_path)
    load_cifar10(tmp_path)


def test_waiting_for_a_network_ends_and_leaves_no_trace(
    tmp_path: Path, archive: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    del archive
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{silent.getsockname()[1]}/a")
        monkeypatch.setattr("kdcore.data.cifar.PATIENCE_SECONDS", 0.1)
        assert "timed out" in _message(tmp_path)
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize("layout", ["cat/1.png", "train/cat/1.JPG"])
def test_a_folder_of_images_is_left_alone_and_named(
    tmp_path: Path, archive: bytes, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "photos"
    (root / layout).parent.mkdir(parents=True)
    (root / layout).write_bytes(b"")
    before = sorted(root.rglob("*"))
    with _served(archive) as url:
        monkeypatch.setattr(CIFAR10, "url", url)
        message = _message(root)
    assert f"{str(root)!r} holds folders of images: add --data folder (or --set" in message
    assert "or give the folder of cifar10" in message
    assert sorted(root.rglob("*")) == before
    _put(root, archive)
    _check(load_cifar10(root))


@pytest.mark.parametrize("layout", ["cat/1.txt", "1.png", ".thumbnails/1.png"])
def test_a_folder_that_holds_something_else_may_be_downloaded_into(
    tmp_path: Path, archive: bytes, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / layout).parent.mkdir(exist_ok=True)
    (tmp_path / layout).write_bytes(b"")
    with _served(archive) as url:
        monkeypatch.setattr(CIFAR10, "url", url)
        _check(load_cifar10(tmp_path))


def test_a_root_in_a_folder_that_is_not_there_is_not_made(tmp_path: Path, archive: bytes) -> None:
    del archive
    message = _message(tmp_path / "no" / "data")
    assert f"{str(tmp_path / 'no' / 'data')!r} does not exist" in message
    assert not (tmp_path / "no").exists()
