"""Logits out of whatever a model returns, and a teacher's classes turned into the data's."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdcore.errors import ModelError
from kdcore.models.logits import LogitsRule, give_logits, groups_of
from kdcore.taps import OtherClasses, logits_of

LOGITS = torch.tensor([[1.0, 2.0, 0.5, -1.0]])


class Returns(nn.Module):
    def __init__(self, output: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.output = output

    def forward(self, _: Tensor) -> Any:
        return self.output


@pytest.mark.parametrize(
    ("output", "part"),
    [
        ((torch.zeros(1), LOGITS), "1"),
        ([torch.zeros(1), {"cls": LOGITS}], "1.cls"),
        ({"preds": SimpleNamespace(cls=LOGITS)}, "preds.cls"),
        ((torch.zeros(1), LOGITS), "-1"),
        (LOGITS, "1"),  # a tensor alone, as some models return in training
        ({"logits": LOGITS}, ""),
    ],
)
def test_the_part_that_is_named_is_what_the_model_returns(output: Any, part: str) -> None:
    model = Returns(output)
    give_logits(model, LogitsRule("student", part))
    assert model(torch.zeros(1)) is LOGITS


@pytest.mark.parametrize(
    ("output", "part", "said"),
    [
        ((LOGITS,), "1", "its output has 1 parts"),
        ({"logit": LOGITS}, "logits", "unknown part of its output 'logits'; did you mean 'logit'"),
        (SimpleNamespace(cls=LOGITS), "kls", "unknown part of its output 'kls'; did you mean"),
        (({"a": 1}, LOGITS), "0", "leads to dict; set output"),
        ({}, "", "its output holds no logits; set output"),
    ],
)
def test_a_part_that_is_not_there_is_refused(output: Any, part: str, said: str) -> None:
    model = Returns(output)
    give_logits(model, LogitsRule("student", part))
    with pytest.raises(ModelError, match=said):
        model(torch.zeros(1))


def test_classes_that_are_made_up_of_several_have_the_logit_of_any_of_them() -> None:
    model = Returns(LOGITS)
    give_logits(model, LogitsRule("teacher", "", [[3], [0, 1]]))
    found = model(torch.zeros(1))
    assert found[0, 0] == -1.0
    assert float(found[0, 1]) == pytest.approx(
        float((LOGITS[0, 0].exp() + LOGITS[0, 1].exp()).log())
    )
    # So the share of a class among the data's is the sum of its own among these.
    probabilities = LOGITS[0].softmax(0)
    shares = probabilities[[3, 0, 1]] / probabilities[[3, 0, 1]].sum()
    assert float(found.softmax(1)[0, 1]) == pytest.approx(float(shares[1:].sum()))


def test_logits_of_other_classes_are_none_of_the_datas() -> None:
    model = Returns(LOGITS)
    give_logits(model, LogitsRule("teacher", hidden=True))
    output = model(torch.zeros(1))
    assert isinstance(output, OtherClasses)
    assert output.output is LOGITS
    assert logits_of(output) is None


def test_what_is_saved_of_a_model_is_as_without() -> None:
    model = Returns(LOGITS)
    before = list(model.state_dict())
    give_logits(model, LogitsRule("student", "0"))
    assert list(model.state_dict()) == before
    assert copy.deepcopy(model)(torch.zeros(1)).shape == (1, 4)


NAMES = ("tabby", "lynx", "beagle", "crane", "crane")


def test_a_map_names_classes_by_name_or_index() -> None:
    given = {"dog": "beagle", "cat": ("tabby", 1)}
    assert groups_of(given, ("cat", "dog"), 5, NAMES, "teacher") == [[0, 1], [2]]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"cat": 0}, "does not say what 'dog' is among the model's 5 classes"),
        ({"cat": 0, "dog": 2, "owl": 3}, "unknown class of the data 'owl'"),
        ({"cat": 0, "dog": 5}, "5 is none of 0 to 4"),
        ({"cat": 0, "dog": "beagel"}, "unknown class of the model 'beagel'; did you mean 'beagle'"),
        ({"cat": 0, "dog": "crane"}, "'crane' is the name of classes 3 and 4"),
        ({"cat": 0, "dog": ()}, "'dog' is none of the model's classes"),
        ({"cat": 0, "dog": (1, "tabby")}, "class 0 of the model stands twice"),
    ],
)
def test_maps_that_do_not_fit_are_refused(given: Any, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        groups_of(given, ("cat", "dog"), 5, NAMES, "teacher")
