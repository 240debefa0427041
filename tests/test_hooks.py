"""The façade before pluggy: what it refuses, who is called with what, and what errors tell.

Each trap of pluggy stands beside what pluggy does on its own.
"""

import importlib
import inspect
import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pluggy
import pytest
import torch
from torch import Tensor

from kdcore.catalog import Origin
from kdcore.contract import Adapters, Features, Setup, Shapes, State, Taps
from kdcore.errors import ModelError, RunError, StrategyError, UserError
from kdcore.hooks import HookCaller, Member
from kdcore.hookspecs import HOOKS, PROJECT, Hooks, hookimpl
from kdcore.strategy import Strategy, StrategySettings

ORIGIN = Origin("kd-method", "1.2")
FEATURES = Features({}, torch.zeros(2, 3))
SHAPES = Shapes({}, torch.Size([2, 3]))
LOSS = "compute_auxiliary_loss"


class Method(Strategy):
    """Gives back a vector that tells its temperature."""

    class Settings(StrategySettings):
        temperature: float = 1.0

    settings: Settings

    @hookimpl
    def extract_features(self, label: str) -> Taps:
        return Taps(student={"role": f"student of {label}"})

    @hookimpl
    def adapt_shapes(self) -> Adapters:
        return Adapters(state={"memory": torch.full((1,), self.settings.temperature)})

    @hookimpl
    def compute_auxiliary_loss(self, student: Features) -> Tensor:
        return torch.full((len(student.logits),), self.settings.temperature)


class Bare(Strategy):
    """Implements the one hook that is required."""

    @hookimpl
    def compute_auxiliary_loss(self) -> Tensor:
        return torch.ones(2)


def _member(strategy: Strategy, label: str = "method") -> Member:
    return Member(label, strategy, 1.0, "teacher", ORIGIN)


def _loss(hooks: HookCaller, member: Member | None = None, **changed: Any) -> Any:
    arguments: dict[str, Any] = {
        "setup": Setup(),
        "student": FEATURES,
        "teacher": FEATURES,
        "modules": {},
        "state": State({}),
        "targets": torch.zeros(2, dtype=torch.int64),
        "indices": torch.arange(2),
        "epoch": 3,
        "step": 17,
        "generator": torch.Generator(),
    }
    return hooks.compute_auxiliary_loss(member or hooks.members[0], **{**arguments, **changed})


def _call(hooks: HookCaller, hook: str) -> Any:
    member = hooks.members[0]
    if hook == "extract_features":
        return hooks.extract_features(member, Setup())
    if hook == "adapt_shapes":
        return hooks.adapt_shapes(member, Setup(), SHAPES, SHAPES)
    return _loss(hooks)


def _with(hook: str, function: Callable[..., object], *, base: type = Bare) -> Strategy:
    """Return a strategy of class `Wrong` whose hook is a given function, marked."""
    strategy = type("Wrong", (base,), {hook: hookimpl(function)})()
    assert isinstance(strategy, Strategy)
    return strategy


