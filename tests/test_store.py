"""Arrays on disk by key: real faults on real files, killed builders and two at once."""

import errno
import hashlib
import json
import mmap
import multiprocessing
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdcore.arrays import ArraySpec
from kdcore.errors import ConfigError, UserError
from kdcore.store import Opened, Store

A, B, C, D = "aa", "b0", "c1", "d2"
LARGE = 10**6
FLOATS = torch.arange(12.0).reshape(3, 4)
HALVES = FLOATS.half()


def _build(
    store: Store, key: str, arrays: Mapping[str, Tensor], facts: Mapping[str, object] | None = None
) -> None:
    specs = {name: ArraySpec(tuple(array.shape), array.dtype) for name, array in arrays.items()}
    with store.locked(key) as slot, slot.building(specs, facts or {}) as tensors:
        for name, array in arrays.items():
            tensors[name].copy_(array)


def _bytes(count: int) -> dict[str, Tensor]:
    return {"bytes": torch.full((count,), 7, dtype=torch.uint8)}


def _opened(store: Store, key: str) -> Opened:
    with store.locked(key) as slot:
        return slot.open()


def _arrays(opened: Opened) -> Mapping[str, Tensor]:
    assert opened.problem is None
    assert opened.arrays is not None
    return opened.arrays


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".locks")


def _keys(store: Store) -> list[str]:
    return [entry.key for entry in store.entries()]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", LARGE)


class TestRoundTrip:
    def test_arrays_return_as_they_were(self, store: Store) -> None:
        _build(store, A, {"float": FLOATS, "half": HALVES})
        arrays = _arrays(_opened(store, A))
        assert list(arrays) == ["float", "half"]
        assert torch.equal(arrays["float"], FLOATS)
        assert torch.equal(arrays["half"], HALVES)
        assert _names(store.folder / f"{A}.arrays") == ["0.bin", "1.bin", "manifest.json"]

    def test_facts_survive(self, store: Store) -> None:
        facts = {"name": "Ω", "list": (1, 2.5, None), "nested": {"yes": True}, "tiny": 1e-300}
        _build(store, A, {"table": FLOATS}, facts)
        expected = {**facts, "list": [1, 2.5, None]}
        assert _opened(store, A).facts == expected
        assert [entry.facts for entry in store.entries()] == [expected]

    def test_a_fact_that_json_does_not_have_is_refused_before_there_is_a_file(
        self, store: Store
    ) -> None:
        for fact in (object(), float("nan")):
            with pytest.raises((TypeError, ValueError)):
                _build(store, A, {"table": FLOATS}, {"fact": fact})
        assert _names(store.folder) == []

    def test_where_there_is_nothing_nothing_is_returned(self, store: Store) -> None:
        assert _opened(store, A) == Opened(None)

    def test_what_is_written_to_a_tensor_stays_in_memory(self, store: Store) -> None:
        _build(store, A, {"table": FLOATS})
        read = _arrays(_opened(store, A))["table"]
        read.fill_(-1)
        assert read.min() == -1
        assert torch.equal(_arrays(_opened(store, A))["table"], FLOATS)

    def test_a_mapping_outlives_its_entry(self, store: Store) -> None:
        _build(store, A, {"table": FLOATS})
        read = _arrays(_opened(store, A))["table"]
        store.clear()
        assert torch.equal(read, FLOATS)


def _edit(entry: Path, change: Callable[[dict[str, Any]], object], *, signed: bool = True) -> None:
    """Edit a manifest; signed, it is as if kdcore had written it so."""
    manifest = json.loads((entry / "manifest.json").read_text())
    change(manifest)
    if signed:
        del manifest["sha256"]
        manifest["sha256"] = hashlib.sha256(json.dumps(manifest).encode()).hexdigest()
    (entry / "manifest.json").write_text(json.dumps(manifest))


def _to_symlink(path: Path) -> None:
    """Move a file or folder out of the store, as it is, and link to it."""
    outside = path.parents[1] / f"outside-{path.name}"
    path.rename(outside)
    path.symlink_to(outside)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


