"""The set-up of a run: what is asked when, what is shared, and what is left alone."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from kdcore.assembly import Assembly, arm, discover
from kdcore.contract import Adapters, Features, Setup, Shapes, Taps
from kdcore.errors import ModelError, StrategyError, TapError
from kdcore.hooks import HookCaller, Member
from kdcore.hookspecs import hookimpl
from kdcore.losses import squared_error
from kdcore.strategy import Strategy, StrategySettings

X = torch.linspace(-1.0, 1.0, 20).reshape(5, 4)
CPU = torch.device("cpu")


class Net(nn.Module):
    """Body and head; counts its passes."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, width), nn.ReLU(inplace=True))
        self.head = nn.Linear(width, 3)
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        logits: Tensor = self.head(self.body(x))
        return logits


class Hint(Strategy):
    """Looks at one place of each model, through a layer of its own."""

    class Settings(StrategySettings):
        student_tap: str = "body"
        teacher_tap: str = "body"

    settings: Settings

    @hookimpl
    def extract_features(self) -> Taps:
        return Taps({"hint": self.settings.student_tap}, {"hint": self.settings.teacher_tap})

    @hookimpl
    def adapt_shapes(self, student: Shapes, teacher: Shapes) -> Adapters:
        layer = nn.Linear(student["hint"][1], teacher["hint"][1])
        return Adapters(student={"hint": layer}, state={"mean": torch.zeros(3)})

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        return squared_error(student["hint"], teacher["hint"])


class Told(Strategy):
    """Remembers what it was told at set-up, for the tests alone."""

    events: ClassVar[list[tuple[str, object]]] = []

    @hookimpl
    def extract_features(self, label: str) -> Taps:
        self.events.append(("extract_features", label))
        return Taps(student={"a": "body:input"}, teacher={"a": "head", "b": ["body", "head"]})

    @hookimpl
    def adapt_shapes(self, setup: Setup, label: str, student: Shapes, teacher: Shapes) -> Adapters:
        shapes = [tuple(shape) for shape in (student["a"], teacher["a"], *teacher.all("b"))]
        self.events.append(("adapt_shapes", (label, setup.class_count, shapes)))
        return Adapters()

    @hookimpl
    def compute_auxiliary_loss(self, student: Features) -> Tensor:
        return student.logits.mean(1)


def _member(label: str, strategy: Strategy | None = None, teacher: str = "teacher") -> Member:
    return Member(label, strategy or Hint(), 1.0, teacher)


def _assemble(
    *members: Member,
    student: nn.Module | None = None,
    teachers: Mapping[str, nn.Module] | None = None,
    sample: Any = X,
    setup: Setup | None = None,
    seed: int = 0,
) -> Assembly:
    found = discover(
        student or Net(),
        {"teacher": Net(8)} if teachers is None else teachers,
        HookCaller(members),
        (sample, sample),
        setup or Setup(),
        seed,
        CPU,
    )
    return arm(found)


def _hooks(*models: nn.Module) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for model in models
        for module in model.modules()
    )


def _weights(assembly: Assembly, position: int = 0) -> Tensor:
    weight: Tensor = assembly.parts[position].state_dict()["student_adapters.hint.0.weight"]
    return weight