def _raw(*plugins: object) -> Any:
    """Register plugins as pluggy alone would have it, and return the caller of all hooks."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Hooks)
    for plugin in plugins:
        manager.register(plugin)
    return manager.hook


def _refused(strategy: Strategy, *wrappers: object) -> str:
    with pytest.raises(StrategyError) as caught:
        HookCaller([_member(strategy)], {f"w{i}": wrapper for i, wrapper in enumerate(wrappers)})
    assert "\n" not in str(caught.value)
    return str(caught.value)


ARGUMENTS: dict[str, Any] = dict.fromkeys(
    list(inspect.signature(Hooks.compute_auxiliary_loss).parameters)[1:]
)


# What is answered


def test_each_strategy_is_asked_alone_with_its_own_settings_and_label() -> None:
    warm, hot = _member(Method(temperature=3), "warm"), _member(Method(temperature=9), "hot")
    hooks = HookCaller([warm, hot])
    assert hooks.members == (warm, hot)
    assert _loss(hooks, warm).tolist() == [3.0, 3.0]
    assert _loss(hooks, hot).tolist() == [9.0, 9.0]
    assert hooks.extract_features(hot, Setup()).student == {"role": "student of hot"}
    adapters = hooks.adapt_shapes(warm, Setup(), SHAPES, SHAPES)
    assert adapters.state["memory"].tolist() == [3.0]


def test_results_are_in_the_order_of_the_configuration_unlike_pluggys() -> None:
    strategies = [Method(temperature=t) for t in (1, 2, 3)]
    members = [_member(strategy, f"m{i}") for i, strategy in enumerate(strategies)]
    hooks = HookCaller(members)
    order = [float(_loss(hooks, member)[0]) for member in hooks.members]
    assert order == [1.0, 2.0, 3.0]
    raw = _raw(*strategies).compute_auxiliary_loss(**{**ARGUMENTS, "student": FEATURES})
    assert [float(value[0]) for value in raw] == [3.0, 2.0, 1.0]


def test_a_strategy_gets_the_arguments_that_it_names_and_no_others() -> None:
    seen: dict[str, object] = {}

    def compute_auxiliary_loss(_: object, step: int, label: str, epoch: int) -> Tensor:
        seen.update(step=step, label=label, epoch=epoch)
        return torch.ones(2)

    _loss(HookCaller([_member(_with(LOSS, compute_auxiliary_loss))]))
    assert seen == {"step": 17, "label": "method", "epoch": 3}


def test_every_argument_of_the_specification_arrives_as_it_was_given() -> None:
    seen: list[dict[str, Any]] = []
    names = list(ARGUMENTS)
    scope: dict[str, Any] = {"note": seen.append, "answer": torch.ones(2)}
    exec(f"def hook(self, {', '.join(names)}):\n note(locals())\n return answer", scope)
    given: dict[str, Any] = {name: object() for name in names if name != "label"}
    _loss(HookCaller([_member(_with(LOSS, scope["hook"]))]), **given)
    assert {name: seen[0][name] for name in given} == given
    assert seen[0]["label"] == "method"


def test_hooks_that_are_optional_have_an_empty_answer_where_they_are_not_implemented() -> None:
    hooks = HookCaller([_member(Bare()), _member(Method(), "other")])
    assert hooks.extract_features(hooks.members[0], Setup()) == Taps()
    assert hooks.adapt_shapes(hooks.members[0], Setup(), SHAPES, SHAPES) == Adapters()


@pytest.mark.parametrize(("argument", "wanted"), [("student", True), ("indices", False)])
def test_it_is_known_which_arguments_a_loss_wants(argument: str, wanted: bool) -> None:
    hooks = HookCaller([_member(Method())])
    assert hooks.wants(hooks.members[0], argument) is wanted


def test_a_strategy_that_inherits_its_hooks_is_called() -> None:
    class Child(Method):
        pass

    assert _loss(HookCaller([_member(Child(temperature=4))])).tolist() == [4.0, 4.0]


def test_a_hook_below_a_decorator_that_keeps_its_signature_is_called() -> None:
    def compute_auxiliary_loss(_: object, epoch: int) -> Tensor:
        return torch.full((2,), float(epoch))

    decorated = torch.no_grad()(compute_auxiliary_loss)
    assert _loss(HookCaller([_member(_with(LOSS, decorated))])).tolist() == [3.0, 3.0]


# Answers that are none


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_that_returns_none_is_an_error_that_names_it(hook: str) -> None:
    hooks = HookCaller([_member(_with(hook, lambda _: None))])
    with pytest.raises(StrategyError) as caught:
        _call(hooks, hook)
    assert f"strategy 'method' (Wrong, kd-method 1.2): {hook} returned" in str(caught.value)
    assert "; return " in str(caught.value)


def test_pluggy_would_drop_a_hook_that_returns_none_in_silence() -> None:
    silent = _with(LOSS, lambda _: None)
    assert (
        len(_raw(Method(), silent).compute_auxiliary_loss(**{**ARGUMENTS, "student": FEATURES}))
        == 1
    )


@pytest.mark.parametrize(
    ("hook", "expected"), [("extract_features", "Taps"), ("adapt_shapes", "Adapters")]
)
def test_an_answer_of_another_type_is_an_error_that_names_both_types(
    hook: str, expected: str
) -> None:
    hooks = HookCaller([_member(_with(hook, lambda _: {"student": "conv"}))])
    with pytest.raises(StrategyError, match=f"{hook} returned dict; return kdcore.{expected}"):
        _call(hooks, hook)


# Arguments


def _default(_: object, epoch: int = 7) -> None: ...
def _misspelt_default(_: object, epoc: int = 7) -> None: ...
def _keyword_only(_: object, *, epoch: int) -> None: ...
def _keyword_only_default(_: object, *, epoch: int = 7) -> None: ...
def _positional_only(_: object, epoch: int, /) -> None: ...
def _positional(_: object, *epoch: int) -> None: ...
def _keywords(_: object, **epoch: int) -> None: ...
def _misspelt(_: object, epoc: int) -> None: ...


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (_default, "pluggy need not pass what has a default; remove it"),
        (_misspelt_default, "unknown argument 'epoc'; did you mean 'epoch' or 'step'"),
        (_keyword_only, "name plain arguments, out of setup, label, student"),
        (_keyword_only_default, "name plain arguments"),
        (_positional_only, "name plain arguments"),
        (_positional, r"\(\*epoch: int\): name plain arguments"),
        (_keywords, r"\(\*\*epoch: int\): name plain arguments"),
        (_misspelt, "unknown argument 'epoc'; did you mean 'epoch'"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_arguments_that_pluggy_would_not_pass_are_refused_by_name(
    function: Callable[..., None], reason: str
) -> None:
    with pytest.raises(StrategyError, match=reason) as caught:
        HookCaller([_member(_with(LOSS, function))])
    assert f"strategy 'method' (Wrong, kd-method 1.2): {LOSS}(" in str(caught.value)


@pytest.mark.parametrize(
    ("source", "seen"),
    [("self, epoc=7", 7), ("self, *epoch", ()), ("self, **epoch", {}), ("self, *, epoch=7", 7)],
)
def test_pluggy_would_call_without_arguments_that_have_a_default_or_a_star(
    source: str, seen: object
) -> None:
    scope: dict[str, Any] = {}
    name = source.rpartition(" ")[2].strip("*").partition("=")[0]
    exec(f"class Plugin:\n def {LOSS}({source}): return ({name},)", scope)
    hookimpl(getattr(scope["Plugin"], LOSS))
    assert _raw(scope["Plugin"]()).compute_auxiliary_loss(**ARGUMENTS) == [(seen,)]


def test_pluggy_would_accept_a_keyword_only_argument_and_fail_when_it_calls() -> None:
    class Plugin:
        @hookimpl
        def compute_auxiliary_loss(self, *, epoch: int) -> int:
            return epoch

    hook = _raw(Plugin())
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument"):
        hook.compute_auxiliary_loss(**ARGUMENTS)


# Which methods are hooks


def test_a_misspelt_hook_is_refused_and_the_nearest_is_offered() -> None:
    message = _refused(_with("extract_feature", lambda _: Taps()))
    assert "strategy 'method' (Wrong, kd-method 1.2): unknown hook 'extract_feature'" in message
    assert "did you mean 'extract_features'" in message


def test_a_misspelt_hook_of_a_wrapper_is_refused_with_the_wrappers_name() -> None:
    class Misspelt:
        @hookimpl(wrapper=True)
        def compute_auxilary_loss(self) -> Generator[None, Any, Any]:
            return (yield)

    message = _refused(Bare(), Misspelt())
    assert "wrapper 'w0': unknown hook 'compute_auxilary_loss'" in message


def test_pluggy_would_never_call_a_misspelt_hook_and_not_say_so() -> None:
    class Misspelt:
        @hookimpl
        def compute_auxilary_loss(self) -> None:
            raise AssertionError

    assert _raw(Misspelt()).compute_auxiliary_loss(**ARGUMENTS) == []


@pytest.mark.parametrize("kind", [staticmethod, classmethod, property])
def test_a_hook_that_is_no_plain_method_is_refused(kind: Callable[..., Any]) -> None:
    def compute_auxiliary_loss(epoch: int = 7) -> None: ...

    strategy: Any = type("Wrong", (Bare,), {})
    # Set later, as a decorator of the class might: the class statement has its own check.
    setattr(strategy, LOSS, kind(hookimpl(compute_auxiliary_loss)))
    assert f"{LOSS} is no plain method" in _refused(strategy())


def test_a_strategy_without_the_required_hook_is_refused() -> None:
    assert f"does not implement {LOSS}" in _refused(Strategy())


def test_a_strategy_that_wraps_others_is_refused() -> None:
    @hookimpl(wrapper=True)
    def compute_auxiliary_loss(_: object) -> Generator[None, Any, Any]:
        return (yield)

    strategy: Any = type("Wrong", (Bare,), {LOSS: compute_auxiliary_loss})
    assert f"{LOSS} is a wrapper; a strategy answers itself" in _refused(strategy())


# Instances


def test_a_class_in_place_of_an_instance_is_refused_with_the_remedy() -> None:
    wrong: Any = Bare
    assert "is a class; register an instance: Bare()" in _refused(wrong)


def test_a_wrappers_class_in_place_of_an_instance_is_refused_with_the_remedy() -> None:
    message = _refused(Bare(), Calls)
    assert message == "wrapper 'w0' is a class; register an instance: Calls()"


def test_pluggy_would_accept_a_class_and_fail_when_it_calls() -> None:
    hook = _raw(Method)
    with pytest.raises((TypeError, pluggy.HookCallError)):
        hook.extract_features(setup=None, label="x")


def test_a_strategy_that_defines_equality_is_refused() -> None:
    equal: Any = type("Equal", (Bare,), {"__eq__": lambda *_: True, "__hash__": lambda _: 1})
    message = _refused(equal())
    assert "(Equal, kd-method 1.2) defines __eq__" in message
    assert "remove it" in message


def test_pluggy_would_not_register_two_strategies_that_compare_equal() -> None:
    @dataclass(frozen=True)
    class Equal:
        temperature: float = 1.0

    manager = pluggy.PluginManager(PROJECT)
    manager.register(Equal())
    with pytest.raises(ValueError, match="already registered"):
        manager.register(Equal())


def test_one_strategy_with_equal_settings_can_stand_twice_in_a_run() -> None:
    hooks = HookCaller([_member(Method(), "one"), _member(Method(), "other")])
    assert [_loss(hooks, member).tolist() for member in hooks.members] == [[1, 1], [1, 1]]


def test_one_instance_cannot_stand_twice_in_a_run() -> None:
    strategy = Method()
    with pytest.raises(StrategyError, match=r"strategy 'other' .*already registered"):
        HookCaller([_member(strategy, "one"), _member(strategy, "other")])


def test_two_members_of_one_label_are_refused() -> None:
    with pytest.raises(StrategyError, match=r"strategy 'same' .*already registered"):
        HookCaller([_member(Method(), "same"), _member(Bare(), "same")])


# Exceptions


@pytest.mark.parametrize(
    ("hook", "when"),
    [
        ("extract_features", "at set-up"),
        ("adapt_shapes", "at set-up"),
        (LOSS, "in epoch 3, step 17"),
    ],
)
def test_an_exception_names_label_class_distribution_version_hook_and_when(
    hook: str, when: str
) -> None:
    def fail(_: object) -> None:
        raise KeyError("hint")

    hooks = HookCaller([_member(_with(hook, fail), "first"), _member(Method(), "second")])
    with pytest.raises(StrategyError) as caught:
        _call(hooks, hook)
    where = f"test_hooks.py, line {fail.__code__.co_firstlineno + 1}"
    assert str(caught.value) == (
        f"strategy 'first' (Wrong, kd-method 1.2): {hook} failed {when} ({where}): KeyError: 'hint'"
    )
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.exit_code == RunError.exit_code == 3


def test_a_line_of_a_package_s_own_file_is_told_with_the_package_s_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "kd_elsewhere"
    package.mkdir()
    (package / "__init__.py").write_text("def fail(_):\n    raise KeyError('hint')\n")
    monkeypatch.syspath_prepend(tmp_path)
    fail = importlib.import_module("kd_elsewhere").fail
    strategy = _with(LOSS, fail)
    monkeypatch.setattr(type(strategy), "__module__", "kd_elsewhere")
    with pytest.raises(StrategyError, match=r" \(kd_elsewhere/__init__\.py, line 2\): KeyError"):
        _loss(HookCaller([_member(strategy)]))
    monkeypatch.setattr(type(strategy), "__module__", "nowhere")
    with pytest.raises(StrategyError, match="step 17: KeyError"):
        _loss(HookCaller([_member(strategy)]))


def test_pluggy_would_let_an_exception_pass_without_saying_whose_it_is() -> None:
    def fail(_: object) -> None:
        raise KeyError("hint")

    with pytest.raises(KeyError) as caught:
        _raw(_with(LOSS, fail)).compute_auxiliary_loss(**ARGUMENTS)
    assert "Wrong" not in str(caught.value)


@pytest.mark.parametrize("hook", HOOKS)
def test_a_users_error_inside_a_hook_stays_the_users(hook: str) -> None:
    def fail(_: object) -> None:
        raise ModelError("the student has 10 classes and the teacher 100")

    with pytest.raises(UserError) as caught:
        _call(HookCaller([_member(_with(hook, fail))]), hook)
    assert type(caught.value) is ModelError
    assert caught.value.exit_code == 2
    assert "strategy 'method' (Wrong, kd-method 1.2)" in str(caught.value)
    assert str(caught.value).endswith(": the student has 10 classes and the teacher 100")
    assert isinstance(caught.value.__cause__, ModelError)


def test_a_contract_that_is_broken_inside_a_hook_is_told_without_its_type() -> None:
    def misread(_: object, student: Features) -> Tensor:
        return student["hint"]

    with pytest.raises(
        StrategyError, match=r"step 17 \(test_hooks\.py, line \d+\): unknown role 'hint'"
    ):
        _loss(HookCaller([_member(_with(LOSS, misread))]))


def test_an_exception_of_many_lines_is_told_in_one() -> None:
    def fail(_: object) -> None:
        raise RuntimeError("shapes differ\nin a long story")

    with pytest.raises(StrategyError) as caught:
        _loss(HookCaller([_member(_with(LOSS, fail))]))
    assert str(caught.value).endswith("RuntimeError: shapes differ")
    assert "long story" in str(caught.value.__cause__)


@pytest.mark.parametrize("hook", HOOKS)
def test_a_strategy_that_exits_fails_the_run_instead_of_ending_it_well(hook: str) -> None:
    hooks = HookCaller([_member(_with(hook, lambda _: sys.exit(0)))])
    with pytest.raises(StrategyError, match=r"failed .*: SystemExit: 0"):
        _call(hooks, hook)


def test_an_interruption_inside_a_hook_is_not_the_strategys_fault() -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _loss(HookCaller([_member(_with(LOSS, interrupted))]))


# Wrappers


class Calls:
    """Notes each call that it sees, and what came of it."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, object]] = []

    @hookimpl(wrapper=True)
    def extract_features(self, label: str) -> Generator[None, list[Taps], list[Taps]]:
        answers = yield
        self.seen.append(("extract_features", label, answers[0]))
        return answers

    @hookimpl(wrapper=True)
    def adapt_shapes(self, label: str) -> Generator[None, list[Adapters], list[Adapters]]:
        answers = yield
        self.seen.append(("adapt_shapes", label, answers[0]))
        return answers

    @hookimpl(wrapper=True)
    def compute_auxiliary_loss(
        self, label: str, step: int
    ) -> Generator[None, list[Tensor], list[Tensor]]:
        answers = yield
        self.seen.append((f"step {step}", label, answers[0]))
        return answers