def _to_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_bytes(b"junk")


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "changed bit": (lambda e: _flip(e / "1.bin"), "'half' does not hold what was written"),
    "entry a symlink": (_to_symlink, "it is no folder"),
    "entry a file": (_to_file, "it is no folder"),
    "no manifest": (lambda e: (e / "manifest.json").unlink(), "manifest.json is no file"),
    "manifest a symlink": (lambda e: _to_symlink(e / "manifest.json"), "manifest.json is no file"),
    "half a manifest": (lambda e: os.truncate(e / "manifest.json", 99), "is none, or is not whole"),
    "binary manifest": (
        lambda e: (e / "manifest.json").write_bytes(b"\xff\xfe"),
        "is none, or is not whole",
    ),
    "manifest a list": (lambda e: (e / "manifest.json").write_text("[]"), "is none, or"),
    "manifest too deep": (
        lambda e: (e / "manifest.json").write_text("[" * 100_000),
        "is none, or is not whole",
    ),
    "other format": (lambda e: _edit(e, lambda m: m.update(format=2)), "its format is 2, not 1"),
    "other key": (lambda e: _edit(e, lambda m: m.update(key=B)), "is not as it was written"),
    "other facts": (
        lambda e: _edit(e, lambda m: m["facts"].update(teacher="b"), signed=False),
        "its manifest is not as it was written",
    ),
    "emptied": (lambda e: os.truncate(e / "1.bin", 0), "'half' has 0 bytes, not 24"),
    "missing": (lambda e: (e / "1.bin").unlink(), r"its 1\.bin is no file of its own"),
    "turned": (
        lambda e: _edit(e, lambda m: m["arrays"]["half"].update(shape=[4, 3]), signed=False),
        "its manifest is not as it was written",
    ),
    "dtype unknown": (
        lambda e: _edit(e, lambda m: m["arrays"]["half"].update(dtype="object")),
        "its list of arrays is none, or is not whole",
    ),
    "arrays a list": (lambda e: _edit(e, lambda m: m.update(arrays=[1])), "is none, or is not"),
    "facts a number": (lambda e: _edit(e, lambda m: m.update(facts=1)), "is none, or is not"),
}


