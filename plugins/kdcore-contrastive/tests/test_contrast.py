"""CRD against the formula of Tian et al. 2020, written out in plain Python."""

import math
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

import kdcore
import kdcore_contrastive
from kdcore import Distiller, Features, Setup, Shapes, State
from kdcore.errors import ConfigError, StrategyError
from kdcore.testing import StrategyTests, small_student, small_teacher
from kdcore_contrastive import Contrastive, sorted_by_class

LABELS = torch.tensor([2, 0, 1, 0, 2, 2, 1, 0])


class TestConformance(StrategyTests):
    strategy = "contrastive"


class TestConformanceToTheLetterOfThePaper(StrategyTests):
    strategy = "contrastive"
    settings = {"normalised": False, "negatives": 7, "width": 3, "momentum": 0.0}  # noqa: RUF012


class TestConformanceOnMaps(StrategyTests):
    strategy = "contrastive"
    settings = {  # noqa: RUF012
        "student_tap": "features.1",
        "teacher_tap": "features",
        "negatives": 100,
        "tau": 0.01,
    }


class Drawn(Contrastive):
    """Contrast with negatives that are known."""

    def _negatives(self, where: Any, indices: Tensor, generator: Generator) -> Tensor:  # noqa: ARG002
        return torch.tensor([[1, 2, 1], [0, 4, 5]])


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def _state(strategy: Contrastive, targets: Tensor = LABELS, width: int = 5) -> State:
    torch.manual_seed(0)
    shapes = Shapes({"embedding": (torch.Size([2, width]),)}, None)
    adapters = strategy.adapt_shapes(setup=Setup(targets=targets), student=shapes, teacher=shapes)
    state = State(adapters.state)
    state.move(torch.device("cpu"), torch.float64)
    return state


def _loss(
    strategy: Contrastive, state: State, s: Tensor, t: Tensor, indices: Tensor, seed: int = 0
) -> Tensor:
    return strategy.compute_auxiliary_loss(
        student=Features({"embedding": (s,)}, None),
        teacher=Features({"embedding": (t,)}, None),
        state=state,
        indices=indices,
        generator=torch.Generator().manual_seed(seed),
    )


def _unit(values: list[float]) -> list[float]:
    length = math.sqrt(math.fsum(value * value for value in values))
    return [value / length for value in values]


def _dot(one: list[float], other: list[float]) -> float:
    return math.fsum(a * b for a, b in zip(one, other, strict=True))


def _contrast(
    x: list[float], memory: list[list[float]], own: int, drawn: list[int], tau: float, z: float
) -> float:
    def h(place: int) -> float:
        raised = math.exp(_dot(x, memory[place]) / tau)
        return raised / (raised + z * len(drawn))

    return -math.log(h(own)) - math.fsum(math.log(1 - h(place)) for place in drawn)


@pytest.mark.parametrize("normalised", [True, False])
def test_it_is_the_formula_sample_by_sample(normalised: bool) -> None:
    strategy = Drawn(negatives=3, width=4, tau=0.5, normalised=normalised)
    state = _state(strategy)
    s, t, indices = _random(2, 4), _random(2, 4, seed=1), torch.tensor([3, 1])
    memory = {who: state[who].tolist() for who in ("student", "teacher")}
    z = 1 / len(LABELS)
    if normalised:
        raised = [math.exp(_dot(a, b) / 0.5) for a in memory["student"] for b in memory["teacher"]]
        z = math.fsum(raised) / len(raised)
    expected = [
        _contrast(_unit(own), memory["teacher"], place, drawn, 0.5, z)
        + _contrast(_unit(other), memory["student"], place, drawn, 0.5, z)
        for own, other, place, drawn in zip(
            s.tolist(), t.tolist(), [3, 1], [[1, 2, 1], [0, 4, 5]], strict=True
        )
    ]
    assert _loss(strategy, state, s, t, indices).tolist() == pytest.approx(expected, rel=1e-6)


def test_its_gradient_is_that_of_its_value() -> None:
    strategy = Contrastive(negatives=6, width=4, tau=0.3)
    state, indices = _state(strategy), torch.tensor([3, 1])
    s, t = _random(2, 4).requires_grad_(), _random(2, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda s, t: _loss(strategy, state, s, t, indices), (s, t))