def test_a_wrapper_sees_the_calls_and_answers_of_each_strategy_by_label() -> None:
    calls = Calls()
    members = [_member(Method(temperature=3), "warm"), _member(Method(temperature=9), "hot")]
    hooks = HookCaller(members, {"calls": calls})
    taps = [hooks.extract_features(member, Setup()) for member in members]
    adapters = [hooks.adapt_shapes(member, Setup(), SHAPES, SHAPES) for member in members]
    losses = [_loss(hooks, member) for member in members]
    named = ["extract_features", "adapt_shapes", "step 17"]
    assert [(hook, label) for hook, label, _ in calls.seen] == [
        (hook, label) for hook in named for label in ("warm", "hot")
    ]
    for (*_, seen), answer in zip(calls.seen, [*taps, *adapters, *losses], strict=True):
        assert seen is answer


def test_a_wrapper_of_the_old_style_sees_the_calls_too() -> None:
    seen: list[object] = []

    class Old:
        @hookimpl(hookwrapper=True)
        def compute_auxiliary_loss(self, label: str) -> Generator[None, pluggy.Result[Any], None]:
            outcome = yield
            seen.append((label, outcome.get_result()))

    hooks = HookCaller([_member(Bare())], {"old": Old()})
    assert seen == []
    answer = _loss(hooks)
    assert seen == [("method", [answer])]


