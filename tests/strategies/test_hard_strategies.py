"""Methods far from the first three, written as an outside author would, on the hooks as they are.

They relate samples, train variances, embed the teacher's features too, remember every sample, and
look at several layers; the core knows none of them.
"""

import ast
import inspect
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import kdcore
from kdcore import Distiller, Features, Setup, Strategy
from kdcore.data.source import DatasetSource
from kdcore.history import EpochRecord
from kdcore.readings import StepRecord
from kdcore.sections import TrainConfig
from kdcore.testing import small_student, small_teacher
from kdcore.trainer import train
from tests.strategies.attention import Attention
from tests.strategies.contrastive import Contrastive
from tests.strategies.correlation import Correlation
from tests.strategies.relational import Relational
from tests.strategies.variational import Variational

HARD: list[type[Strategy]] = [Relational, Variational, Correlation, Contrastive, Attention]
SHIPPED = ["logits", "cosine", "fitnets"]
SAMPLES = 24

hard = pytest.mark.parametrize("method", HARD, ids=[method.__name__ for method in HARD])


@pytest.fixture(scope="module")
def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(SAMPLES, 3, 16, 16, generator=generator)
    return TensorDataset(images, torch.arange(SAMPLES) % 5)


def _distiller(data: TensorDataset, entries: list[Any], **options: Any) -> Distiller:
    torch.manual_seed(0)
    student, teacher = small_student(), small_teacher()
    images, targets = data.tensors
    setup = Setup(targets=targets)
    distiller = Distiller(teacher, student, entries, sample_input=images, setup=setup, **options)
    return distiller.train()


def _learn(distiller: Distiller, data: TensorDataset, optimizer: torch.optim.Adam) -> list[float]:
    """Take one step on eight samples and return all its losses."""
    indices = (torch.arange(8) + 5 * distiller.step) % SAMPLES
    images, targets = data[indices]
    optimizer.zero_grad()
    losses = distiller(images, targets, indices=indices)
    losses.total.backward()
    optimizer.step()
    distiller.advance()
    return [float(value.detach()) for value in (losses.total, *losses.auxiliary.values())]


class _Steps:
    """Keeps the records of a training's steps."""

    def __init__(self) -> None:
        self.records: list[StepRecord] = []

    def on_step(self, record: StepRecord) -> None:
        self.records.append(record)

    def on_epoch(self, record: EpochRecord) -> None:
        pass


@hard
def test_its_loss_falls_in_accumulated_steps(data: TensorDataset, method: type[Strategy]) -> None:
    distiller = _distiller(data, [{"name": method, "weight": 1.0}], task_weight=0.0)
    before = {name: p.detach().clone() for name, p in distiller.strategies.named_parameters()}
    config = TrainConfig(epochs=8, batch_size=8, accumulate=2, lr=2e-2)
    history = train(distiller, DatasetSource(data, "random images"), config, seed=0)
    first, last = history.epochs[0].loss, history.epochs[-1].loss
    assert first > 0
    assert last < 0.95 * first
    after = dict(distiller.strategies.named_parameters())
    assert not [name for name in before if torch.equal(before[name], after[name])]


def test_the_parts_that_the_papers_train_are_trained(data: TensorDataset) -> None:
    names = [name for name, _ in _distiller(data, [*HARD]).strategies.named_parameters()]
    assert names == [
        "variational.student_adapters.map.0.weight",
        "variational.student_adapters.map.0.bias",
        "variational.trained.variance.alpha",
        *(
            f"{method}.{side}_adapters.embedding.0.1.{part}"
            for method in ("correlation", "contrastive")
            for side in ("student", "teacher")
            for part in ("weight", "bias")
        ),
    ]


