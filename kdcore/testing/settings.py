"""Checks on what a strategy says of itself, and on its settings: no model runs."""

import json
from collections.abc import Iterator
from itertools import takewhile
from typing import get_args

from pydantic import ValidationError

from kdcore.catalog import Catalog
from kdcore.errors import ConfigError
from kdcore.strategy import API_VERSION, Recommended, Strategy
from kdcore.testing.case import Case
from kdcore.validation import describe_validation

TO_DO = "TODO:"
"""How the texts of a package that was just written begin where its author's are to stand."""

EXTRA = "no_strategy_has_a_setting_of_this_name"


def it_says_what_it_is(case: Case) -> Iterator[str]:
    """Find strategies without a word on what they are, or on where their weights are from."""
    own = takewhile(lambda base: base is not Strategy, case.strategy.__mro__)
    if not any((base.__doc__ or "").strip() for base in own):
        yield "its class has no docstring"
    recommended = case.strategy.recommended
    if recommended != Recommended() and recommended.source == Recommended().source:
        yield "its recommended weights have no source"
    said = {
        "docstring of its class": case.strategy.__doc__ or "",
        "source of its recommended weights": recommended.source,
        "description of its package (pyproject.toml)": _summary(case.strategy),
    }
    for what, text in said.items():
        if TO_DO in text:
            yield f"the {what} is the template's: {' '.join(text.split())[:60]!r}"


def _summary(strategy: type[Strategy]) -> str:
    """Return the one-line description of the package that a class is installed with."""
    place = f"{strategy.__module__}:{strategy.__qualname__}"
    summaries = [each.summary for each in Catalog().listings() if each.target == place]
    return summaries[0] if summaries else ""


def it_is_written_for_this_contract(case: Case) -> Iterator[str]:
    """Find strategies of another version of the contract."""
    if case.strategy.api_version != API_VERSION:
        yield f"it is written for API {case.strategy.api_version}, this is API {API_VERSION}"


def extras_are_refused(case: Case) -> Iterator[str]:
    """Find settings that accept a key which they do not have."""
    try:
        case.strategy(**case.settings, **{EXTRA: 1})
    except ConfigError:
        return
    yield f"the setting {EXTRA!r} was accepted"


def json_gives_them_back(case: Case) -> Iterator[str]:
    """Find settings that change on their way through JSON."""
    settings = case.strategy(**case.settings).settings
    again = case.strategy(**json.loads(settings.model_dump_json())).settings
    if again != settings:
        yield f"({settings}) came back as ({again})"


def defaults_are_valid(case: Case) -> Iterator[str]:
    """Find defaults that their own settings would refuse."""
    settings = case.strategy(**case.settings).settings
    try:
        case.strategy.Settings.model_validate(settings.model_dump())
    except ValidationError as error:
        yield describe_validation(error, "defaults", case.strategy.Settings)


def values_stay_as_they_are(case: Case) -> Iterator[str]:
    """Find settings that can be changed once they were checked."""
    settings = case.strategy(**case.settings).settings
    for name in type(settings).model_fields:
        try:
            setattr(settings, name, getattr(settings, name))
        except ValidationError:
            continue
        yield f"the setting {name!r} can be changed without being checked again"


def no_number_is_infinite(case: Case) -> Iterator[str]:
    """Find settings that accept what is no number, or infinite."""
    for name, field in case.strategy.Settings.model_fields.items():
        if field.annotation is not float and float not in get_args(field.annotation):
            continue
        for value in (float("nan"), float("inf")):
            try:
                case.strategy(**{**case.settings, name: value})
            except ConfigError:
                continue
            yield f"{name} = {value} was accepted"
            break


def all_are_described(case: Case) -> Iterator[str]:
    """Find settings without a description."""
    for name, field in case.strategy.Settings.model_fields.items():
        if not (field.description or "").strip():
            yield f"the setting {name!r} has no description"
