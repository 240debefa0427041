"""What hooks receive and return: reading by role, what is known, and memory."""

import pytest
import torch
from torch import Tensor

from kdcore.contract import ByRole, Setup, State, Taps
from kdcore.errors import StrategyError


def _state(*rows: float) -> State:
    return State({"bank": torch.tensor(rows).reshape(-1, 1)})


def _column(state: State) -> list[float]:
    values: list[float] = state["bank"].flatten().tolist()
    return values


def _rows(*values: float) -> Tensor:
    return torch.tensor(values).reshape(-1, 1)


class TestByRole:
    def test_a_role_of_one_tap_is_its_value_and_a_mapping_of_them(self) -> None:
        values: ByRole[int] = ByRole({"hint": (3,), "embedding": (4,)}, None)
        assert values["hint"] == 3
        assert dict(values) == {"hint": 3, "embedding": 4}
        assert len(values) == 2

    def test_a_role_of_several_taps_is_read_with_all_in_their_order(self) -> None:
        values: ByRole[str] = ByRole({"maps": ("first", "second", "third")}, None)
        assert values.all("maps") == ("first", "second", "third")
        with pytest.raises(StrategyError, match=r"3 taps; read them with \.all\('maps'\)"):
            values["maps"]

    @pytest.mark.parametrize("read", ["item", "all"])
    def test_a_wrong_role_is_answered_with_the_near_one(self, read: str) -> None:
        values: ByRole[int] = ByRole({"hint": (3,)}, None)
        with pytest.raises(StrategyError, match="unknown role 'hnit'; did you mean 'hint'"):
            values["hnit"] if read == "item" else values.all("hnit")

    def test_a_role_of_a_method_that_tapped_nothing_says_where_to_tap(self) -> None:
        values: ByRole[int] = ByRole({}, 5)
        with pytest.raises(StrategyError, match="return its tap from extract_features"):
            values["hint"]

    def test_all_values_are_listed_those_of_the_logits_last(self) -> None:
        assert ByRole({"maps": (1, 2), "hint": (3,)}, 4).tensors() == [1, 2, 3, 4]
        assert ByRole({"hint": (3,)}, None).tensors() == [3]

    def test_logits_are_read_where_there_are_some(self) -> None:
        assert ByRole({}, 5).logits == 5
        nothing: ByRole[int] = ByRole({}, None)
        with pytest.raises(StrategyError, match="holds no logits"):
            _ = nothing.logits


def test_taps_name_nothing_unless_told() -> None:
    assert Taps().student == Taps().teacher == {}


class TestSetup:
    @pytest.mark.parametrize("name", ["sample_count", "class_count", "targets", "task"])
    def test_what_is_not_known_says_how_to_make_it_known(self, name: str) -> None:
        with pytest.raises(StrategyError, match=rf"setup\.{name}.*Setup\({name}=\.\.\.\)"):
            getattr(Setup(), name)

    def test_what_is_known_is_told(self) -> None:
        targets = torch.tensor([0, 2, -100])
        setup = Setup(sample_count=7, class_count=3, targets=targets)
        assert (setup.sample_count, setup.class_count) == (7, 3)
        assert setup.targets is targets

    def test_targets_tell_how_many_samples_there_are(self) -> None:
        assert Setup(targets=torch.tensor([0, 1, 1])).sample_count == 3

    def test_a_class_count_is_taken_only_where_none_was_known(self) -> None:
        assert Setup().with_class_count(10).class_count == 10
        assert Setup(class_count=3).with_class_count(10).class_count == 3

    def test_the_rest_stays_known(self) -> None:
        targets = torch.tensor([0, 1])
        setup = Setup(sample_count=5, targets=targets).with_class_count(2)
        assert setup.sample_count == 5
        assert setup.targets is targets

    def test_targets_go_to_a_device_and_the_rest_stays_known(self) -> None:
        setup = Setup(sample_count=5, class_count=3, targets=torch.tensor([0, 1]))
        moved = setup.to(torch.device("meta"))
        assert moved.targets.device.type == "meta"
        assert (moved.sample_count, moved.class_count) == (5, 3)
        assert Setup(class_count=3).to(torch.device("meta")).class_count == 3