def test_wrappers_stand_around_each_other_and_all_around_the_strategy() -> None:
    order: list[str] = []

    def wrapper(name: str) -> object:
        class Around:
            @hookimpl(wrapper=True)
            def compute_auxiliary_loss(self) -> Generator[None, Any, Any]:
                order.append(f"{name} in")
                answers = yield
                order.append(f"{name} out")
                return answers

        return Around()

    def compute_auxiliary_loss(_: object) -> Tensor:
        order.append("strategy")
        return torch.ones(2)

    members = [_member(_with(LOSS, compute_auxiliary_loss))]
    _loss(HookCaller(members, {"a": wrapper("a"), "b": wrapper("b")}))
    assert sorted(order[:2]) == ["a in", "b in"]
    assert order[2] == "strategy"
    assert order[3:] == [name.replace("in", "out") for name in reversed(order[:2])]


def test_a_wrapper_learns_of_an_exception_and_the_error_still_names_the_strategy() -> None:
    seen: list[Exception] = []

    class Watch:
        @hookimpl(wrapper=True)
        def compute_auxiliary_loss(self) -> Generator[None, Any, Any]:
            try:
                return (yield)
            except ZeroDivisionError as error:
                seen.append(error)
                raise

    def fail(_: object) -> float:
        return 1 / 0

    with pytest.raises(StrategyError, match=r"'method' .*ZeroDivisionError") as caught:
        _loss(HookCaller([_member(_with(LOSS, fail))], {"watch": Watch()}))
    assert seen == [caught.value.__cause__]


