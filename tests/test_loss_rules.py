"""A strategy's loss is checked, divided by the whole step, and may change nothing it was shown."""

import pytest
import torch
from torch import Tensor

from kdcore import Features, State, Strategy, hookimpl
from kdcore.errors import StrategyError
from kdcore.hooks import Member
from kdcore.loss_rules import PerWhat, labelled, mean, nothing_changed
from kdcore.tasks import Counts


class _Method(Strategy):
    @hookimpl
    def compute_auxiliary_loss(self, student: Features) -> Tensor:
        return student.logits.mean(1)


MEMBER = Member("mine", _Method(), 0.5, "teacher")
HERE = Counts(2, 3, torch.tensor(2))
WHOLE = Counts(10, 30, torch.tensor(9))


def _loss(*values: float) -> Tensor:
    return torch.tensor(values, requires_grad=True)


def test_a_loss_is_of_the_members_label_and_several_of_their_own_beneath_it() -> None:
    value = _loss(1.0)
    assert list(labelled(MEMBER, value)) == [("mine", value)]
    assert list(labelled(MEMBER, {"a": value, "b": value})) == [
        ("mine.a", value),
        ("mine.b", value),
    ]
    with pytest.raises(StrategyError, match="empty mapping"):
        list(labelled(MEMBER, {}))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (_loss(1.0, 2.0), 3.0 / 10),  # one a sample, over the samples of the step
        (_loss(1.0, 2.0, 4.0), 7.0 / 30),  # one a row, over its rows
        (_loss(5.0).sum(), 5.0 * 2 / 10),  # one of the batch, which holds 2 of 10 samples
    ],
)
def test_a_mean_is_over_the_whole_step(value: Tensor, expected: float) -> None:
    assert mean(MEMBER, "mine", value, HERE, WHOLE, PerWhat()).item() == pytest.approx(expected)


EQUAL = Counts(2, 2, torch.tensor(2))


@pytest.mark.parametrize(
    ("shown", "expected"),
    [(None, 3.0 / 30), (_loss(1.0, 2.0), 3.0 / 10), (_loss(1.0, 2.0, 4.0), 3.0 / 30)],
    ids=["nothing: rows", "samples", "rows"],
)
def test_a_batch_of_as_many_rows_as_samples_is_read_as_an_earlier_one(
    shown: Tensor | None, expected: float
) -> None:
    per = PerWhat()
    if shown is not None:
        mean(MEMBER, "mine", shown, HERE, WHOLE, per)
    value = _loss(1.0, 2.0)
    assert mean(MEMBER, "mine", value, EQUAL, WHOLE, per).item() == pytest.approx(expected)
    other = mean(MEMBER, "mine.other", value, EQUAL, WHOLE, per)  # of another label: as rows
    assert other.item() == pytest.approx(3.0 / 30)


WRONG: list[tuple[str, object]] = [
    ("is float; return", 1.0),
    ("is torch.int64; return", torch.tensor([1, 2])),
    ("has no gradient", torch.tensor([1.0, 2.0])),
    (r"is \[4\]; return one value a sample \[2\], one a row \[3\], or", _loss(1.0, 2.0, 3.0, 4.0)),
    (r"is \[2, 1\]; return", _loss(1.0, 2.0).unsqueeze(1)),
]


@pytest.mark.parametrize(("words", "value"), WRONG, ids=[words for words, _ in WRONG])
def test_what_is_no_loss_is_refused(words: str, value: Tensor) -> None:
    with pytest.raises(StrategyError, match=f"strategy 'mine'.*the loss 'mine.x' {words}"):
        mean(MEMBER, "mine.x", value, HERE, WHOLE, PerWhat())


def test_without_gradients_or_weight_a_loss_needs_none() -> None:
    constant = torch.tensor([1.0, 2.0])
    with torch.no_grad():
        assert mean(MEMBER, "mine", constant, HERE, HERE, PerWhat()).item() == 1.5
    unweighted = Member("mine", _Method(), 0.0, "teacher")
    assert mean(unweighted, "mine", constant, HERE, HERE, PerWhat()).item() == 1.5


def _shown() -> tuple[Features, Features, State]:
    student = Features({"hint": (torch.ones(2),)}, torch.ones(2))
    teacher = Features({"hint": (torch.ones(2),)}, torch.ones(2))
    return student, teacher, State({"bank": torch.ones(2)})


@pytest.mark.parametrize("which", range(5))
def test_whoever_changes_what_it_was_shown_is_refused(which: int) -> None:
    student, teacher, state = _shown()
    shown = (
        student["hint"],
        student.logits,
        teacher["hint"],
        teacher.logits,
        state["bank"],
    )
    with (
        pytest.raises(StrategyError, match="changed features, logits, targets or state in place"),
        nothing_changed(MEMBER, student, teacher, state),
    ):
        shown[which].add_(1)


def test_reading_and_handing_back_are_no_change() -> None:
    student, teacher, state = _shown()
    with nothing_changed(MEMBER, student, teacher, state):
        state.write("bank", student["hint"] + teacher["hint"])
    assert state.waiting == 1


def test_what_is_handed_back_while_gradients_are_off_is_forgotten() -> None:
    student, teacher, state = _shown()
    state.write("bank", torch.zeros(2))
    with torch.no_grad(), nothing_changed(MEMBER, student, teacher, state):
        state.write("bank", torch.ones(2))
    assert state.waiting == 1  # what waited before stays
