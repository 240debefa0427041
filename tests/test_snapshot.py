"""Nested values come back as they were, and what cannot is refused."""

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdcore.snapshot import join, split

SCALARS = st.none() | st.booleans() | st.integers() | st.text() | st.floats()
NESTED = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner)
    ),
    max_leaves=20,
)


def _again(value: object) -> Any:
    tree, tensors = split(value)
    return join(json.loads(json.dumps(tree, allow_nan=False)), tensors)


@given(NESTED)
def test_nested_values_come_back_with_their_types(value: object) -> None:
    assert repr(_again(value)) == repr(value)  # not-a-number is not equal to itself


def test_tensors_come_back_from_where_they_were() -> None:
    tensors = [torch.arange(3), torch.tensor(2.5, dtype=torch.float64)]
    tree, taken = split({"a": [tensors[0], {"$": tensors[1]}], 4: (tensors[0], math.inf)})
    assert "tensor" in json.dumps(tree)
    assert len(taken) == 3
    again = join(tree, taken)
    assert torch.equal(again["a"][0], tensors[0])
    assert torch.equal(again["a"][1]["$"], tensors[1])
    assert again[4][1] == math.inf


def test_names_that_look_alike_do_not_meet() -> None:
    one, other = torch.zeros(1), torch.ones(1)
    again = _again({"a/b": one, "a": {"b": other}})
    assert torch.equal(again["a/b"], one)
    assert torch.equal(again["a"]["b"], other)


def test_what_is_no_value_is_refused_with_its_place() -> None:
    with pytest.raises(TypeError, match="/a/1 is object, which cannot be saved"):
        split({"a": [1, object()]})


def test_a_tree_of_another_make_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown kind 'code'"):
        join({"$": "code", "value": "1"}, {})
    with pytest.raises(KeyError):
        join({"$": "tensor", "name": "missing"}, {})