def test_a_wrapper_that_keeps_the_answer_is_an_error_that_says_so() -> None:
    class Forgets:
        @hookimpl(wrapper=True)
        def compute_auxiliary_loss(self) -> Generator[None, Any, None]:
            yield

    with pytest.raises(StrategyError, match="a wrapper around compute_auxiliary_loss kept the"):
        _loss(HookCaller([_member(Bare())], {"forgets": Forgets()}))


@pytest.mark.parametrize("hook", HOOKS)
def test_a_wrapper_that_would_answer_beside_the_strategies_is_refused(hook: str) -> None:
    intruder: Any = type("Intruder", (), {hook: hookimpl(lambda _: torch.zeros(1))})()
    message = _refused(Bare(), intruder)
    assert message == f"wrapper 'w0': {hook} is not marked with @hookimpl(wrapper=True)"


def test_pluggy_would_count_the_answer_of_such_a_wrapper_as_a_strategys() -> None:
    intruder = type("Intruder", (), {LOSS: hookimpl(lambda _: torch.zeros(1))})()
    assert len(_raw(Bare(), intruder).compute_auxiliary_loss(**ARGUMENTS)) == 2


def test_a_wrapper_whose_method_has_no_marker_is_refused() -> None:
    class Unmarked:
        def compute_auxiliary_loss(self) -> Generator[None, Any, Any]:
            return (yield)

    assert f"{LOSS} is not marked with @hookimpl(wrapper=True)" in _refused(Bare(), Unmarked())


