"""A student in pieces is saved whole, goes on, and leaves as it came; its gradients: `parallel`."""

from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from kdcore import Distiller
from kdcore.configfile import as_run
from kdcore.context import RunContext
from kdcore.errors import ConfigError, ModelError
from kdcore.execution import in_best_layout
from kdcore.parallel import Unit
from kdcore.sections import TrainConfig
from kdcore.sharding import Shards, _apart, blocks_of, like, whole, whole_state
from kdcore.testing import small_student
from tests.together.asked import MODES
from tests.together.gradients import Told
from tests.together.launch import run_together
from tests.together.pieces import STOPS, Normal


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> list[Told]:
    return run_together("pieces", tmp_path_factory.mktemp("pieces"), 2)


@pytest.mark.slow
def test_the_student_leaves_with_its_class_parameters_and_no_hooks(pieces: list[Told]) -> None:
    before = Normal()
    for told in pieces:
        assert told["classes"] == [type(module).__name__ for module in before.modules()]
        assert told["state"] == [sorted(vars(module)) for module in before.modules()]
        assert set(told["hooks"]) == {0}
        assert all(told["plain"])
        laid_out = in_best_layout(Normal())
        assert told["strides"] == [each.stride() for each in laid_out.parameters()]
        assert told["alone"].shape == (2, 5)


@pytest.mark.slow
def test_what_was_spread_once_can_be_spread_again(pieces: list[Told]) -> None:
    for told in pieces:
        torch.testing.assert_close(told["spread again"], told["alone"])


@pytest.mark.slow
def test_all_processes_have_the_whole_student_and_the_best_one(pieces: list[Told]) -> None:
    first, second = pieces
    expected = {name: each.shape for name, each in Normal().state_dict().items()}
    for name in ("weights", "best"):
        assert {key: each.shape for key, each in first[name].items()} == expected
        assert all(torch.equal(first[name][key], second[name][key]) for key in expected)


@pytest.mark.slow
@pytest.mark.parametrize("stop", STOPS)
def test_it_continues_bit_for_bit_where_it_was_saved(pieces: list[Told], stop: int) -> None:
    for told in pieces:
        continued = told[f"continued from {stop}"]
        assert told[f"losses from {stop}"] == told["losses"]
        assert all(torch.equal(continued[name], told["weights"][name]) for name in continued)


def test_one_process_has_nothing_to_spread() -> None:
    with (
        Distiller(None, small_student()) as distiller,
        pytest.raises(ConfigError, match="there is one: start several with torchrun"),
    ):
        Unit(distiller, shard=True)


@pytest.mark.parametrize("other", [{"compile": True}, {"precision": "fp16-mixed"}])
def test_what_does_not_go_with_it_is_refused(other: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="shard goes with precision"):
        TrainConfig.model_validate({"shard": True, **other})


def test_blocks_are_children_with_lists_opened_and_without_what_has_no_weights() -> None:
    first, second = nn.Linear(1, 2), nn.Linear(2, 3)
    model = nn.Sequential(nn.ReLU(), nn.Sequential(first, second))
    assert blocks_of(model) == [first, second]


def test_what_is_whole_already_stays_as_it_is() -> None:
    tensor = torch.arange(3)
    assert whole(tensor) is tensor
    assert like(tensor, tensor) is tensor
    assert whole_state({"a": [tensor, {"b": tensor}], "c": 1}) == {
        "a": [tensor, {"b": tensor}],
        "c": 1,
    }


class Tied(nn.Module):
    """Two layers with one weight, as language models have them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.third = nn.Linear(3, 2)


def test_layers_that_share_a_weight_are_one_piece_with_what_holds_them() -> None:
    model = Tied()
    assert _apart([*blocks_of(model), model]) == [model.third, model]


def test_a_weight_without_dimensions_is_refused_and_nothing_is_changed() -> None:
    model = Tied()
    model.scale = nn.Parameter(torch.tensor(1.0))
    with pytest.raises(ModelError, match="scale has no dimensions"):
        Shards(model, blocks_of(model), 2)
    assert type(model.first) is nn.Linear


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> list[Told]:
    return run_together("asked", tmp_path_factory.mktemp("asked"), 3)


@pytest.mark.slow
def test_each_process_holds_its_part_of_a_teacher_which_is_known_by_what_it_is(
    asked: list[Told],
) -> None:
    whole = asked[0]["whole"]
    for mode in MODES:
        held = [told[mode]["held"] for told in asked]
        assert all(told[mode]["spread"] for told in asked)
        assert sum(held) == whole["held"]
        assert max(held) < whole["held"] * 0.4
        assert {told[mode]["fingerprint"] for told in asked} == {whole["fingerprint"]}
        assert all(told[mode]["scores"] == whole["scores"] for told in asked)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES[1:])
def test_kept_or_asked_live_a_teacher_in_pieces_teaches_the_same(
    asked: list[Told], mode: str
) -> None:
    live = asked[0]["off"]["weights"]
    for told in asked:
        assert all(torch.equal(told[mode]["weights"][name], live[name]) for name in live)


@pytest.mark.slow
def test_a_teacher_in_pieces_teaches_what_it_teaches_whole(asked: list[Told]) -> None:
    spread, whole = asked[0]["memory"]["weights"], asked[0]["whole"]["weights"]
    for name in whole:  # its layers are laid out otherwise, which rounds otherwise
        torch.testing.assert_close(spread[name], whole[name], rtol=1e-3, atol=1e-5)


def test_one_process_has_no_teacher_to_spread(tmp_path: Path) -> None:
    tree = {"teacher": {"model": "lightnn", "shard": True}, "strategies": [{"name": "logits"}]}
    with pytest.raises(ConfigError, match="shard of teacher spreads weights over processes"):
        RunContext(as_run(tree, "here"), tmp_path, Console(quiet=True))


def test_a_compiled_teacher_is_not_spread() -> None:
    tree = {"teacher": {"shard": True}, "train": {"compile": True}}
    with pytest.raises(ConfigError, match="compile does not go with shard of teacher"):
        as_run({**tree, "strategies": [{"name": "logits"}]}, "here")