class TestDamage:
    @pytest.fixture
    def built(self, store: Store) -> Store:
        _build(store, A, {"float": FLOATS, "half": HALVES}, {"teacher": "a"})
        return store

    @pytest.mark.parametrize("fault", FAULTS)
    def test_an_entry_that_is_not_as_it_was_written_is_removed_with_the_reason(
        self, built: Store, fault: str
    ) -> None:
        damage, reason = FAULTS[fault]
        entry = built.folder / f"{A}.arrays"
        damage(entry)
        opened = _opened(built, A)
        assert opened.arrays is None
        with pytest.raises(ValueError, match=rf"^{entry} was removed: .*{reason}[^\n]*$"):
            raise ValueError(opened.problem)
        assert all(name.startswith("outside") for name in _names(built.folder))
        assert _opened(built, A) == Opened(None)
        _build(built, A, {"half": HALVES})
        assert torch.equal(_arrays(_opened(built, A))["half"], HALVES)

    def test_one_that_is_opens(self, built: Store) -> None:
        entry = built.folder / f"{A}.arrays"  # the control
        for _ in range(2):
            assert torch.equal(_arrays(_opened(built, A))["half"], HALVES)
            _edit(entry, lambda manifest: manifest["facts"].update(teacher="b"))
        assert _opened(built, A).facts == {"teacher": "b"}

    def test_what_a_link_led_to_stays(self, built: Store) -> None:
        entry = built.folder / f"{A}.arrays"
        outside = entry.parents[1] / f"outside-{entry.name}"
        _to_symlink(entry)
        before = _names(outside)
        assert _opened(built, A).problem is not None
        assert _names(outside) == before

    def test_one_that_memory_cannot_map_is_no_damage(
        self, built: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")

        with monkeypatch.context() as patch:
            patch.setattr(mmap, "mmap", fail)
            with pytest.raises(UserError, match=r"cannot map .*0\.bin into memory: "):
                _opened(built, A)
        assert _opened(built, A).problem is None

    def test_one_that_another_process_removes_meanwhile_is_just_not_there(
        self, built: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = hashlib.file_digest

        def remove_then_hash(*arguments: Any) -> Any:
            built.clear()
            return original(*arguments)

        monkeypatch.setattr(hashlib, "file_digest", remove_then_hash)
        assert _opened(built, A) == Opened(None)


SPECS = {"first": ArraySpec((5000,), torch.uint8), "second": ArraySpec((10,), torch.float32)}


class TestBuilding:
    @pytest.mark.parametrize("error", [ValueError("own"), OSError("own"), KeyboardInterrupt("own")])
    def test_an_exception_passes_and_leaves_nothing(
        self, store: Store, error: BaseException
    ) -> None:
        def build() -> None:
            with store.locked(A) as slot, slot.building(SPECS, {}) as arrays:
                arrays["first"].fill_(1)
                raise error

        with pytest.raises(type(error), match=r"^own$"):
            build()
        assert _names(store.folder) == []
        _build(store, A, _bytes(3))  # the lock is free again

    def test_an_entry_is_not_there_before_its_block_has_ended(self, store: Store) -> None:
        with store.locked(A) as slot:
            with slot.building(SPECS, {}):
                assert _keys(store) == []
                assert slot.open() == Opened(None)
            assert slot.open().arrays is not None

    def test_it_is_on_the_disk_before_it_has_its_name(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        flushed: list[int] = []

        def flush(handle: int) -> None:
            assert not (store.folder / f"{A}.arrays").exists()
            flushed.append(os.fstat(handle).st_ino)

        monkeypatch.setattr(os, "fsync", flush)
        with store.locked(A) as slot, slot.building(SPECS, {}):
            pass
        files = (store.folder / f"{A}.arrays").iterdir()
        assert sorted(flushed) == sorted(path.stat().st_ino for path in files)

    def test_an_entry_that_appeared_meanwhile_stays_and_the_own_is_dropped(
        self, store: Store
    ) -> None:
        _build(store, A, {"table": FLOATS})
        _build(store, A, {"table": FLOATS + 1})
        assert torch.equal(_arrays(_opened(store, A))["table"], FLOATS)
        assert _names(store.folder) == [f"{A}.arrays"]

    def test_what_was_built_here_is_not_read_again_and_what_was_not_is(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hashed: list[str] = []
        original = hashlib.file_digest

        def count(file: Any, name: str) -> Any:
            hashed.append(Path(file.name).name)
            return original(file, name)

        monkeypatch.setattr(hashlib, "file_digest", count)
        with store.locked(A) as slot:
            with slot.building(SPECS, {"teacher": "a"}) as arrays:
                arrays["second"].fill_(3)
            opened = slot.open()
            assert _arrays(opened)["second"].tolist() == [3] * 10
            assert opened.facts == {"teacher": "a"}
            assert hashed == ["0.bin", "1.bin"]
        _arrays(_opened(store, A))  # the control
        assert hashed == ["0.bin", "1.bin"] * 2

    def test_one_that_stayed_in_place_of_the_own_is_verified(self, store: Store) -> None:
        _build(store, A, {"table": FLOATS})
        _flip(store.folder / f"{A}.arrays" / "0.bin")
        with store.locked(A) as slot:
            with slot.building(SPECS, {}):
                pass
            assert "does not hold what was written" in str(slot.open().problem)

    @pytest.mark.parametrize(
        ("owner", "step", "names_bytes"),
        [(os, "posix_fallocate", True), (os, "fsync", False), (Path, "rename", False)],
    )
    def test_a_full_disk_at_any_step_is_one_line_and_leaves_nothing(
        self,
        store: Store,
        monkeypatch: pytest.MonkeyPatch,
        owner: Any,
        step: str,
        names_bytes: bool,
    ) -> None:
        calls: list[object] = []

        def full(*arguments: object) -> None:
            calls.append(arguments)
            if len(calls) == 2 or step == "rename":
                raise OSError(errno.ENOSPC, "No space left on device")

        _build(store, B, _bytes(3))
        monkeypatch.setattr(owner, step, full, raising=False)
        with pytest.raises(UserError) as caught:
            _build(store, A, {name: torch.ones(spec.shape) for name, spec in SPECS.items()})
        message = str(caught.value)
        amount = "20,040 bytes to " if names_bytes else "to "
        assert message == (
            f"cannot write {amount}{store.folder}: No space left on device; "
            "free some space, or choose another folder"
        )
        assert _names(store.folder) == [f"{B}.arrays"]

    @pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no file system in memory here")
    def test_a_disk_that_is_really_too_small_is_one_line_too(self) -> None:
        folder = Path("/dev/shm") / f"kdcore-{os.getpid()}"
        state = os.statvfs("/dev/shm")
        store = Store(folder, 2**62)
        too_much = (state.f_blocks + 1) * state.f_frsize
        try:
            _build(store, A, _bytes(3))  # the control
            with (
                pytest.raises(UserError, match=rf"cannot write {too_much:,} bytes to {folder}: No"),
                store.locked(B) as slot,
                slot.building({"x": ArraySpec((too_much,), torch.uint8)}, {}),
            ):
                pass
            assert _names(folder) == [f"{A}.arrays"]
        finally:
            shutil.rmtree(folder)


def _build_at_once_then_die(folder: Path, barrier: Barrier, dies: bool) -> None:
    """Do what two runs of one teacher do at once; then one is killed while it builds another."""
    torch.set_num_threads(1)
    barrier.wait(300)
    with Store(folder / "shared", LARGE).locked(A) as slot, (folder / "log").open("a", 1) as log:
        opened = slot.open()
        if opened.arrays is None:
            with slot.building({"table": ArraySpec((3, 4), torch.float32)}, {}) as arrays:
                arrays["table"].copy_(FLOATS)
                print("built", file=log)
                time.sleep(0.5)  # the other one surely comes
            opened = slot.open()
        print(_arrays(opened)["table"].sum().item(), file=log)
    if dies:
        with Store(folder / "killed", LARGE).locked(A) as slot, slot.building(SPECS, {}) as arrays:
            arrays["first"].fill_(1)
            os._exit(7)


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder where two processes built the same, and one was killed at another."""
    folder = tmp_path_factory.mktemp("processes")
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(2)
    processes = [
        spawn.Process(target=_build_at_once_then_die, args=(folder, barrier, dies), daemon=True)
        for dies in (False, True)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 7]
    return folder


@pytest.mark.slow
class TestProcesses:
    def test_two_at_once_build_once_and_read_the_same(self, worked: Path) -> None:
        log = (worked / "log").read_text().split()
        assert log == ["built", "66.0", "66.0"]  # 0 + 1 + ... + 11
        assert _names(worked / "shared") == [f"{A}.arrays"]

    @pytest.fixture
    def killed(self, worked: Path, tmp_path: Path) -> Store:
        assert len(_names(worked / "killed")) == 1
        return Store(Path(shutil.copytree(worked / "killed", tmp_path / "store")), LARGE)

    def test_what_a_killed_builder_left_is_no_entry(self, killed: Store) -> None:
        assert killed.entries() == []
        assert _opened(killed, A) == Opened(None)
        assert len(_names(killed.folder)) == 1

    @pytest.mark.parametrize("key", [A, B])
    def test_the_next_build_sweeps_it_and_works(self, killed: Store, key: str) -> None:
        _build(killed, key, {"table": FLOATS})
        assert _names(killed.folder) == [f"{key}.arrays"]
        assert torch.equal(_arrays(_opened(killed, key))["table"], FLOATS)

    def test_clearing_sweeps_it(self, killed: Store) -> None:
        assert killed.clear([]) == 5000 + 4 * 10
        assert _names(killed.folder) == []


class TestLocks:
    @pytest.mark.parametrize(("key", "waits"), [(A, True), (B, False)])
    def test_whoever_holds_a_key_keeps_others_from_it_and_from_no_other(
        self, store: Store, key: str, waits: bool
    ) -> None:
        done = threading.Event()

        def open_it() -> None:
            _opened(store, key)
            done.set()

        thread = threading.Thread(target=open_it)
        with store.locked(A):
            thread.start()
            assert done.wait(0.3 if waits else 30) is not waits
        assert done.wait(30)
        thread.join()

    def test_whoever_still_builds_is_left_alone(self, store: Store) -> None:
        with store.locked(A) as slot, slot.building(SPECS, {}) as arrays:  # the control
            _build(store, B, _bytes(3))
            assert store.clear() == 3
            arrays["first"].fill_(5)
        assert _arrays(_opened(store, A))["first"].tolist() == [5] * 5000


class TestLimit:
    def test_what_was_used_longest_ago_goes_first(self, store: Store) -> None:
        store.limit_bytes = 300
        for key in (A, B, C):
            _build(store, key, _bytes(100))
        assert _keys(store) == [A, B, C]  # just full
        _opened(store, A)
        _build(store, D, _bytes(100))
        assert _keys(store) == [C, A, D]
        _build(store, B, _bytes(101))
        assert _keys(store) == [D, B]

    def test_more_than_the_limit_is_refused_and_costs_nothing(self, store: Store) -> None:
        store.limit_bytes = 1300
        _build(store, A, _bytes(100))
        with pytest.raises(ConfigError) as caught:
            _build(store, B, _bytes(1301))
        assert str(caught.value) == (
            f"1,301 bytes of arrays do not fit in {store.folder}: its limit is 1,300 bytes; "
            "raise the limit, or keep less"
        )
        assert _keys(store) == [A]
        _build(store, B, _bytes(1300))  # the control
        assert _keys(store) == [B]

    def test_what_others_are_building_counts_and_stays(self, store: Store) -> None:
        store.limit_bytes = 100
        _build(store, C, _bytes(30))
        sixty = {"x": ArraySpec((60,), torch.uint8)}
        with store.locked(A) as slot, slot.building(sixty, {}):
            with pytest.raises(ConfigError, match="other processes are writing 60 of them now"):
                _build(store, B, _bytes(41))
            assert _keys(store) == [C]
            _build(store, B, _bytes(40))  # the control
            assert _keys(store) == [B]
        assert sorted(_keys(store)) == [A, B]


class TestListing:
    @pytest.fixture
    def cluttered(self, store: Store) -> Iterator[Store]:
        _build(store, A, _bytes(100), {"teacher": "a"})
        _build(store, B, {"x": FLOATS, "y": HALVES})
        (store.folder / "notes.txt").write_text("mine")
        (store.folder / "2024").mkdir()
        (store.folder / "xyz.arrays").mkdir()
        yield store
        assert {"2024", "notes.txt", "xyz.arrays"} <= set(_names(store.folder))

    def test_entries_are_listed_and_junk_is_not(self, cluttered: Store) -> None:
        (cluttered.folder / "c0.arrays").mkdir()
        (cluttered.folder / "c1.arrays").write_text("")
        (cluttered.folder / "c2.arrays").symlink_to(cluttered.folder / f"{A}.arrays")
        first, second = cluttered.entries()
        assert (first.key, first.nbytes, first.facts) == (A, 100, {"teacher": "a"})
        assert (second.key, second.nbytes, second.facts) == (B, 48 + 24, {})
        assert timedelta(0) <= datetime.now(UTC) - first.last_used < timedelta(minutes=1)
        assert cluttered.clear() == 172
        assert _names(cluttered.folder) == ["2024", "notes.txt", "xyz.arrays"]

    def test_some_are_cleared_and_others_stay(self, cluttered: Store) -> None:
        assert cluttered.clear([A, D]) == 100
        assert _keys(cluttered) == [B]
        assert cluttered.clear([]) == 0
        assert _keys(cluttered) == [B]

    def test_a_folder_that_is_not_there_is_empty_and_is_not_made(self, store: Store) -> None:
        assert (store.entries(), store.clear()) == ([], 0)
        assert not store.folder.exists()


class TestErrors:
    @pytest.mark.parametrize("key", ["", "AB", "0g", "../a", "a\n", "a" * 129, ".locks"])
    def test_what_is_no_key_is_refused(self, store: Store, key: str) -> None:
        for use in (lambda: _opened(store, key), lambda: store.clear([key])):
            with pytest.raises(UserError, match="is no key: 1 to 128 of the letters 0-9 and a-f"):
                use()
        assert not store.folder.exists()
        assert _opened(store, "a" * 128) == Opened(None)  # the control

    @pytest.mark.parametrize("below", ["", "inner"])
    def test_a_file_in_the_place_of_the_folder_is_one_line(
        self, tmp_path: Path, below: str
    ) -> None:
        (tmp_path / "store").write_text("mine")
        store = Store(tmp_path / "store" / below, LARGE)
        with pytest.raises(UserError, match=rf"^cannot use {store.folder} to keep arrays: [^\n]+$"):
            _opened(store, A)
        if not below:
            for use in (store.entries, store.clear):
                with pytest.raises(UserError, match=rf"^cannot \w+ {store.folder}[^\n]+$"):
                    use()
        assert (tmp_path / "store").read_text() == "mine"

    @pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="may write anywhere")
    def test_a_folder_that_cannot_be_written_to_is_one_line(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        try:
            with pytest.raises(UserError, match="Permission denied; choose a folder that can be"):
                _opened(Store(tmp_path, LARGE), A)
        finally:
            tmp_path.chmod(0o700)