def test_a_wrapper_of_nothing_is_refused_with_the_hooks() -> None:
    message = _refused(Bare(), object())
    assert message == f"wrapper 'w0' wraps no hook; there are {', '.join(HOOKS)}"


def test_a_wrappers_argument_with_a_default_is_refused() -> None:
    class Default:
        @hookimpl(wrapper=True)
        def compute_auxiliary_loss(self, epoc: int = 7) -> Generator[None, Any, Any]:
            return epoc, (yield)

    assert "wrapper 'w0': compute_auxiliary_loss(epoc" in _refused(Bare(), Default())


def test_a_wrapper_that_is_no_generator_is_refused_in_one_line() -> None:
    class Plain:
        @hookimpl(wrapper=True)
        def compute_auxiliary_loss(self) -> None: ...

    assert _refused(Bare(), Plain()).startswith("wrapper 'w0': ")


# Two runs


def test_two_runs_do_not_interfere() -> None:
    calls, others = Calls(), Calls()
    one = HookCaller([_member(Method(temperature=3))], {"calls": calls})
    two = HookCaller([_member(Method(temperature=9))], {"calls": others})
    assert _loss(one).tolist() == [3.0, 3.0]
    assert len(calls.seen) == 1
    assert others.seen == []
    assert _loss(two).tolist() == [9.0, 9.0]
    assert len(calls.seen) == 1
    assert len(others.seen) == 1


def test_two_runs_may_share_a_strategy_and_a_wrapper() -> None:
    calls, strategy = Calls(), Method(temperature=3)
    runs: Sequence[HookCaller] = [
        HookCaller([_member(strategy, label)], {"calls": calls}) for label in ("one", "two")
    ]
    for run in runs:
        _loss(run)
    assert [label for _, label, _ in calls.seen] == ["one", "two"]


def test_one_manager_for_two_runs_would_mix_their_calls() -> None:
    hook = _raw(Method(temperature=3), Method(temperature=9))
    assert len(hook.compute_auxiliary_loss(**{**ARGUMENTS, "student": FEATURES})) == 2