class TestOrder:
    def test_all_taps_are_asked_for_before_any_shapes_are_told(self) -> None:
        Told.events.clear()
        _assemble(_member("one", Told()), _member("two", Told()))
        told = (3, [(2, 4), (2, 3), (2, 8), (2, 3)])
        assert Told.events == [
            ("extract_features", "one"),
            ("extract_features", "two"),
            ("adapt_shapes", ("one", *told)),
            ("adapt_shapes", ("two", *told)),
        ]

    def test_parts_stand_in_the_order_of_the_configuration(self) -> None:
        assembly = _assemble(_member("b"), _member("a"), _member("c"))
        assert [part.member.label for part in assembly.parts] == ["b", "a", "c"]

    def test_models_run_once_and_hooks_are_set_once_however_many_share_a_tap(self) -> None:
        student, teacher = Net(), Net(8)
        members = [_member("one"), _member("two"), _member("three")]
        assembly = _assemble(*members, student=student, teachers={"teacher": teacher})
        assert (student.passes, teacher.passes) == (1, 1)
        assert (_hooks(student), _hooks(teacher)) == (1, 1)
        assert list(map(str, assembly.student.addresses)) == ["body"]

    def test_teachers_are_frozen_and_the_students_mode_is_its_own(self) -> None:
        student, teacher = Net(), Net(8)
        student.head.eval()
        _assemble(_member("hint"), student=student, teachers={"teacher": teacher})
        assert not any(module.training for module in teacher.modules())
        assert (student.training, student.head.training) == (True, False)

    def test_without_strategies_nothing_runs_and_no_sample_is_needed(self) -> None:
        student = Net()
        assembly = _assemble(student=student, teachers={}, sample=None)
        assert student.passes == 0
        assert assembly.student(X).activations == {}

    def test_a_class_count_is_told_as_it_was_given_where_it_was(self) -> None:
        Told.events.clear()
        assembly = _assemble(_member("one", Told()), setup=Setup(class_count=100))
        assert Told.events[1][1] == ("one", 100, [(2, 4), (2, 3), (2, 8), (2, 3)])
        assert assembly.setup.class_count == 100

    def test_automatic_taps_are_reported_by_model(self) -> None:
        taps = {"student_tap": "auto:embedding", "teacher_tap": "auto:embedding"}
        teachers = {"small": Net(8), "large": Net(9)}
        assembly = _assemble(_member("hint", Hint(**taps), "large"), teachers=teachers)
        found = {"embedding": ("head:input",)}
        assert assembly.automatic == {"student": found, "small": {}, "large": found}


class TestRandomness:
    def test_building_adapters_draws_nothing_from_the_global_stream(self) -> None:
        student, teacher = Net(), Net(8)
        before = torch.get_rng_state()
        _assemble(_member("hint"), student=student, teachers={"teacher": teacher})
        assert torch.equal(before, torch.get_rng_state())
        nn.Linear(6, 8)  # the control
        assert not torch.equal(before, torch.get_rng_state())

    def test_adapters_depend_on_seed_and_label_and_not_on_what_else_there_is(self) -> None:
        alone = _weights(_assemble(_member("hint")))
        torch.rand(3)
        beside = _assemble(_member("other"), _member("hint"))
        assert torch.equal(alone, _weights(beside, 1))
        assert not torch.equal(alone, _weights(beside, 0))
        assert not torch.equal(alone, _weights(_assemble(_member("hint"), seed=1)))

    def test_each_strategy_has_a_stream_of_its_own_that_seed_and_label_decide(self) -> None:
        def drawn(seed: int) -> list[list[float]]:
            parts = _assemble(_member("a"), _member("b"), seed=seed).parts
            return [torch.rand(4, generator=part.generator).tolist() for part in parts]

        assert drawn(0) == drawn(0)
        assert len({tuple(values) for values in (*drawn(0), *drawn(1))}) == 4


class TestPrecision:
    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            (torch.float64, torch.float64),
            (torch.float32, torch.float32),
            (torch.bfloat16, torch.float32),
        ],
    )
    def test_adapters_and_memory_are_double_for_a_double_student_and_single_for_all_others(
        self, given: torch.dtype, expected: torch.dtype
    ) -> None:
        student, teacher = Net().to(given), Net(8).to(given)
        assembly = _assemble(
            _member("hint"), student=student, teachers={"teacher": teacher}, sample=X.to(given)
        )
        assert assembly.precision == expected
        assert _weights(assembly).dtype == expected
        assert assembly.parts[0].state["mean"].dtype == expected
        assert {parameter.dtype for parameter in student.parameters()} == {given}


