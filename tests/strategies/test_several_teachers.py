"""Several teachers in one run: each with its own images, ensembles, and averages of the student."""

import copy
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kdcore
from kdcore import Distiller, MovingAverageTeacher, TeacherEnsemble, TeacherInputs
from kdcore.asking import Identity, Request
from kdcore.cache import SignalCache
from kdcore.data.augment import Augment
from kdcore.data.images import ArrayImages, LabelledImages
from kdcore.data.preprocess import Preprocess
from kdcore.data.source import ImageSource
from kdcore.errors import ConfigError, DataError, Interrupted, ModelError, TapError
from kdcore.execution import Execution
from kdcore.frozen_teacher import AnyTeacher
from kdcore.interruption import Interruption
from kdcore.saving import Saver
from kdcore.sections import AugmentConfig, CacheConfig, CheckpointConfig, TrainConfig
from kdcore.testing import small_student
from kdcore.trainer import train

CPU = torch.device("cpu")
SAMPLES, STEPS = 22, 6
TARGETS = torch.arange(SAMPLES) % 5
HALF = (0.5, 0.5, 0.5)
OWN = Preprocess(16, HALF, (0.25, 0.25, 0.25))
LARGE = Preprocess(20, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
SMALL = Preprocess(12, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def _net(seed: int, width: int = 6) -> nn.Sequential:
    """Return a network for images of any size."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, width, 3),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * width, 5),
    )


def _teachers() -> dict[str, AnyTeacher]:
    return {
        "big": _net(1, 8),
        "small": _net(2, 4),
        "both": TeacherEnsemble(("big", "small"), (2.0, 1.0)),
        "self": MovingAverageTeacher(0.9),
    }


ENTRIES: list[dict[str, Any]] = [
    {"name": "logits", "teacher": "both"},
    {"name": "cosine", "teacher": "small"},
    {"name": "fitnets", "teacher": "self", "student_tap": "2", "teacher_tap": "2"},
]


def _source(augment: AugmentConfig | None = None, **teachers: Preprocess) -> ImageSource:
    torch.manual_seed(0)
    images = ArrayImages(torch.randint(256, (SAMPLES, 3, 16, 16), dtype=torch.uint8))
    data = LabelledImages(images, TARGETS, tuple("abcde"))
    given = teachers or {"big": LARGE, "small": SMALL}
    return ImageSource(data, OWN, given, augment=Augment(augment) if augment else None)


def _distiller(
    source: ImageSource,
    teachers: dict[str, AnyTeacher] | None = None,
    entries: Sequence[Any] = ENTRIES,
    student: nn.Module | None = None,
    execution: Execution = Execution(),  # noqa: B008
) -> Distiller:
    sample = source.batch(torch.arange(2))
    return Distiller(
        _teachers() if teachers is None else teachers,
        student or nn.Sequential(*_net(3), nn.Dropout(0.2)),
        entries,
        sample_input=sample.inputs,
        teacher_sample_input=sample.teacher_inputs,
        execution=execution,
    )


class _Listener:
    def __init__(self, stop: int | None, interruption: Interruption) -> None:
        self.stop, self.interruption = stop, interruption
        self.totals: list[float] = []

    def on_step(self, record: Any) -> None:
        self.totals.append(record.losses["total"])
        if record.step + 1 == self.stop:
            self.interruption.asked = signal.SIGTERM

    def on_epoch(self, record: Any) -> None: ...


def _train(
    mode: str = "off",
    folder: Path | None = None,
    stop: int | None = None,
    cache: Path | None = None,
    **given: Any,
) -> tuple[list[float], dict[str, Any], list[str]]:
    """Train, and return the steps' losses, everything that was learned, and what was noted."""
    source, notes = _source(given.pop("augment", None)), list[str]()
    config = TrainConfig(epochs=2, batch_size=8)
    interruption = Interruption()
    listener = _Listener(stop, interruption)
    with _distiller(source, **given) as distiller:
        kept = CacheConfig.model_validate({"mode": mode, "folder": cache})
        who = {name: Identity(name) for name in distiller.teachers}
        request = Request(distiller.teachers, source, config.micro_batch, CPU, {}, who)
        signals = SignalCache(kept, notes.append).source(request)
        when = CheckpointConfig(epochs=0)
        saver = folder and Saver(folder, when, {"seed": 3}, interruption=interruption)
        torch.rand(7)  # what was drawn before must not matter
        train(
            distiller, source, config, 3, signals=signals, observers=[listener], saver=saver or None
        )
        state = copy.deepcopy({**distiller.state_dict(), **distiller.get_extra_state()})
    return listener.totals, state, notes


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


# Inputs


def test_each_teacher_is_given_its_own_images() -> None:
    batch = _source().batch(torch.tensor([4, 1]))
    assert isinstance(batch.teacher_inputs, TeacherInputs)
    for name, preprocess in (("big", LARGE), ("small", SMALL)):
        alone = _source(None, **{name: preprocess}).batch(torch.tensor([4, 1]))
        assert torch.equal(batch.teacher_inputs.by_name[name], alone.teacher_inputs)
    assert batch.inputs.shape[-1] == 16


def test_what_two_models_want_alike_is_one_tensor_also_on_another_device() -> None:
    batch = _source(big=LARGE, other=LARGE, own=OWN).batch(torch.tensor([0]))
    for each in (batch, batch.to(torch.device("meta"))):
        given = each.teacher_inputs.by_name
        assert given["big"] is given["other"]
        assert given["own"] is each.inputs
        assert given["big"] is not given["own"]
    assert _source(big=LARGE, other=LARGE).batch(torch.tensor([0])).teacher_inputs.shape[-1] == 20


def test_only_teachers_that_are_wanted_are_given_images() -> None:
    source = _source(big=LARGE, small=SMALL, other=OWN)
    some = source.for_teachers(["big", "other"]).batch(torch.tensor([0])).teacher_inputs
    assert list(some.by_name) == ["big", "other"]
    one = source.for_teachers(["small"]).batch(torch.tensor([0]))
    assert torch.equal(
        one.teacher_inputs, source.batch(torch.tensor([0])).teacher_inputs.by_name["small"]
    )
    none = source.for_teachers([]).batch(torch.tensor([0]))
    assert none.teacher_inputs is none.inputs


def test_a_teachers_fingerprint_is_of_what_it_is_given_alone() -> None:
    both, big = _source(), _source(big=LARGE)
    assert both.fingerprint_for("big") == big.fingerprint_for("big") == big.fingerprint
    assert both.fingerprint_for("big") != both.fingerprint_for("small")
    assert both.fingerprint != big.fingerprint


def test_views_are_made_at_one_size_which_can_be_said() -> None:
    crops = AugmentConfig(crop=2, flip=True, views=2)
    indices = torch.tensor([0, 3])
    whole = _source(crops).batch(indices, 1)
    alone = _source(crops, small=SMALL).batch(indices, 1)
    assert not torch.equal(whole.inputs, alone.inputs)  # of 20 pixels and of 16
    said = crops.model_copy(update={"image_size": 20})
    assert torch.equal(whole.inputs, _source(said, small=SMALL).batch(indices, 1).inputs)
    assert _source(crops).fingerprint_for("small") == _source(said, small=SMALL).fingerprint_for(
        "small"
    )
    assert _source(crops).fingerprint_for("small") != _source(crops, small=SMALL).fingerprint_for(
        "small"
    )


def test_inputs_that_are_missing_for_a_teacher_are_refused() -> None:
    source = _source()
    with _distiller(source) as distiller:
        batch = source.batch(torch.arange(4))
        with pytest.raises(DataError, match="teacher inputs: unknown teacher 'small'"):
            distiller(batch.inputs, teacher_inputs=TeacherInputs({"big": batch.inputs}))


# Ensembles


def test_an_ensemble_says_the_weighted_mean_of_its_members_logits() -> None:
    source = _source()
    batch = source.batch(torch.arange(8))
    big, small, student = _net(1, 8).double(), _net(2, 4).double(), _net(3).double()
    given = {name: each.double() for name, each in batch.teacher_inputs.by_name.items()}
    entry = {"name": "logits", "teacher": "both", "temperature": 2.0}
    teachers: dict[str, AnyTeacher] = {
        "big": big,
        "small": small,
        "both": TeacherEnsemble(("big", "small"), (2.0, 1.0)),
    }
    inputs = TeacherInputs(given)
    own = batch.inputs.double()
    with Distiller(
        teachers, student, [entry], sample_input=own, teacher_sample_input=inputs
    ) as distiller:
        assert list(distiller.ensembles) == ["both"]
        student.eval()
        value = distiller(own, batch.targets, teacher_inputs=inputs).auxiliary["logits"]
        with torch.no_grad():
            mean = (2 * big(given["big"]) + small(given["small"])) / 3
        log_student = torch.log_softmax(student(own) / 2, 1)
        log_mean = torch.log_softmax(mean / 2, 1)
        # The normalised geometric mean of the members' distributions, at any temperature.
        members = {
            n: torch.softmax(m(given[n]) / 2, 1) for n, m in (("big", big), ("small", small))
        }
        geometric = members["big"] ** (2 / 3) * members["small"] ** (1 / 3)
        assert torch.allclose(log_mean.exp(), geometric / geometric.sum(1, keepdim=True))
        expected = 4 * (log_mean.exp() * (log_mean - log_student)).sum(1).mean()
        assert value.item() == pytest.approx(expected.item(), rel=1e-12)


def test_an_ensemble_has_no_place_to_tap() -> None:
    entry = {"name": "fitnets", "teacher": "both", "student_tap": "2", "teacher_tap": "2"}
    teachers = _teachers()
    del teachers["self"]
    with pytest.raises(TapError, match=r"'fitnets'.*teacher both is an ensemble, which has logits"):
        _distiller(_source(), teachers, [entry])


def test_members_of_other_classes_are_refused() -> None:
    teachers = _teachers() | {"small": nn.Sequential(_net(2, 4), nn.Linear(5, 3))}
    del teachers["self"]
    with pytest.raises(ModelError, match=r"teacher both: .* big \[5\], small \[3\]"):
        _distiller(_source(), teachers, [{"name": "logits", "teacher": "both"}])


def test_a_student_can_be_a_member_as_its_average_is() -> None:
    teachers: dict[str, AnyTeacher] = {
        "big": _net(1, 8),
        "self": MovingAverageTeacher(),
        "mix": TeacherEnsemble(("big", "self")),
    }
    source = _source(big=LARGE)
    batch = source.batch(torch.arange(4))
    with _distiller(source, teachers, [{"name": "logits", "teacher": "mix"}]) as distiller:
        assert list(distiller.teachers) == ["big"]
        assert (
            float(distiller(batch.inputs, teacher_inputs=batch.teacher_inputs).total.detach()) > 0
        )


# Averages


def test_the_average_that_teaches_is_that_of_a_loop_by_hand() -> None:
    """Equal to a plain PyTorch loop, step by step: Tarvainen and Valpola's mean teacher."""
    source, entry = _source(), {"name": "logits", "teacher": "self", "temperature": 1.0}
    student, other = _net(3), _net(3)
    mean = copy.deepcopy(other).eval().requires_grad_(False)
    teachers: dict[str, AnyTeacher] = {"self": MovingAverageTeacher(0.9)}
    with _distiller(source, teachers, [entry], student) as distiller:
        distiller.train()
        one = torch.optim.SGD(distiller.parameters(), 0.1)
        two = torch.optim.SGD(other.parameters(), 0.1)
        for step in range(1, 7):
            batch = source.batch((torch.arange(8) + step) % SAMPLES)
            one.zero_grad()
            losses = distiller(batch.inputs, batch.targets)
            losses.total.backward()
            one.step()
            distiller.advance()
            two.zero_grad()
            logits = other(batch.inputs)
            log_own, log_mean = logits.log_softmax(1), mean(batch.inputs).log_softmax(1)
            matched = (log_mean.exp() * (log_mean - log_own)).sum(1).mean()
            task = nn.functional.cross_entropy(logits, batch.targets)
            weight, own = losses.weights["logits"], distiller.task_weight
            assert isinstance(own, float)
            loss = own * task + weight * matched
            loss.backward()
            two.step()
            kept = min(0.9, (1 + step) / (10 + step))
            with torch.no_grad():
                for mine, theirs in zip(
                    mean.state_dict().values(), other.state_dict().values(), strict=True
                ):
                    if mine.is_floating_point():
                        mine.mul_(kept).add_(theirs, alpha=1 - kept)
            assert losses.total.item() == pytest.approx(loss.item(), rel=1e-5)
        average = distiller.moving["self"].model.state_dict()
        for name, each in mean.state_dict().items():
            if each.is_floating_point():
                assert torch.allclose(average[name], each, atol=1e-6), name


def test_the_average_is_no_parameter_and_no_part_of_the_student() -> None:
    source = _source()
    with _distiller(source) as distiller:
        own = {id(each) for each in distiller.moving["self"].model.parameters()}
        assert own.isdisjoint(map(id, distiller.parameters()))
        assert not any("self" in name for name in distiller.state_dict())
        assert list(distiller.student.state_dict()) == list(nn.Sequential(*_net(3)).state_dict())


def test_automatic_taps_of_the_average_are_those_of_the_student() -> None:
    entry = {"name": "fitnets", "teacher": "self"}
    with _distiller(_source(), {"self": MovingAverageTeacher()}, [entry], _net(3)) as distiller:
        found = distiller.automatic_taps
        assert found["self"] == found["student"]
        assert found["student"]


def test_a_compiled_average_is_tapped_as_the_student_is() -> None:
    source = _source()
    batch = source.batch(torch.arange(4))
    losses = []
    for execution in (Execution(), Execution(backend="eager")):
        with _distiller(source, execution=execution, student=_net(3)) as distiller:
            value = distiller(batch.inputs, batch.targets, teacher_inputs=batch.teacher_inputs)
            losses.append({name: each.item() for name, each in value.auxiliary.items()})
    assert losses[0] == pytest.approx(losses[1])


def test_a_later_stage_goes_on_with_the_average_of_the_same_name() -> None:
    source, student = _source(), _net(3)
    with _distiller(source, student=student) as first:
        with torch.no_grad():
            next(student.parameters()).add_(1)
        first.advance()
        carried = first.carried()
        expected = copy.deepcopy(first.moving["self"].state_dict())
    with _distiller(source, student=student) as second:
        assert not _same(second.moving["self"].state_dict(), expected)  # the control
        second.take_over(carried)
        assert _same(second.moving["self"].state_dict(), expected)
        second.advance()
        assert not _same(second.moving["self"].state_dict(), expected)
        assert _same(carried["teacher self"], expected)


def test_no_hook_is_left_on_the_student_or_its_teachers() -> None:
    teachers = _teachers()
    student = _net(3)
    with _distiller(_source(), teachers, student=student) as distiller:
        models = [student, distiller.moving["self"].model]
        assert all(any(m._forward_hooks for m in model.modules()) for model in models)
    models += [each for each in teachers.values() if isinstance(each, nn.Module)]
    assert not any(module._forward_hooks for model in models for module in model.modules())


# The cache


@pytest.fixture(scope="module")
def live() -> tuple[list[float], dict[str, Any], list[str]]:
    return _train()


@pytest.mark.parametrize("mode", ["memory", "disk", "auto"])
def test_kept_and_live_are_the_same_bits_with_several_teachers(
    tmp_path: Path, live: Any, mode: str
) -> None:
    kept = _train(mode, cache=tmp_path)
    assert _same(kept[:2], live[:2])
    assert [line.partition(" runs once")[0] for line in kept[2] if "runs once" in line] == [
        "teacher big",
        "teacher small",
    ]
    assert live[2] == [f"teacher {name} runs every epoch, as asked" for name in ("big", "small")]


def test_another_average_is_noticed(live: Any) -> None:  # the control
    slower = _teachers() | {"self": MovingAverageTeacher(0.0)}
    assert not _same(_train(teachers=slower)[1], live[1])


def test_a_teacher_is_asked_once_by_whatever_other_names_and_company(tmp_path: Path) -> None:
    notes: list[str] = []
    config = CacheConfig.model_validate({"mode": "disk", "folder": tmp_path})
    models = {"one": _net(1, 8), "two": _net(2, 4)}

    def ask(cache: SignalCache, **names: str) -> dict[str, Tensor]:
        source = _source(
            None, **{name: LARGE if who == "one" else SMALL for name, who in names.items()}
        )
        entries = [{"name": "logits", "label": n, "teacher": n} for n in names]
        with _distiller(source, {n: models[who] for n, who in names.items()}, entries) as each:
            who = {name: Identity(names[name]) for name in names}
            request = Request(each.teachers, source, 8, CPU, {}, who)
            heard = cache.source(request).signals(source.batch(torch.tensor([3, 1])))
            return {name: said.logits for name, said in heard.items() if said.logits is not None}

    first = ask(SignalCache(config, notes.append), big="one", small="two")
    assert len(notes) == 2
    cache = SignalCache(config, notes.append)
    for names in ({"a": "two"}, {"small": "one"}, {"a": "two", "b": "one"}):
        said = ask(cache, **names)
        for name, who in names.items():
            assert torch.equal(said[name], first["big" if who == "one" else "small"])
    assert len([line for line in notes if "runs once" in line]) == 2
    assert notes[-2:][0] == "teacher a does not run: what it says is kept already"


def test_one_teacher_may_be_kept_while_another_is_asked() -> None:
    class Crowd(nn.Sequential):
        """Looks at the samples beside each."""

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = super().forward(x - x.mean(0))  # type: ignore[no-untyped-call]
            return out

    teachers = {"big": Crowd(*_net(1, 8)), "small": _net(2, 4)}
    entries = [{"name": "logits", "label": name, "teacher": name} for name in teachers]
    one = _train("auto", teachers=dict(teachers), entries=entries)
    two = _train("off", teachers=dict(teachers), entries=entries)
    assert any("teacher big runs every epoch: what it says depends" in line for line in one[2])
    assert any("teacher small runs once" in line for line in one[2])
    assert _same(one[:2], two[:2])


def test_what_one_teacher_takes_is_not_there_for_another(tmp_path: Path) -> None:
    nbytes = SAMPLES * 5 * 4
    for room, places in ((2 * nbytes, ["memory", "memory"]), (2 * nbytes - 1, ["memory", "disk"])):
        notes: list[str] = []
        limits = {"mode": "auto", "folder": tmp_path, "memory": room, "disk": 10**6}
        source = _source()
        entries = [{"name": "logits", "label": n, "teacher": n} for n in ("big", "small")]
        models: dict[str, AnyTeacher] = {"big": _net(1, 8), "small": _net(2, 4)}
        with _distiller(source, models, entries) as each:
            who = {name: Identity(name) for name in each.teachers}
            request = Request(each.teachers, source, 8, CPU, {}, who)
            SignalCache(CacheConfig.model_validate(limits), notes.append).source(request)
        said = ["memory" if "kept in memory" in line else "disk" for line in notes]
        assert said == places


# Resuming


@pytest.mark.parametrize("stop", range(1, STEPS + 1))
@pytest.mark.parametrize("mode", ["off", "memory"])
def test_a_run_with_a_moving_teacher_continues_from_any_step(
    tmp_path: Path, live: Any, stop: int, mode: str
) -> None:
    with pytest.raises(Interrupted, match=rf"saved after optimizer step {stop} "):
        _train(mode, tmp_path, stop)
    resumed = _train(mode, tmp_path)
    assert _same(resumed[1], live[1])
    assert resumed[0] == live[0][stop:]


# Names


def test_teachers_that_nobody_learns_from_are_refused() -> None:
    teachers = _teachers()
    with pytest.raises(ConfigError, match="no strategy learns from 'big'"):
        _distiller(_source(), teachers, ENTRIES[1:])
    with pytest.raises(ConfigError, match="no teacher can be called 'student'"):
        _distiller(_source(), {"student": _net(1)}, ["logits"])


def test_all_binds_one_instance_a_teacher_and_shares_the_weight() -> None:
    entry = {"name": "logits", "teacher": "all", "weight": 1.0}
    with _distiller(_source(), None, [entry]) as distiller:
        assert [member.label for member in distiller.members] == [
            f"logits@{name}" for name in ("big", "small", "both", "self")
        ]
        assert [member.weight for member in distiller.members] == [0.25] * 4


def test_distill_takes_teachers_by_name_and_continues_with_a_moving_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(24, 3, 16, 16)
    data = (inputs, torch.arange(24) % 5)

    def run(folder: Path, epochs: int, decay: float = 0.9) -> Any:
        torch.manual_seed(5)
        return kdcore.distill(
            {"big": _net(1, 8), "self": MovingAverageTeacher(decay)},
            small_student(),
            data,
            data,
            [{"name": "logits", "teacher": "big"}, {"name": "cosine", "teacher": "self"}],
            epochs=epochs,
            batch_size=8,
            resume=folder,
        )

    whole = run(tmp_path / "a", 2)
    again = run(tmp_path / "a", 2)  # read, not trained again
    ours, theirs = (each.student.state_dict() for each in (whole, again))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    with pytest.raises(kdcore.KdcoreError, match=r"began with something else: averages\.self"):
        run(tmp_path / "a", 2, 0.5)


def test_the_students_own_average_can_be_the_one_teacher() -> None:
    own = MovingAverageTeacher()
    with Distiller(own, _net(3), ["logits"], sample_input=torch.zeros(2, 3, 16, 16)) as distiller:
        assert list(distiller.moving) == ["teacher"]
        assert distiller(torch.ones(2, 3, 16, 16)).auxiliary["logits"].item() >= 0
        with torch.no_grad():
            next(distiller.student.parameters()).add_(1)
        distiller.advance()
        assert list(distiller.carried()) == ["logits", "teacher teacher"]
