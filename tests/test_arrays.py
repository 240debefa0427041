"""Arrays in files: real faults on real files, and one that is larger than the memory."""

import errno
import hashlib
import json
import mmap
import os
import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdcore.arrays import (
    DTYPES,
    ArraySpec,
    DamagedError,
    allocate_arrays,
    bytes_in,
    finish_arrays,
    map_array,
    map_to_write,
    read_arrays,
    require_file,
)
from kdcore.errors import UserError

FLOATS = torch.arange(12.0).reshape(3, 4)
HALVES = FLOATS.half()


def _write(folder: Path, arrays: Mapping[str, Tensor]) -> Any:
    """Write arrays; return what is to be known of them, as it comes out of a JSON file."""
    specs = {name: ArraySpec(tuple(array.shape), array.dtype) for name, array in arrays.items()}
    allocate_arrays(folder, specs)
    for name, tensor in map_to_write(folder, specs).items():
        tensor.copy_(arrays[name])
    return json.loads(json.dumps(finish_arrays(folder, specs)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "arrays"


class TestSpec:
    @pytest.mark.parametrize(
        ("dtype", "size"),
        [
            (torch.float64, 8),
            (torch.float32, 4),
            (torch.float16, 2),
            (torch.bfloat16, 2),
            (torch.int64, 8),
            (torch.uint8, 1),
        ],
    )
    def test_bytes_are_elements_times_their_size(self, dtype: torch.dtype, size: int) -> None:
        assert ArraySpec((3, 5), dtype).nbytes == 15 * size
        assert ArraySpec((), dtype).nbytes == size

    @pytest.mark.parametrize(
        ("shape", "dtype"),
        [
            ((0,), torch.float32),
            ((3, 0), torch.float32),
            ((-1, -2), torch.float32),
            ((True,), torch.float32),
            ((1,) * 65, torch.float32),
            ((1,), torch.complex64),
        ],
    )
    def test_what_no_file_could_hold_is_refused(
        self, shape: tuple[int, ...], dtype: torch.dtype
    ) -> None:
        with pytest.raises(ValueError, match=r"positive whole|more than 64|is not one of float64"):
            ArraySpec(shape, dtype)


class TestRoundTrip:
    @pytest.mark.parametrize("verify", [True, False])
    @pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
    def test_every_dtype_returns_bit_for_bit(
        self, folder: Path, dtype: torch.dtype, verify: bool
    ) -> None:
        table = (torch.arange(24, dtype=torch.float64).reshape(2, 3, 4) * 1.37).to(dtype)
        records = _write(folder, {"table": table, "number": table[1, 2, 3]})
        arrays = read_arrays(folder, records, verify=verify)
        assert list(arrays) == ["table", "number"]
        assert arrays["table"].dtype == dtype
        assert torch.equal(arrays["table"], table)
        assert arrays["number"].shape == ()
        assert torch.equal(arrays["number"], table[1, 2, 3])

    def test_a_file_is_the_values_alone_and_its_hash_is_sha256(self, folder: Path) -> None:
        records = _write(folder, {"table": FLOATS})
        content = struct.pack("<12f", *range(12))
        assert [path.name for path in folder.iterdir()] == ["0.bin"]
        assert (folder / "0.bin").read_bytes() == content
        assert records == {
            "table": {
                "shape": [3, 4],
                "dtype": "float32",
                "sha256": hashlib.sha256(content).hexdigest(),
            }
        }

    def test_no_name_of_an_array_is_one_of_a_file(self, folder: Path) -> None:
        arrays = {"../out": FLOATS, "/abs": FLOATS + 1, "a\nb": FLOATS + 2, "": FLOATS + 3}
        read = read_arrays(folder, _write(folder, arrays), verify=True)
        assert all(torch.equal(read[name], array) for name, array in arrays.items())
        assert sorted(path.name for path in folder.iterdir()) == [f"{i}.bin" for i in range(4)]
        assert list(folder.parent.iterdir()) == [folder]

    def test_what_was_not_filled_is_zero(self, folder: Path) -> None:
        specs = {"x": ArraySpec((4,), torch.int64)}
        allocate_arrays(folder, specs)
        map_to_write(folder, specs)["x"][1:3] = torch.tensor([5, 6])
        assert (folder / "0.bin").read_bytes() == struct.pack("<4q", 0, 5, 6, 0)

    def test_their_bytes_are_those_of_all_files(self, folder: Path) -> None:
        _write(folder, {"float": FLOATS, "half": HALVES})
        (folder / "manifest.json").write_text("{}")
        assert bytes_in(folder) == 48 + 24


@pytest.mark.parametrize("allocates", [True, False])
def test_the_space_of_all_arrays_is_theirs_before_the_first_is_filled(
    folder: Path, monkeypatch: pytest.MonkeyPatch, allocates: bool
) -> None:
    if not allocates:  # as on a system that cannot
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    allocate_arrays(folder, {"large": ArraySpec((3 * 2**20 + 5,), torch.uint8)})
    os.sync()
    state = (folder / "0.bin").stat()
    assert state.st_size == 3 * 2**20 + 5
    assert state.st_blocks * 512 >= 3 * 2**20 + 5
    (folder / "sparse").touch()  # the control
    os.truncate(folder / "sparse", 2**20)
    assert (folder / "sparse").stat().st_blocks * 512 < 2**20


def _to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _to_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _to_symlink(path: Path) -> None:
    path.symlink_to(path.rename(path.parents[1] / "outside"))


def _flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def _swap(folder: Path) -> None:
    (folder / "0.bin").rename(folder / "2.bin")
    (folder / "1.bin").rename(folder / "0.bin")
    (folder / "2.bin").rename(folder / "1.bin")


FILE_FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda f: os.truncate(f / "1.bin", 23), "'half' has 23 bytes, not 24"),
    "emptied": (lambda f: os.truncate(f / "1.bin", 0), "'half' has 0 bytes, not 24"),
    "longer": (lambda f: (f / "1.bin").write_bytes(bytes(25)), "'half' has 25 bytes, not 24"),
    "missing": (lambda f: (f / "1.bin").unlink(), r"its 1\.bin is no file of its own"),
    "symlink": (lambda f: _to_symlink(f / "1.bin"), r"its 1\.bin is no file of its own"),
    "folder": (lambda f: _to_folder(f / "1.bin"), r"its 1\.bin is no file of its own"),
    "pipe": (lambda f: _to_pipe(f / "1.bin"), r"its 1\.bin is no file of its own"),
    "swapped": (_swap, "'float' has 24 bytes, not 48"),
}

