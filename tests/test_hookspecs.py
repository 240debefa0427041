"""The specifications: their form, their documentation, and that the core calls them as they say."""

import inspect
import re
from typing import get_type_hints

import pytest

from kdcore.contract import Adapters, AuxiliaryLoss, Taps
from kdcore.hooks import HookCaller
from kdcore.hookspecs import HOOKS, PROJECT, Hooks, hookimpl


def _parameters(hook: str) -> list[inspect.Parameter]:
    return list(inspect.signature(getattr(Hooks, hook)).parameters.values())[1:]


def _described(hook: str) -> list[str]:
    """Return the arguments that a hook's docstring explains, in its order."""
    documentation = inspect.getdoc(getattr(Hooks, hook)) or ""
    arguments = documentation.partition("Args:\n")[2].partition("\n\nReturns:")[0]
    return re.findall(r"^    (\w+): ", arguments, re.MULTILINE)


def test_the_list_of_hooks_is_what_is_specified() -> None:
    marked = [
        name
        for name, function in vars(Hooks).items()
        if getattr(function, f"{PROJECT}_spec", None) is not None
    ]
    assert tuple(marked) == HOOKS


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hooks_documentation_explains_every_argument_in_the_order_of_its_signature(
    hook: str,
) -> None:
    assert _described(hook) == [parameter.name for parameter in _parameters(hook)]


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hooks_documentation_says_when_it_is_called_and_what_it_returns(hook: str) -> None:
    documentation = inspect.getdoc(getattr(Hooks, hook)) or ""
    assert "Called " in documentation
    assert "Returns:" in documentation
    assert ("Required." in documentation) == (hook == "compute_auxiliary_loss")


@pytest.mark.parametrize("hook", HOOKS)
def test_every_argument_of_a_hook_is_plain_typed_and_without_a_default(hook: str) -> None:
    hints = get_type_hints(getattr(Hooks, hook))
    for parameter in _parameters(hook):
        assert parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        assert parameter.default is parameter.empty
        assert parameter.name in hints


@pytest.mark.parametrize(
    ("hook", "answer"),
    [
        ("extract_features", Taps),
        ("adapt_shapes", Adapters),
        ("compute_auxiliary_loss", AuxiliaryLoss),
    ],
)
def test_a_hook_says_the_type_of_its_answer(hook: str, answer: object) -> None:
    assert get_type_hints(getattr(Hooks, hook))["return"] == answer


@pytest.mark.parametrize("hook", HOOKS)
def test_the_facade_is_given_what_the_specification_names(hook: str) -> None:
    facade = set(inspect.signature(getattr(HookCaller, hook)).parameters) - {"self", "member"}
    # The label is the member's own.
    assert facade == {parameter.name for parameter in _parameters(hook)} - {"label"}


@pytest.mark.parametrize("hook", HOOKS)
def test_wrappers_can_tell_by_the_label_whose_call_they_see(hook: str) -> None:
    assert "label" in [parameter.name for parameter in _parameters(hook)]


def test_the_marker_leaves_the_method_as_it_is() -> None:
    def extract_features() -> str:
        return "untouched"

    marked = hookimpl(extract_features)
    assert marked is extract_features
    assert marked() == "untouched"
    assert hasattr(marked, f"{PROJECT}_impl")
