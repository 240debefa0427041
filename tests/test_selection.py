"""From the entries of a list of strategies to members: names, weights, labels, teachers, errors."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import Field
from torch import Tensor, nn

from kdcore.catalog import UNPACKAGED, Catalog
from kdcore.contract import Features
from kdcore.distiller import Distiller
from kdcore.errors import CatalogError, ConfigError
from kdcore.experiment import StrategyConfig
from kdcore.hooks import Member
from kdcore.hookspecs import hookimpl
from kdcore.selection import agreed_task_weight, load_strategy, select, teachers_used
from kdcore.strategy import Recommended, Strategy, StrategySettings
from kdcore.teachers import TeacherEnsemble

Install = Callable[..., Path]


class Method(Strategy):
    class Settings(StrategySettings):
        temperature: float = Field(2.0, gt=0)

    settings: Settings
    recommended = Recommended(0.25, 0.75, "a paper")

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        return (student.logits - teacher.logits).square().mean(1) / self.settings.temperature


class Other(Method):
    recommended = Recommended(30_000.0, 1.0, "another paper")


def _one(entry: Any, *teachers: str) -> Member:
    (member,) = select([entry], teachers or ("teacher",))
    return member


def _refused(*entries: Any, teachers: tuple[str, ...] = ("teacher",)) -> str:
    with pytest.raises(ConfigError) as caught:
        select(entries, teachers)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What an entry may be


def test_an_entry_may_be_the_name_of_an_installed_strategy(install: Install) -> None:
    install("kd-one", {"one": "kd_one:Method"}, version="1.5")
    member = _one("one")
    assert member.label == "one"
    assert type(member.strategy).__module__ == "kd_one"
    assert str(member.origin) == "kd-one 1.5"
    assert str(member) == "strategy 'one' (Method, kd-one 1.5)"


def test_an_entry_may_hold_weight_label_teacher_and_settings(install: Install) -> None:
    source = {
        "kd_one": "from pydantic import Field\nfrom kdcore import Strategy, StrategySettings\n"
        "class Method(Strategy):\n class Settings(StrategySettings):\n"
        "  temperature: float = Field(2.0, gt=0)"
    }
    install("kd-one", {"one": "kd_one:Method"}, source=source)
    entry = {"name": "one", "weight": 3, "label": "hot", "teacher": "b", "temperature": 9}
    for given in (entry, StrategyConfig.model_validate(entry)):
        member = _one(given, "a", "b")
        assert (member.label, member.weight, member.teacher) == ("hot", 3.0, "b")
        assert repr(member.strategy) == "Method(temperature=9.0)"


def test_an_entry_may_be_a_strategy_and_keeps_its_settings() -> None:
    strategy = Method(temperature=7)
    member = _one(strategy)
    assert member.strategy is strategy
    assert (member.label, member.weight, member.origin) == ("method", 0.25, UNPACKAGED)


def test_an_entry_may_be_a_class_or_name_one() -> None:
    assert repr(_one(Method).strategy) == "Method(temperature=2.0)"
    member = _one({"name": Method, "temperature": 5, "weight": 2, "label": "five"})
    assert repr(member.strategy) == "Method(temperature=5.0)"
    assert (member.label, member.weight) == ("five", 2.0)


def test_no_entry_needs_no_teacher_and_no_catalog() -> None:
    assert select([], ()) == ()


def test_members_are_in_the_order_of_the_entries() -> None:
    labels = ["z", "a", "m"]
    members = select([{"name": Method, "label": label} for label in labels], ["teacher"])
    assert [member.label for member in members] == labels


@pytest.mark.parametrize("entry", [5, None, ["logits"], object, nn.Linear(1, 1)])
def test_what_is_no_entry_is_refused(entry: object) -> None:
    with pytest.raises(ConfigError, match=r"no strategy: expected a name|should be a valid string"):
        select([entry], ["teacher"])  # type: ignore[list-item]  # a caller may not check types


@pytest.mark.parametrize("entries", ["logits", {"name": "logits"}])
def test_one_entry_in_place_of_a_list_is_refused_and_the_list_is_written_out(entries: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        select(entries, ["teacher"])
    assert str(caught.value).endswith(f"write [{entries!r}]")


# Weights


def test_a_weight_that_is_not_given_is_the_methods_own() -> None:
    assert _one(Method).weight == 0.25
    assert _one(Other).weight == 30_000.0
    assert _one({"name": Method, "weight": 0}).weight == 0.0


@pytest.mark.parametrize("weight", [-1, math.nan, math.inf, "heavy"])
def test_a_weight_that_is_no_number_from_0_is_refused_with_its_value(weight: object) -> None:
    message = _refused({"name": "one", "weight": weight})
    assert message.startswith("strategy 'one': weight: ")
    assert f"(got {weight!r})" in message


def test_the_task_weight_is_what_all_methods_recommend_or_1() -> None:
    same = select([Method, {"name": Method, "label": "again"}], ["teacher"])
    assert agreed_task_weight(same) == 0.75
    assert agreed_task_weight(select([Method, Other], ["teacher"])) == 1.0
    assert agreed_task_weight(()) == 1.0


# Labels


def test_one_method_may_stand_twice_with_other_settings_and_a_label_each() -> None:
    entries = [{"name": Method, "label": f"t{t}", "temperature": t} for t in (1, 4)]
    student, teacher = nn.Linear(4, 3), nn.Linear(4, 3)
    with Distiller(teacher, student, entries, sample_input=torch.zeros(2, 4)) as distiller:
        losses = distiller(torch.ones(5, 4))
    assert list(losses.auxiliary) == ["t1", "t4"]
    torch.testing.assert_close(losses.auxiliary["t1"], 4 * losses.auxiliary["t4"])
    assert losses.auxiliary["t1"].item() > 0


def test_two_entries_of_one_label_are_refused_with_the_remedy() -> None:
    message = _refused(Method, Method)
    assert "two strategies are called 'method'; give one of them a label" in message
    assert '{ name = "method", label = "method2" }' in message


@pytest.mark.parametrize("label", ["", "two words", "a.b", "a/b", "-x", "\x1b[2J"])
def test_a_label_that_is_no_plain_word_is_refused(label: str) -> None:
    message = _refused({"name": Method, "label": label})
    assert "label: string should match pattern" in message
    assert message.isprintable()


@pytest.mark.parametrize("label", ["keys", "items", "train", "forward"])
def test_a_label_that_a_module_could_not_have_is_refused_before_pytorch_fails(label: str) -> None:
    with pytest.raises(KeyError):
        nn.ModuleDict({label: nn.Identity()})
    assert f"no strategy can be called {label!r}" in _refused({"name": Method, "label": label})


def test_a_name_that_no_module_could_have_asks_for_a_label(install: Install) -> None:
    install("kd-one", {"one.two": "kd_one:Method"})
    assert "'one.two', PyTorch has a use for it; give it a label" in _refused("one.two")
    assert _one({"name": "one.two", "label": "onetwo"}).label == "onetwo"


def test_a_strategy_that_is_named_with_its_distribution_is_labelled_by_its_name_alone(
    install: Install,
) -> None:
    install("kd-one", {"twin": "kd_one:Method"})
    install("kd-two", {"twin": "kd_two:Method"})
    with pytest.raises(CatalogError, match=r"claimed by kd-one 1\.0 and kd-two 1.0"):
        select(["twin"], ["teacher"])
    member = _one("kd-two:twin")
    assert member.label == "twin"
    assert str(member.origin) == "kd-two 1.0"
    assert _one({"name": "kd-two:twin", "label": "second"}).label == "second"


# Teachers


def test_the_only_teacher_need_not_be_named() -> None:
    assert _one(Method, "big").teacher == "big"


def test_of_several_teachers_one_must_be_named() -> None:
    message = _refused(Method, teachers=("a", "b"))
    assert "strategy 'method' does not say which teacher" in message
    assert "a, b" in message
    assert "'all'" in message


def test_an_unknown_teacher_is_refused_with_the_nearest() -> None:
    message = _refused({"name": Method, "teacher": "larg"}, teachers=("large", "small"))
    assert "strategy 'method': unknown teacher 'larg'; did you mean 'large'" in message


def test_a_strategy_without_any_teacher_is_refused() -> None:
    assert _refused(Method, teachers=()) == "strategy 'method' needs a teacher, and there is none"


def test_all_teachers_get_an_instance_each_and_share_the_weight() -> None:
    members = select([{"name": Method, "teacher": "all", "weight": 3}], ["a", "b", "c"])
    assert [(m.label, m.teacher, m.weight) for m in members] == [
        ("method@a", "a", 1.0),
        ("method@b", "b", 1.0),
        ("method@c", "c", 1.0),
    ]
    assert len({member.strategy for member in members}) == 3


# Settings


def test_a_wrong_setting_is_told_with_the_label_of_its_entry(install: Install) -> None:
    install("kd-one", {"one": "kd_one:Method"})
    message = _refused({"name": "one", "label": "hot", "temperature": 3})
    assert message.startswith("strategy 'hot': unknown key 'temperature'")
    assert _refused({"name": Method, "label": "cold", "temperature": -3}) == (
        "strategy 'cold': temperature: input should be greater than 0 (got -3)"
    )


def test_for_a_misspelt_key_of_an_entry_its_own_keys_are_offered_too(install: Install) -> None:
    install("kd-one", {"one": "kd_one:Method"})
    message = _refused({"name": "one", "wieght": 3})
    assert "unknown key 'wieght'; did you mean 'weight'?" in message


def test_an_entry_without_a_name_is_refused() -> None:
    assert "name: field required" in _refused({"weight": 1.0})


# Loading


def test_an_unknown_strategy_is_refused_with_how_to_install_it() -> None:
    with pytest.raises(CatalogError, match=r"unknown strategy 'nobodys'.*pip install kdcore-nob"):
        select(["nobodys"], ["teacher"])


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("Method = 5", "is int 5, not a subclass"),
        ("def Method(): ...", "is function <function Method"),
        ("class Method: ...", "is type <class 'kd_odd.Method'>, not a subclass"),
        (
            "from kdcore import Strategy\nclass M(Strategy): ...\nMethod = M()",
            "is M M(), not a subclass",
        ),
        ("import kdcore as Method", "is module <module 'kdcore'"),
        ("Method = '\\x1b[2J\\n'", r"is str '\x1b[2J\n', not"),
        (
            "class Odd:\n def __repr__(self): return '\\x1b[2J'\nMethod = Odd()",
            r"is Odd \x1b[2J, not",
        ),
    ],
)
def test_an_entry_point_that_is_no_strategy_class_is_refused_with_what_it_is(
    install: Install, source: str, shown: str
) -> None:
    install("kd-odd", {"odd": "kd_odd:Method"}, source={"kd_odd": source})
    with pytest.raises(CatalogError) as caught:
        load_strategy("odd", Catalog())
    assert str(caught.value).startswith("'odd' (kd-odd 1.0) is ")
    assert shown in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_strategy_for_another_version_of_the_contract_is_refused(install: Install) -> None:
    source = {"kd_old": "from kdcore import Strategy\nclass Method(Strategy): api_version = 99"}
    install("kd-old", {"old": "kd_old:Method"}, source=source)
    with pytest.raises(CatalogError, match=r"'old' \(kd-old 1.0\) is written for API 99, this"):
        load_strategy("old", Catalog())


def test_a_class_that_breaks_the_contract_is_told_with_its_distribution(install: Install) -> None:
    source = {
        "kd_bad": "from kdcore import Strategy\nclass Method(Strategy):\n def __init__(self): ..."
    }
    install("kd-bad", {"bad": "kd_bad:Method"}, source=source)
    with pytest.raises(CatalogError, match=r"'bad' \(kd-bad 1.0\) .*Method has its own __init__"):
        select(["bad"], ["teacher"])


def test_only_the_strategies_of_the_list_are_imported(install: Install) -> None:
    install("kd-one", {"one": "kd_one:Method"})
    install("kd-bad", {"bad": "kd_bad:Method"}, source={"kd_bad": "raise RuntimeError"})
    assert _one("one").label == "one"
    assert "kd_bad" not in sys.modules


def test_a_blocked_strategy_is_refused(install: Install) -> None:
    install("kd-one", {"one": "kd_one:Method"})
    with pytest.raises(CatalogError, match="'one' is blocked by name"):
        select(["one"], ["teacher"], Catalog(blocked=["one"]))


def test_a_catalog_that_is_handed_over_is_the_one_that_is_asked(install: Install) -> None:
    catalog = Catalog()
    install("kd-one", {"one": "kd_one:Method"})
    with pytest.raises(CatalogError, match="unknown strategy 'one'"):
        select(["one"], ["teacher"], catalog)
    assert _one("one").label == "one"


def test_the_teachers_that_are_used_are_those_of_entries_and_the_members_of_ensembles() -> None:
    teachers = {"a": 1, "b": 2, "c": 3, "both": 4}
    ensembles = {"both": TeacherEnsemble(("b", "c"))}

    def used(*names: str) -> dict[str, int]:
        entries = [{"name": Method, "label": name, "teacher": name} for name in names]
        return teachers_used(entries, teachers, ensembles)

    assert used("a") == {"a": 1}
    assert used("both") == {"b": 2, "c": 3, "both": 4}
    assert list(used("both", "a")) == list(teachers)  # in the teachers' order
    assert used() == {}
    with pytest.raises(ConfigError, match="unknown teacher 'd'"):
        used("d")