def test_the_length_of_an_embedding_counts_for_nothing() -> None:
    strategy, indices = Contrastive(negatives=6, width=4), torch.tensor([3, 1])
    state, s, t = _state(strategy), _random(2, 4), _random(2, 4, seed=1)
    loss = _loss(strategy, state, s, t, indices)
    assert torch.allclose(_loss(strategy, state, 3 * s, t / 7, indices), loss, rtol=1e-9)


def test_it_falls_towards_its_own_and_rises_towards_others() -> None:
    strategy, indices = Contrastive(negatives=50, tau=0.5), torch.tensor([0])
    apart = torch.eye(8).double()
    state = State({**_state(strategy), "student": apart, "teacher": apart})

    def loss(*x: float) -> float:
        embedding = torch.tensor([x + (0.0,) * (8 - len(x))]).double()
        return float(_loss(strategy, state, embedding, apart[:1], indices))

    # Samples 1 and 7 are of another class than sample 0.
    towards_own = [loss(1.0 * part, 0, 0, 0, 0, 0, 0, 1 - part) for part in (0.0, 0.5, 1.0)]
    assert all(later < earlier for earlier, later in pairwise(towards_own))
    assert loss(1.0, 0.5) > loss(1.0)


def test_at_the_start_it_is_about_that_of_even_odds() -> None:
    # Where similarities are zero and z is one: 2 (log(1 + N) + N log(1 + 1 / N)).
    strategy = Contrastive(width=4096)
    state = _state(strategy, torch.arange(2000) % 10)
    s, t = _random(4, 4096), _random(4, 4096, seed=1)
    count = 16_384
    expected = 2 * (math.log(1 + count) + count * math.log(1 + 1 / count))
    loss = _loss(strategy, state, s, t, torch.arange(4)).mean().item()
    assert loss == pytest.approx(expected, rel=0.05)
    letter = Contrastive(width=4096, normalised=False)
    state = _state(letter, torch.arange(2000) % 10)
    assert _loss(letter, state, s, t, torch.arange(4)).mean().item() > 100 * expected


def test_z_is_the_mean_over_random_vectors() -> None:
    # Of unit vectors a similarity is nearly normal, with a variance of one by the width.
    state = _state(Contrastive(), torch.arange(3000) % 10)
    assert state["log_z"].item() == pytest.approx(1 / (2 * 128 * 0.07**2), rel=0.05)
    state = _state(Contrastive(normalised=False), torch.arange(3000) % 10)
    assert state["log_z"].item() == pytest.approx(-math.log(3000))


def _draw(targets: Tensor, count: int) -> list[list[int]]:
    strategy = Contrastive(negatives=count)
    generator = torch.Generator().manual_seed(0)
    drawn: list[list[int]] = strategy._negatives(
        sorted_by_class(targets), torch.arange(len(targets)), generator
    ).tolist()
    return drawn


def test_negatives_are_of_another_class_and_of_another_sample_without_one() -> None:
    drawn = _draw(torch.tensor([0, -100, 0, 1, -100]), 200)
    assert [sorted(set(row)) for row in drawn] == [
        [1, 3, 4],
        [0, 2, 3, 4],
        [1, 3, 4],
        [0, 1, 2, 4],
        [0, 1, 2, 3],
    ]


