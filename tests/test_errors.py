"""The hierarchy of errors, and how a wrong name is answered."""

import pytest

from kdcore import errors
from kdcore.errors import Interrupted, KdcoreError, RunError, UserError, unknown

USERS = [errors.ConfigError, errors.DataError, errors.ModelError, errors.TapError]
USERS += [errors.CatalogError, errors.ResumeError, errors.ScoreError]
RUNS = [errors.StrategyError, errors.NoLogitsError, errors.NonFiniteLossError]


@pytest.mark.parametrize("kind", USERS)
def test_what_a_user_did_exits_with_2_and_is_a_value_error(kind: type[KdcoreError]) -> None:
    assert kind.exit_code == 2
    assert issubclass(kind, UserError)
    with pytest.raises(ValueError, match="the reason"):
        raise kind("the reason")


@pytest.mark.parametrize("kind", RUNS)
def test_a_run_that_failed_exits_with_3_and_is_no_value_error(kind: type[KdcoreError]) -> None:
    assert kind.exit_code == 3
    assert issubclass(kind, RunError)
    assert not issubclass(kind, ValueError)


def test_every_error_of_the_module_is_one_of_the_hierarchy() -> None:
    found = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    raised = [kind for kind in found if issubclass(kind, Exception)]
    assert {*USERS, *RUNS, KdcoreError, UserError, RunError, Interrupted} == set(raised)


def test_near_names_are_offered_the_nearest_first() -> None:
    message = unknown("module", "layer3.conv", ["layer3.conv1", "fc", "layer3.1.conv2"])
    assert message.startswith(
        "unknown module 'layer3.conv'; did you mean 'layer3.conv1' or 'layer3.1.conv2'?"
    )


def test_names_that_are_not_near_are_not_offered() -> None:
    assert unknown("role", "hint", ["zzz"]) == "unknown role 'hint' (known: zzz)"


def test_few_names_are_listed_once_each_and_many_are_not() -> None:
    twelve = [f"name{i:02}" for i in range(12)]
    assert f"(known: {', '.join(twelve)})" in unknown("strategy", "q", twelve * 2)
    assert "known:" not in unknown("strategy", "q", [*twelve, "name12"])


def test_it_is_said_when_there_is_nothing_to_choose_from() -> None:
    assert unknown("state", "bank", []) == "unknown state 'bank' (there is none)"
