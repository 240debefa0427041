"""Files appear whole or not at all, and weights run nothing."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torchvision import models

from kdcore.errors import ModelError, UserError
from kdcore.files import (
    check_folder,
    load_weights,
    make_folder,
    packed,
    read_json,
    read_weights,
    renamed,
    save_weights,
    write_bytes,
    write_json,
)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _fail(*_: object) -> None:
    raise OSError("no space left")


class TestWholeOrNotAtAll:
    def test_a_file_is_written_and_replaced(self, tmp_path: Path) -> None:
        path = tmp_path / "result.bin"
        write_bytes(path, b"old")
        write_bytes(path, b"new")
        assert path.read_bytes() == b"new"
        assert _names(tmp_path) == ["result.bin"]

    @pytest.mark.parametrize("step", ["fsync", "replace"])
    def test_a_failure_at_any_step_leaves_the_old_file_and_no_other(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        path = tmp_path / "result.bin"
        write_bytes(path, b"old")
        monkeypatch.setattr(os if step == "fsync" else Path, step, _fail)
        with pytest.raises(OSError, match="no space left"):
            write_bytes(path, b"new")
        assert path.read_bytes() == b"old"
        assert _names(tmp_path) == ["result.bin"]

    def test_an_interruption_leaves_the_old_file_too(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        path = tmp_path / "result.bin"
        write_bytes(path, b"old")
        monkeypatch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_bytes(path, b"new")
        assert (_names(tmp_path), path.read_bytes()) == (["result.bin"], b"old")

    def test_it_is_on_the_disk_before_it_has_its_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "result.bin"
        seen: list[bool] = []
        monkeypatch.setattr(os, "fsync", lambda _: seen.append(path.exists()))
        write_bytes(path, b"new")
        assert seen == [False]

    def test_others_may_read_it(self, tmp_path: Path) -> None:
        write_bytes(tmp_path / "result.bin", b"")
        assert (tmp_path / "result.bin").stat().st_mode & 0o777 == 0o644


class TestJson:
    def test_what_is_written_is_read(self, tmp_path: Path) -> None:
        value = {"name": "Ω", "list": [1, 2.5, None], "nested": {"yes": True}}
        write_json(tmp_path / "a.json", value)
        assert read_json(tmp_path / "a.json") == value
        assert (tmp_path / "a.json").read_text().endswith("}\n")

    @pytest.mark.parametrize("number", [float("nan"), float("inf")])
    def test_numbers_that_json_does_not_have_are_refused(
        self, tmp_path: Path, number: float
    ) -> None:
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_json(tmp_path / "a.json", [number])
        assert _names(tmp_path) == []
        assert json.dumps([number]) in ("[NaN]", "[Infinity]")  # the control

    @pytest.mark.parametrize("content", [None, b"", b'{"half": ', b"\xff\xfe"])
    def test_what_is_not_there_or_not_whole_is_none(
        self, tmp_path: Path, content: bytes | None
    ) -> None:
        path = tmp_path / "a.json"
        if content is not None:
            path.write_bytes(content)
        assert read_json(path) is None


class TestFolder:
    def test_it_is_made_with_its_parents_and_may_be_there_already(self, tmp_path: Path) -> None:
        folder = tmp_path / "runs" / "first"
        assert make_folder(folder) == folder
        assert make_folder(folder).is_dir()
        assert _names(folder) == []

    def test_a_file_in_its_place_is_an_error_that_names_the_option(self, tmp_path: Path) -> None:
        (tmp_path / "runs").write_text("")
        with pytest.raises(UserError, match=r"cannot write to the output folder .*--out"):
            make_folder(tmp_path / "runs")

    def test_checking_makes_nothing(self, tmp_path: Path) -> None:
        check_folder(tmp_path / "runs" / "first")
        check_folder(tmp_path)
        assert _names(tmp_path) == []

    @pytest.mark.parametrize("below", ["", "first/second"])
    def test_a_file_in_the_way_is_found_by_checking_too(self, tmp_path: Path, below: str) -> None:
        (tmp_path / "runs").write_text("")
        with pytest.raises(UserError, match=r"cannot write to the output folder .*--out"):
            check_folder(tmp_path / "runs" / below)


class Creates:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def _model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


@pytest.fixture
def weights() -> dict[str, Tensor]:
    return _model().state_dict()


class TestWeights:
    @pytest.mark.parametrize("name", ["student.safetensors", "student.pt"])
    def test_they_return_bit_for_bit(self, tmp_path: Path, name: str) -> None:
        model, other = _model(), _model()
        path = tmp_path / name
        if path.suffix == ".pt":
            torch.save(model.state_dict(), path)
        else:
            save_weights(path, model.state_dict())
        load_weights(other, path, "student")
        saved, loaded = model.state_dict(), other.state_dict()
        assert saved.keys() == loaded.keys()
        for key, tensor in saved.items():
            assert torch.equal(tensor, loaded[key]), key
            assert tensor.dtype == loaded[key].dtype
        assert _names(tmp_path) == [name]

    def test_a_failure_while_saving_leaves_the_old_weights(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: dict[str, Tensor]
    ) -> None:
        path = tmp_path / "student.safetensors"
        save_weights(path, weights)
        monkeypatch.setattr(os, "fsync", _fail)
        with pytest.raises(OSError, match="no space left"):
            save_weights(path, {name: tensor + 1 for name, tensor in weights.items()})
        assert torch.equal(read_weights(path, "student")["0.weight"], weights["0.weight"])

    def test_tensors_that_share_memory_or_lie_in_strides_are_written_each(
        self, tmp_path: Path
    ) -> None:
        table = torch.arange(6.0).reshape(2, 3)
        path = tmp_path / "tied.safetensors"
        save_weights(path, {"a": table, "b": table, "c": table.T, "d": nn.Parameter(table[0])})
        read = read_weights(path, "student")
        assert torch.equal(read["b"], table)
        assert torch.equal(read["c"], table.T)
        assert read["d"].tolist() == [0.0, 1.0, 2.0]

    def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(self, tmp_path: Path) -> None:
        path, made = tmp_path / "student.pt", tmp_path / "made"
        torch.save({"weight": Creates(made)}, path)
        with pytest.raises(ModelError, match="is damaged, or no file of weights alone"):
            read_weights(path, "student")
        assert not made.exists()

    def test_so_is_a_bare_pickle(self, tmp_path: Path) -> None:
        path, made = tmp_path / "student.pt", tmp_path / "made"
        path.write_bytes(pickle.dumps(Creates(made)))
        with pytest.raises(ModelError, match="is damaged, or no file of weights alone"):
            read_weights(path, "student")
        assert not made.exists()

    def test_it_would_run_where_nobody_asked_for_weights_only(self, tmp_path: Path) -> None:
        path, made = tmp_path / "student.pt", tmp_path / "made"  # the control
        torch.save({"weight": Creates(made)}, path)
        torch.load(path, weights_only=False)
        assert made.exists()

    def test_a_whole_model_is_refused_with_what_to_save_instead(self, tmp_path: Path) -> None:
        torch.save(_model(), tmp_path / "student.pt")
        with pytest.raises(ModelError, match=r"torch\.save\(model\.state_dict\(\), \.\.\.\)"):
            read_weights(tmp_path / "student.pt", "student")

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda weights: {"state_dict": weights, "epoch": 3, "lr": [0.1]},
            lambda weights: {"model": weights},
            lambda weights: {"model": {"model_state_dict": weights}, "optimizer": {}},
            lambda weights: {f"module.{name}": each for name, each in weights.items()},
            lambda weights: {f"module._orig_mod.{name}": each for name, each in weights.items()},
            lambda weights: {
                "state_dict": {f"_orig_mod.module.{name}": each for name, each in weights.items()},
                "args": {"seed": 1},
            },
        ],
    )
    def test_what_scripts_and_wrappers_put_around_them_is_understood(
        self, tmp_path: Path, weights: dict[str, Tensor], wrap: Callable[[Any], Any]
    ) -> None:
        torch.save(wrap(weights), tmp_path / "student.pt")
        read = read_weights(tmp_path / "student.pt", "student")
        assert read.keys() == weights.keys()
        load_weights(_model(), tmp_path / "student.pt", "student")

    def test_prefixes_are_taken_off_safetensors_too_and_only_where_all_have_them(
        self, tmp_path: Path, weights: dict[str, Tensor]
    ) -> None:
        path = tmp_path / "student.safetensors"
        save_weights(path, {f"module.{name}": each for name, each in weights.items()})
        assert read_weights(path, "student").keys() == weights.keys()
        save_weights(path, {"module.a": torch.ones(1), "b": torch.ones(1)})
        assert read_weights(path, "student").keys() == {"module.a", "b"}

    def test_a_module_that_looks_at_its_version_takes_them_as_its_own(self, tmp_path: Path) -> None:
        model = models.get_model("mnasnet0_5", num_classes=2)
        save_weights(tmp_path / "w.safetensors", model.state_dict())
        load_weights(model, tmp_path / "w.safetensors", "student")

    def test_two_models_in_one_file_are_not_guessed_between(
        self, tmp_path: Path, weights: dict[str, Tensor]
    ) -> None:
        torch.save({"model": weights, "state_dict": weights}, tmp_path / "student.pt")
        with pytest.raises(ModelError, match="holds no state dict of tensors"):
            read_weights(tmp_path / "student.pt", "student")

    @pytest.mark.parametrize("value", [torch.ones(2), [torch.ones(2)], {"epoch": 3}])
    def test_what_is_no_state_dict_is_refused(self, tmp_path: Path, value: object) -> None:
        torch.save(value, tmp_path / "student.pt")
        with pytest.raises(ModelError, match="holds no state dict of tensors"):
            read_weights(tmp_path / "student.pt", "student")

    @pytest.mark.parametrize("name", ["student.safetensors", "student.pt"])
    @pytest.mark.parametrize("keep", [0.0, 0.5])
    def test_a_file_that_is_cut_short_is_refused(
        self, tmp_path: Path, weights: dict[str, Tensor], name: str, keep: float
    ) -> None:
        path = tmp_path / name
        if path.suffix == ".pt":
            torch.save(weights, path)
        else:
            save_weights(path, weights)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * keep)])
        with pytest.raises(ModelError, match=f"^student: .*{name} (cannot be read|is damaged, or)"):
            read_weights(path, "student")

    def test_a_file_that_is_not_there_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"teacher: .* does not exist; give a file"):
            load_weights(_model(), tmp_path / "none.safetensors", "teacher")


class TestFit:
    def _load(self, folder: Path, weights: dict[str, Tensor]) -> nn.Module:
        save_weights(folder / "w.safetensors", weights)
        model = _model()
        load_weights(model, folder / "w.safetensors", "teacher")
        return model

    def test_a_wrong_shape_names_the_tensor_and_both_shapes(
        self, tmp_path: Path, weights: dict[str, Tensor]
    ) -> None:
        weights["0.weight"] = torch.zeros(4, 5)
        with pytest.raises(ModelError, match=r"'0\.weight' is \[4, 5\], the model's is \[4, 3\];"):
            self._load(tmp_path, weights)

    def test_an_unknown_tensor_is_answered_with_the_near_one(
        self, tmp_path: Path, weights: dict[str, Tensor]
    ) -> None:
        weights["0.wieght"] = torch.zeros(1)
        with pytest.raises(ModelError, match=r"unknown tensor '0\.wieght'; did you mean '0\.weigh"):
            self._load(tmp_path, weights)

    def test_a_missing_tensor_is_named(self, tmp_path: Path, weights: dict[str, Tensor]) -> None:
        del weights["1.running_mean"]
        with pytest.raises(ModelError, match=r"the tensor '1\.running_mean' is missing"):
            self._load(tmp_path, weights)

    @pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
    def test_values_that_are_not_finite_are_refused(
        self, tmp_path: Path, weights: dict[str, Tensor], number: float
    ) -> None:
        weights["1.bias"][2] = number
        with pytest.raises(ModelError, match=r"'1\.bias' has values that are not finite"):
            self._load(tmp_path, weights)

    def test_large_values_are_legal(self, tmp_path: Path, weights: dict[str, Tensor]) -> None:
        weights["1.bias"] = torch.full((4,), 3e38)
        assert torch.equal(self._load(tmp_path, weights).state_dict()["1.bias"], weights["1.bias"])
        double = nn.Linear(1, 1, dtype=torch.float64)
        nn.init.constant_(double.weight, 1e300)
        save_weights(tmp_path / "d.safetensors", double.state_dict())
        load_weights(double, tmp_path / "d.safetensors", "teacher")

    def test_nothing_is_loaded_of_what_does_not_fit(
        self, tmp_path: Path, weights: dict[str, Tensor]
    ) -> None:
        save_weights(tmp_path / "w.safetensors", {**weights, "1.bias": torch.zeros(9)})
        model = _model()
        before = model.state_dict()["0.weight"].clone()
        with pytest.raises(ModelError):
            load_weights(model, tmp_path / "w.safetensors", "teacher")
        assert torch.equal(model.state_dict()["0.weight"], before)


class _Masked(nn.Module):
    """A model that holds a mask of infinities."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))