RECORD_FAULTS: dict[str, tuple[dict[str, object], str]] = {
    "other shape": ({"shape": [11]}, "'half' has 24 bytes, not 22"),
    "huge": ({"shape": [2**62, 2**62]}, "'half' has 24 bytes, not "),
    "no elements": ({"shape": [0, 4]}, "is none, or is not whole"),
    "many dimensions": ({"shape": [3, 4] + [1] * 63}, "is none, or is not whole"),
    "negative shape": ({"shape": [-3, -4]}, "is none, or is not whole"),
    "fractional shape": ({"shape": [3.0, 4]}, "is none, or is not whole"),
    "shape of truths": ({"shape": [12, True]}, "is none, or is not whole"),
    "shape a word": ({"shape": "34"}, "is none, or is not whole"),
    "shape a number": ({"shape": 12}, "is none, or is not whole"),
    "dtype unknown": ({"dtype": "object"}, "is none, or is not whole"),
    "dtype a list": ({"dtype": []}, "is none, or is not whole"),
}


class TestDamage:
    @pytest.mark.parametrize("verify", [True, False])
    @pytest.mark.parametrize("fault", FILE_FAULTS)
    def test_a_file_that_cannot_be_the_one_written_is_refused(
        self, folder: Path, fault: str, verify: bool
    ) -> None:
        damage, reason = FILE_FAULTS[fault]
        records = _write(folder, {"float": FLOATS, "half": HALVES})
        read_arrays(folder, records, verify=verify)  # the control
        damage(folder)
        with pytest.raises(DamagedError, match=rf"^{reason}$"):
            read_arrays(folder, records, verify=verify)

    @pytest.mark.parametrize("position", [0, 11, -1])
    def test_one_changed_bit_is_found_where_the_bytes_are_verified(
        self, folder: Path, position: int
    ) -> None:
        records = _write(folder, {"float": FLOATS, "half": HALVES})
        _flip(folder / "1.bin", position)
        with pytest.raises(DamagedError, match=r"^'half' does not hold what was written$"):
            read_arrays(folder, records, verify=True)
        assert not torch.equal(read_arrays(folder, records, verify=False)["half"], HALVES)

    @pytest.mark.parametrize("sha256", [7, None, "", []])
    def test_a_hash_that_is_none_verifies_nothing(self, folder: Path, sha256: object) -> None:
        records = _write(folder, {"half": HALVES})
        records["half"]["sha256"] = sha256
        with pytest.raises(DamagedError, match=r"^'half' does not hold what was written$"):
            read_arrays(folder, records, verify=True)

    @pytest.mark.parametrize("fault", RECORD_FAULTS)
    def test_what_cannot_be_said_of_an_array_is_refused(self, folder: Path, fault: str) -> None:
        changes, reason = RECORD_FAULTS[fault]
        records = _write(folder, {"float": FLOATS, "half": HALVES})
        records["half"].update(changes)
        with pytest.raises(DamagedError, match=reason):
            read_arrays(folder, records, verify=True)

    @pytest.mark.parametrize("records", [None, [1], 1, "half", {"half": 1}, {"half": {}}])
    def test_what_is_no_list_of_arrays_is_refused(self, folder: Path, records: object) -> None:
        with pytest.raises(DamagedError, match="its list of arrays is none, or is not whole"):
            read_arrays(folder, records, verify=True)

    def test_a_file_named_in_a_record_is_not_looked_for(self, folder: Path) -> None:
        records = _write(folder, {"half": HALVES})
        (folder.parent / "outside.bin").write_bytes(bytes(24))
        records["half"]["file"] = "../outside.bin"
        assert torch.equal(read_arrays(folder, records, verify=True)["half"], HALVES)

    def test_a_file_of_its_own_is_none_of_these(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        require_file(tmp_path / "file")
        with pytest.raises(DamagedError, match="its none is no file of its own"):
            require_file(tmp_path / "none")


class TestMapping:
    def test_what_is_written_to_a_tensor_that_is_read_stays_in_memory(self, folder: Path) -> None:
        records = _write(folder, {"table": FLOATS})
        read = read_arrays(folder, records, verify=True)["table"]
        read.fill_(-1)
        assert read.min() == -1
        assert torch.equal(read_arrays(folder, records, verify=True)["table"], FLOATS)

    def test_it_would_reach_the_file_by_a_shared_mapping(self, folder: Path) -> None:
        records = _write(folder, {"table": FLOATS})  # the control
        map_array(folder / "0.bin", ArraySpec((3, 4), torch.float32), shared=True).fill_(-1)
        assert read_arrays(folder, records, verify=False)["table"].tolist() == [[-1] * 4] * 3

    def test_a_tensor_outlives_its_file(self, folder: Path) -> None:
        read = read_arrays(folder, _write(folder, {"table": FLOATS}), verify=True)["table"]
        (folder / "0.bin").unlink()
        assert torch.equal(read, FLOATS)

    @pytest.mark.skipif(sys.platform != "linux", reason="asks how much memory Linux has")
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
    def test_rows_of_an_array_larger_than_the_memory_are_gathered(
        self, tmp_path: Path, dtype: torch.dtype
    ) -> None:
        path = tmp_path / "sparse"
        path.touch()
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        spec = ArraySpec((4 * memory // (1024 * dtype.itemsize), 1024), dtype)
        try:
            os.truncate(path, spec.nbytes)
        except OSError as error:
            pytest.skip(f"no file system for a sparse file of {spec.nbytes:,} bytes: {error}")
        middle, last = spec.shape[0] // 2, spec.shape[0] - 1
        with path.open("rb+") as file:
            for row in (middle, last):
                file.seek(row * 1024 * dtype.itemsize)
                file.write(
                    torch.full((1024,), row % 97, dtype=dtype).view(torch.uint8).numpy().tobytes()
                )
        table = map_array(path, spec, shared=False)
        rows = torch.tensor([last, 0, middle])
        assert table[rows, 1023].tolist() == [last % 97, 0, middle % 97]
        table[middle] = 5
        assert table[rows, 1023].tolist() == [last % 97, 0, 5]
        again = map_array(path, spec, shared=False)
        assert again[rows, 1023].tolist() == [last % 97, 0, middle % 97]

    @pytest.mark.parametrize("shared", [True, False])
    @pytest.mark.parametrize("length", [0, 47])
    def test_a_file_that_holds_less_is_one_line(
        self, tmp_path: Path, length: int, shared: bool
    ) -> None:
        path = tmp_path / "file"
        path.write_bytes(bytes(length))
        spec = ArraySpec((3, 4), torch.float32)
        with pytest.raises(UserError, match=rf"^cannot map {path} into memory: [^\n]+$"):
            map_array(path, spec, shared=shared)
        path.write_bytes(bytes(48))  # the control
        assert map_array(path, spec, shared=shared).tolist() == [[0] * 4] * 3

    def test_one_that_memory_cannot_hold_is_one_line(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")

        records = _write(folder, {"table": FLOATS})
        monkeypatch.setattr(mmap, "mmap", fail)
        with pytest.raises(UserError, match=r"^cannot map .*0\.bin into memory: .*Cannot allocate"):
            read_arrays(folder, records, verify=True)

    def test_a_file_that_is_gone_is_no_matter_of_memory(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            map_array(tmp_path / "none", ArraySpec((3,), torch.uint8), shared=False)