class TestApart:
    def _shared(self, student: Net) -> Net:
        teacher = Net()
        teacher.head = student.head
        return teacher

    @pytest.mark.parametrize("share", ["all", "some", "memory"])
    def test_a_student_that_shares_weights_with_its_teacher_is_refused(self, share: str) -> None:
        student = Net()
        teacher = student if share == "all" else self._shared(student)
        if share == "memory":
            teacher = Net()
            teacher.head.weight = nn.Parameter(student.head.weight.detach())
        with pytest.raises(ModelError, match=r"student and teacher share weights.*deepcopy"):
            _assemble(_member("hint"), student=student, teachers={"teacher": teacher})
        assert student.passes == _hooks(student, teacher) == 0

    def test_a_copy_is_legal(self) -> None:
        student = Net()
        assert _assemble(
            _member("a"), student=student, teachers={"teacher": copy.deepcopy(student)}
        )

    def test_of_several_teachers_the_one_that_shares_is_named(self) -> None:
        student = Net()
        teachers = {"small": Net(8), "large": self._shared(student)}
        with pytest.raises(ModelError, match="student and teacher large share weights"):
            _assemble(_member("hint", teacher="small"), student=student, teachers=teachers)

    def test_teachers_may_share_with_each_other(self) -> None:
        one = Net(8)
        two = Net(8)
        two.body = one.body
        members = [_member("a", teacher="one"), _member("b", teacher="two")]
        assembly = _assemble(*members, teachers={"one": one, "two": two})
        assert len(assembly.teachers) == 2


class Refusing(Hint):
    @hookimpl
    def adapt_shapes(self, student: Shapes, teacher: Shapes) -> Adapters:
        raise RuntimeError(f"no adapter from {student['hint']} to {teacher['hint']}")


class Misnaming(Hint):
    @hookimpl
    def adapt_shapes(self, student: Shapes, teacher: Shapes) -> Adapters:
        return Adapters(student={"hnit": nn.Linear(student["hint"][1], teacher["hint"][1])})


class OnceOnly(nn.Linear):
    """A layer that takes hooks in the probe and refuses them afterwards."""

    times = 0

    def register_forward_hook(self, *arguments: Any, **options: Any) -> Any:
        self.times += 1
        if self.times > 1:
            raise RuntimeError("no second hook")
        return super().register_forward_hook(*arguments, **options)


def _refusing_hooks() -> nn.Module:
    teacher = Net(8)
    teacher.body[0] = OnceOnly(4, 8)
    return teacher


FAILURES: list[tuple[type[Exception], str, Callable[[], tuple[Strategy, nn.Module]]]] = [
    (TapError, "unknown module 'bdoy'", lambda: (Hint(teacher_tap="bdoy"), Net(8))),
    (TapError, "cannot tell", lambda: (Hint(teacher_tap="auto:stages"), Net(8))),
    (StrategyError, "RuntimeError: no adapter", lambda: (Refusing(), Net(8))),
    (StrategyError, "unknown role 'hnit'", lambda: (Misnaming(), Net(8))),
    (RuntimeError, "no second hook", lambda: (Hint(teacher_tap="body.0"), _refusing_hooks())),
    (RuntimeError, "mat1", lambda: (Hint(teacher_tap="0"), nn.Sequential(nn.Linear(7, 3)))),
]


@pytest.mark.parametrize(
    ("kind", "words", "build"), FAILURES, ids=[words for _, words, _ in FAILURES]
)
def test_a_set_up_that_fails_leaves_hooks_and_modes_as_they_were(
    kind: type[Exception], words: str, build: Callable[[], tuple[Strategy, nn.Module]]
) -> None:
    strategy, second = build()
    student, first = Net(), Net(8)
    members = [_member("a", teacher="first"), _member("b", strategy, "second")]
    with pytest.raises(kind, match=words):
        _assemble(*members, student=student, teachers={"first": first, "second": second})
    assert _hooks(student, first, second) == 0
    assert all(m.training for model in (student, first, second) for m in model.modules())