class TestState:
    def test_what_it_begins_with_is_a_copy_without_gradient(self) -> None:
        begun = torch.zeros(2, requires_grad=True)
        state = State({"mean": begun})
        with torch.no_grad():
            begun.fill_(9.0)
        assert state["mean"].tolist() == [0.0, 0.0]
        assert not state["mean"].requires_grad

    def test_a_wrong_name_is_answered_with_the_near_one(self) -> None:
        with pytest.raises(StrategyError, match="unknown state 'bnak'; did you mean 'bank'"):
            _state(1.0)["bnak"]
        with pytest.raises(StrategyError, match="unknown state 'bnak'"):
            _state(1.0).write("bnak", _rows(2.0))

    def test_it_is_a_mapping(self) -> None:
        assert list(_state(1.0)) == ["bank"]
        assert len(_state(1.0)) == 1

    def test_a_write_takes_effect_when_it_is_committed_and_not_before(self) -> None:
        state = _state(1.0, 2.0)
        state.write("bank", _rows(5.0, 6.0))
        assert _column(state) == [1.0, 2.0]
        state.commit()
        assert _column(state) == [5.0, 6.0]

    def test_rows_are_written_where_they_belong(self) -> None:
        state = _state(1.0, 2.0, 3.0)
        state.write("bank", _rows(30.0, 10.0), at=torch.tensor([2, 0]))
        state.commit()
        assert _column(state) == [10.0, 2.0, 30.0]

    def test_of_a_row_written_twice_the_last_value_stays_within_and_across_writes(self) -> None:
        state = _state(0.0, 0.0)
        many = 1001  # enough for an unordered scatter to show
        at = torch.zeros(many, dtype=torch.int64)
        state.write("bank", torch.arange(many, dtype=torch.float32).reshape(-1, 1), at=at)
        state.commit()
        assert _column(state) == [1000.0, 0.0]
        state.write("bank", _rows(1.0, 5.0), at=torch.tensor([1, 0]))
        state.write("bank", _rows(6.0), at=torch.tensor([1]))
        state.commit()
        assert _column(state) == [5.0, 6.0]

    def test_writing_no_rows_changes_nothing(self) -> None:
        state = _state(1.0)
        state.write("bank", torch.empty(0, 1), at=torch.empty(0, dtype=torch.int64))
        state.commit()
        assert _column(state) == [1.0]

    def test_writes_of_a_step_that_was_not_taken_are_forgotten(self) -> None:
        state = _state(1.0)
        state.write("bank", _rows(2.0))
        state.discard()
        state.commit()
        assert _column(state) == [1.0]

    def test_of_writes_that_wait_the_first_may_be_kept(self) -> None:
        state = _state(1.0, 2.0)
        state.write("bank", _rows(5.0), at=torch.tensor([0]))
        assert state.waiting == 1
        state.write("bank", _rows(6.0), at=torch.tensor([1]))
        state.discard(since=1)
        state.commit()
        assert _column(state) == [5.0, 2.0]
        assert state.waiting == 0

    def test_what_is_forgotten_no_longer_waits(self) -> None:
        at, value = torch.zeros(600_000, dtype=torch.int64), torch.zeros(600_000, 1)
        state = _state(1.0)
        for _ in range(3):
            state.write("bank", value, at=at)
            state.discard()
        state.write("bank", value, at=at)
        with pytest.raises(StrategyError, match="1200000 rows waiting"):
            state.write("bank", value, at=at)

    def test_memory_is_written_where_no_gradient_is_asked_for(self) -> None:
        state = _state(1.0)
        with torch.no_grad():
            state.write("bank", _rows(5.0))
        state.commit()
        assert _column(state) == [5.0]

    def test_setting_an_item_says_how_to_hand_it_back(self) -> None:
        with pytest.raises(StrategyError, match=r"state\.write\('bank', value\), at=rows"):
            _state(1.0)["bank"] = _rows(2.0)

    def test_memory_that_was_changed_in_place_is_noticed_at_the_commit(self) -> None:
        state = _state(1.0)
        state["bank"].add_(1.0)
        with pytest.raises(StrategyError, match=r"'bank' was changed in place; hand it back"):
            state.commit()

    def test_what_the_core_itself_changes_is_not_taken_for_that(self) -> None:
        state = _state(1.0, 2.0)
        state.write("bank", _rows(5.0), at=torch.tensor([0]))
        state.commit()
        state.move(torch.device("cpu"), torch.float64)
        state.load({"bank": _rows(3.0, 4.0)})
        state.commit()
        assert _column(state) == [3.0, 4.0]

    def test_a_write_is_a_copy_of_the_memorys_type_without_gradient(self) -> None:
        state = _state(1.0)
        value = torch.tensor([[2.0]], dtype=torch.float64, requires_grad=True)
        state.write("bank", value)
        with torch.no_grad():
            value.fill_(9.0)
        state.commit()
        assert _column(state) == [2.0]
        assert state["bank"].dtype == torch.float32
        assert not state["bank"].requires_grad

    def test_a_value_of_a_wrong_shape_is_refused(self) -> None:
        state = _state(1.0, 2.0)
        with pytest.raises(StrategyError, match=r"takes \[2, 1\] here, was given \[2\]"):
            state.write("bank", torch.zeros(2))
        with pytest.raises(StrategyError, match=r"takes \[1, 1\] here, was given \[2, 1\]"):
            state.write("bank", torch.zeros(2, 1), at=torch.tensor([0]))

    def test_writes_that_nobody_commits_are_noticed(self) -> None:
        at = torch.zeros(600_000, dtype=torch.int64)
        value = torch.zeros(600_000, 1)
        state = _state(1.0)
        state.write("bank", value, at=at)
        with pytest.raises(StrategyError, match=r"1200000 rows waiting.*distiller\.advance\(\)"):
            state.write("bank", value, at=at)

    def test_as_many_writes_with_commits_between_them_are_legal(self) -> None:
        at = torch.zeros(600_000, dtype=torch.int64)
        state = _state(1.0)
        for value in (2.0, 3.0, 4.0):
            state.write("bank", torch.full((600_000, 1), value), at=at)
            state.commit()
        assert _column(state) == [4.0]

    def test_it_is_loaded_bit_for_bit_as_a_copy_in_its_own_type(self) -> None:
        saved = {"bank": torch.tensor([[0.1], [-0.0], [1e-40]])}
        state = _state(1.0, 2.0, 3.0)
        state.load(saved)
        assert torch.equal(state["bank"].view(torch.int32), saved["bank"].view(torch.int32))
        saved["bank"].fill_(9.0)
        assert state["bank"].max() < 1

    def test_loading_forgets_the_writes_that_were_waiting(self) -> None:
        state = _state(1.0)
        state.write("bank", _rows(5.0))
        state.load({"bank": _rows(3.0)})
        state.commit()
        assert _column(state) == [3.0]

    def test_memory_of_other_names_or_shapes_is_refused_and_nothing_is_loaded(self) -> None:
        state = State({"bank": torch.zeros(2, 1), "mean": torch.zeros(1)})
        with pytest.raises(StrategyError, match=r"holds \['bank'\], expected \['bank', 'mean'\]"):
            state.load({"bank": torch.ones(2, 1)})
        with pytest.raises(StrategyError, match=r"'mean' is \[3\], expected \[1\]"):
            state.load({"bank": torch.ones(2, 1), "mean": torch.ones(3)})
        assert state["bank"].tolist() == [[0.0], [0.0]]

    def test_it_moves_to_a_device(self) -> None:
        state = _state(1.0)
        state.move(torch.device("meta"))
        assert state["bank"].device.type == "meta"

    def test_moving_changes_the_precision_of_floating_point_numbers_alone(self) -> None:
        state = State({"bank": torch.ones(2), "counts": torch.ones(2, dtype=torch.int64)})
        state.move(torch.device("cpu"), torch.float64)
        assert state["bank"].dtype == torch.float64
        assert state["counts"].dtype == torch.int64