@pytest.mark.parametrize("seed", range(3))
def test_negatives_are_all_those_of_other_classes_drawn_evenly(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(4, (12,), generator=generator)
    count = 20_000
    for own, row in zip(targets.tolist(), _draw(targets, count), strict=True):
        allowed = [place for place, other in enumerate(targets.tolist()) if other != own]
        shares = {place: number / count for place, number in Counter(row).items()}
        assert shares == pytest.approx(dict.fromkeys(allowed, 1 / len(allowed)), abs=0.02)


def test_what_is_remembered_moves_by_the_momentum_and_keeps_length_one() -> None:
    strategy, indices = Contrastive(negatives=3, width=4, momentum=0.75), torch.tensor([6, 2])
    state = _state(strategy)
    before = {who: state[who].tolist() for who in ("student", "teacher")}
    now = {"student": _random(2, 4), "teacher": _random(2, 4, seed=1)}
    _loss(strategy, state, now["student"], now["teacher"], indices)
    assert all(state[who].tolist() == before[who] for who in now)  # not before the step
    state.commit()
    for who, values in now.items():
        expected = [list(row) for row in before[who]]
        for value, place in zip(values.tolist(), (6, 2), strict=True):
            mixed = zip(before[who][place], _unit(value), strict=True)
            expected[place] = _unit([0.75 * old + 0.25 * new for old, new in mixed])
        for row, wanted in zip(state[who].tolist(), expected, strict=True):
            assert row == pytest.approx(wanted, rel=1e-9)


def test_few_similarities_are_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    strategy, indices = Contrastive(negatives=6, width=4), torch.arange(8)
    s, t = _random(8, 4), _random(8, 4, seed=1)
    whole = _loss(strategy, _state(strategy), s, t, indices)
    held = []
    gather = Tensor.gather

    def noting(similar: Tensor, *place: Any) -> Tensor:
        held.append(tuple(similar.shape))
        return gather(similar, *place)

    monkeypatch.setattr(Tensor, "gather", noting)
    for limit, rows in ((3 * 8 + 5, [3, 3, 2] * 2), (1, [1] * 16)):
        monkeypatch.setattr(kdcore_contrastive, "AT_ONCE", limit)
        held.clear()
        assert torch.allclose(_loss(strategy, _state(strategy), s, t, indices), whole, rtol=1e-9)
        assert held == [(count, 8) for count in rows]


def test_it_learns_to_tell_samples_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(24, 3, 16, 16, generator=generator), torch.arange(24) % 5
    torch.manual_seed(0)
    models = small_teacher(), small_student()
    entry = {"name": "contrastive", "tau": 0.5, "negatives": 64}
    losses = []
    with Distiller(*models, [entry], sample_input=images, setup=Setup(targets=labels)) as distiller:
        optimizer = torch.optim.Adam(distiller.parameters(), lr=1e-2)
        for _ in range(60):
            optimizer.zero_grad()
            loss = distiller(images, labels, indices=torch.arange(24)).auxiliary["contrastive"]
            loss.backward()
            optimizer.step()
            distiller.advance()
            losses.append(loss.item())
    assert losses[-1] < 0.85 * losses[0]


@pytest.mark.parametrize(
    "targets",
    [torch.zeros(4), torch.zeros(4, 3), torch.zeros(4, 3, dtype=torch.int64)],
    ids=["regression", "several labels", "a label a token"],
)
def test_samples_that_have_no_one_class_are_refused(targets: Tensor) -> None:
    with pytest.raises(StrategyError, match="has no one class"):
        _state(Contrastive(), targets)


@pytest.mark.parametrize("targets", [torch.ones(4, dtype=torch.int64), torch.tensor([-100])])
def test_a_training_set_without_negatives_is_refused(targets: Tensor) -> None:
    with pytest.raises(StrategyError, match="all samples are of one class"):
        _state(Contrastive(), targets)


def test_without_the_training_targets_it_is_refused() -> None:
    with pytest.raises(StrategyError, match=r"needs setup\.targets"):
        Distiller(
            small_teacher(),
            small_student(),
            ["contrastive"],
            sample_input=torch.zeros(2, 3, 16, 16),
        )


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("width", [0, 1.5]),
        ("negatives", [0, -1]),
        ("tau", [0, 0.001, math.nan, math.inf]),
        ("momentum", [-0.1, 1, math.nan]),
        ("normalised", ["perhaps"]),
    ],
)
def test_settings_that_are_out_of_bounds_are_refused(setting: str, values: list[object]) -> None:
    for value in values:
        with pytest.raises(ConfigError, match=setting):
            Contrastive(**{setting: value})


def test_without_settings_it_is_the_papers() -> None:
    assert Contrastive().settings.model_dump() == {
        "student_tap": "auto:embedding",
        "teacher_tap": "auto:embedding",
        "width": 128,
        "negatives": 16_384,
        "tau": 0.07,
        "momentum": 0.5,
        "normalised": True,
    }
    assert kdcore.Recommended(0.8, 1.0, Contrastive.recommended.source) == Contrastive.recommended
