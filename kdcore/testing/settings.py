"""Checks on a strategy's settings: no model runs."""

import json
from collections.abc import Iterator

from kdcore.errors import ConfigError
from kdcore.testing.case import Case

EXTRA = "no_strategy_has_a_setting_of_this_name"


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


def all_are_described(case: Case) -> Iterator[str]:
    """Find settings without a description."""
    for name, field in case.strategy.Settings.model_fields.items():
        if not (field.description or "").strip():
            yield f"the setting {name!r} has no description"