def test_all_compose_with_each_other_and_with_the_shipped(data: TensorDataset) -> None:
    entries = [
        {"name": method, "weight": 2.0**-place} for place, method in enumerate([*SHIPPED, *HARD])
    ]
    images, targets = data[:8]
    alone: dict[str, Tensor] = {}
    for entry in entries:
        alone |= _distiller(data, [entry])(images, targets, indices=torch.arange(8)).auxiliary
    losses = _distiller(data, entries, task_weight=0.5)(images, targets, indices=torch.arange(8))
    assert list(losses.auxiliary) == list(alone)
    values = [value.item() for value in alone.values()]
    assert [value.item() for value in losses.auxiliary.values()] == values
    places = [*range(3), 3, 3, *range(4, 8)]  # the relational method has two values
    expected = sum(value * 2.0**-place for value, place in zip(values, places, strict=True))
    expected += 0.5 * losses.task.item()
    assert losses.total.item() == pytest.approx(expected, rel=1e-6)


def test_all_together_resume_bit_for_bit(data: TensorDataset) -> None:
    saved = io.BytesIO()
    distiller = _distiller(data, [*SHIPPED, *HARD])
    optimizer = torch.optim.Adam(distiller.parameters(), lr=1e-2)
    for _ in range(3):
        _learn(distiller, data, optimizer)
    torch.save([distiller.state_dict(), optimizer.state_dict()], saved)
    expected = [_learn(distiller, data, optimizer) for _ in range(3)]
    saved.seek(0)
    resumed = _distiller(data, [*SHIPPED, *HARD], seed=1)
    again = torch.optim.Adam(resumed.parameters(), lr=1e-2)
    states = torch.load(saved, weights_only=True)
    resumed.load_state_dict(states[0])
    again.load_state_dict(states[1])
    assert [_learn(resumed, data, again) for _ in range(3)] == expected


@pytest.mark.parametrize("method", [Variational, Attention])
def test_a_row_loss_is_the_same_in_parts(data: TensorDataset, method: type[Strategy]) -> None:
    totals = []
    for parts in (1, 3):
        steps = _Steps()
        config = TrainConfig(epochs=1, batch_size=8, accumulate=parts, lr=1e-3)
        distiller = _distiller(data, [{"name": method, "weight": 1.0}])
        source = DatasetSource(data, "random images")
        train(distiller, source, config, seed=0, observers=[steps])
        totals.append([record.losses["total"] for record in steps.records])
    assert len(totals[0]) == 3
    assert totals[1] == pytest.approx(totals[0], rel=1e-4)


def test_the_memory_of_a_step_is_written_once_and_only_at_its_samples(data: TensorDataset) -> None:
    distiller = _distiller(data, [Contrastive])
    before = _memory(distiller)
    counts = distiller.task.count(8, data.tensors[1][:8])
    for indices in (torch.arange(4), torch.arange(4, 8)):
        images, targets = data[indices]
        distiller(images, targets, indices=indices, counts=counts)
        assert all(torch.equal(before[who], bank) for who, bank in _memory(distiller).items())
    distiller.advance()
    for who, bank in _memory(distiller).items():
        changed = (bank != before[who]).any(1)
        assert changed.tolist() == [True] * 8 + [False] * (SAMPLES - 8)
        assert torch.allclose(bank.norm(dim=1), torch.ones(SAMPLES))


def _memory(distiller: Distiller) -> Mapping[str, Tensor]:
    state = distiller.get_extra_state()["state"]["contrastive"]
    return {who: bank.clone() for who, bank in state.items()}


def test_negatives_are_of_another_class_and_of_another_sample_without_one() -> None:
    targets = torch.tensor([0, 0, 1, -100])
    generator = torch.Generator().manual_seed(0)
    drawn = Contrastive(negatives=99)._negatives(targets, torch.arange(4), generator)
    assert [sorted(set(row)) for row in drawn.tolist()] == [[2, 3], [2, 3], [0, 1, 3], [0, 1, 2]]