@pytest.mark.parametrize(("first", "second"), [(-torch.inf, -torch.inf), (0.0, torch.nan)])
def test_infinities_are_taken_where_the_model_has_them_and_nowhere_else(
    tmp_path: Path, first: float, second: float
) -> None:
    model, file = _Masked(), tmp_path / "w.safetensors"
    save_weights(file, model.state_dict())
    load_weights(model, file, "teacher")
    save_weights(file, {"mask": torch.tensor([first, second])})
    with pytest.raises(ModelError, match="'mask' has values that are not finite"):
        load_weights(model, file, "teacher")


def test_the_same_weights_and_metadata_are_the_same_bytes_and_read_back(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(3), "b": torch.ones(2, 2)}
    metadata = {str(number): f"value ä {number}" for number in range(20)}
    content = packed(tensors, metadata)
    assert packed(tensors, metadata) == content
    file = tmp_path / "w.safetensors"
    file.write_bytes(content)
    with safe_open(file, "pt") as read:
        assert read.metadata() == metadata
        assert all(torch.equal(read.get_tensor(name), tensors[name]) for name in tensors)
    # The library itself writes one order among many.
    assert len({safetensors.torch.save(tensors, metadata) for _ in range(20)}) > 1
    one = {"format": "pt"}
    assert packed(tensors, one) == safetensors.torch.save(tensors, one)


def test_two_tensors_of_one_name_are_refused_and_named() -> None:
    weights = {"linear.weight": torch.zeros(1), "fc.weight": torch.ones(1)}
    with pytest.raises(ModelError, match=r"x: two tensors would be 'fc.weight'"):
        renamed(weights, lambda name: name.replace("linear", "fc"), "x")
    assert renamed(weights, str, "x") == weights


@pytest.mark.parametrize("kind", [torch.int8, torch.complex64])
def test_numbers_of_another_kind_are_refused(tmp_path: Path, kind: torch.dtype) -> None:
    model = torch.nn.Linear(2, 1)
    state = {name: each.to(kind) for name, each in model.state_dict().items()}
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(ModelError, match=f"'weight' is of {str(kind)[6:]}, the model's of float32"):
        load_weights(model, tmp_path / "other.pt", "teacher")
    torch.save(model.half().state_dict(), tmp_path / "half.pt")  # shorter ones are of a kind
    load_weights(torch.nn.Linear(2, 1), tmp_path / "half.pt", "teacher")