def test_relations_ignore_rotation_scale_and_shift() -> None:
    x = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rotation, _ = torch.linalg.qr(x[:4])
    losses = Relational().compute_auxiliary_loss(
        student=_features("embedding", 3 * x @ rotation + 1), teacher=_features("embedding", x)
    )
    assert all(float(value) == pytest.approx(0, abs=1e-12) for value in losses.values())
    stretched = x * torch.tensor([4.0, 1.0, 1.0, 1.0])
    losses = Relational().compute_auxiliary_loss(
        student=_features("embedding", stretched), teacher=_features("embedding", x)
    )
    assert all(float(value) > 0.1 for value in losses.values())


def test_right_angles_and_sides_of_a_triangle_are_as_euclid_has_them() -> None:
    # Of the triangle 3, 4, 5 the distances have the mean 4; of one without angles they are equal.
    right = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    equal = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]], dtype=torch.float64)
    losses = Relational(distance=1, angle=1).compute_auxiliary_loss(
        student=_features("embedding", right), teacher=_features("embedding", equal)
    )
    # Huber's loss of differences below one is half their square.
    assert float(losses["distance"]) == pytest.approx((0.25**2 + 0 + 0.25**2) / 2 / 3)
    # Cosines 0, 3/5 and 4/5 against 1/2, each twice among the 27 triples; all others agree.
    assert float(losses["angle"]) == pytest.approx(2 * (0.25 + 0.01 + 0.09) / 2 / 27)


def test_attention_is_blind_to_scale_and_channels() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=generator)
    many = torch.cat([5 * maps, -5 * maps], dim=1)
    loss = Attention().compute_auxiliary_loss(_features("maps", maps), _features("maps", many))
    assert loss.tolist() == pytest.approx([0, 0], abs=1e-12)
    moved = _features("maps", maps.roll(1, dims=3))
    assert min(Attention().compute_auxiliary_loss(_features("maps", maps), moved)) > 1e-3


class _Unpadded(nn.Sequential):
    """A student whose maps are of 12, 5 and 3 pixels."""

    def __init__(self) -> None:
        maps = nn.Conv2d(3, 4, 5), nn.Conv2d(4, 4, 3, stride=2), nn.Conv2d(4, 4, 3)
        super().__init__(*maps, nn.Flatten(), nn.Linear(36, 5))


def test_attention_compares_the_last_three_maps_at_the_smaller_size() -> None:
    images = torch.zeros(2, 3, 16, 16)
    distiller = Distiller(small_teacher(), _Unpadded(), [Attention], sample_input=images)
    ((_, student, teacher),) = distiller.tapped()
    assert [line.split(" -> ")[1] for line in student] == [
        "resize:8x8",
        "resize:4x4",
        "resize:2x2",
    ]
    assert [line.split(" ", 2)[2] for line in teacher] == [
        "[6, 16, 16] -> Identity, 0 trained parameters",
        "[6, 8, 8] -> resize:8x8",
        "[8, 4, 4] -> resize:4x4",
        "[10, 2, 2] -> resize:2x2",
    ]


@hard
def test_its_author_needs_the_public_names_alone(method: type[Strategy]) -> None:
    tree = ast.parse(_source(method).read_text(encoding="utf-8"))
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom | ast.Import)]
    own = [node for node in imported if "kdcore" in ast.unparse(node)]
    assert own
    for node in own:
        assert isinstance(node, ast.ImportFrom)
        assert node.module == "kdcore"
        assert {alias.name for alias in node.names} <= set(kdcore.__all__)


@hard
def test_no_line_of_the_core_knows_it(method: type[Strategy]) -> None:
    paper = re.search(r"arXiv:[0-9.]+", method.__doc__ or "")
    assert paper is not None
    known = re.compile(rf"\b{method.__name__}\b|{_source(method).stem}\.py|{paper[0]}")
    assert known.search(_source(method).read_text(encoding="utf-8"))
    files = [*(Path(kdcore.__file__).parent).rglob("*.py")]
    assert files
    assert not [file for file in files if known.search(file.read_text(encoding="utf-8"))]


def _source(method: type[Strategy]) -> Path:
    return Path(inspect.getfile(method))


def _features(role: str, tensor: Tensor) -> Features:
    return Features({role: (tensor,)}, None)
