"""All shipped methods, alone and together: those that are far from the first three above all.

They relate samples, train variances, embed the teacher's features too, remember every sample, and
look at several layers; the core knows none of them (tests/test_layers.py).
"""

import ast
import inspect
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

import kdcore
from kdcore import Distiller, Setup, Strategy
from kdcore.catalog import Catalog
from kdcore.data.source import DatasetSource
from kdcore.history import EpochRecord
from kdcore.readings import StepRecord
from kdcore.sections import TrainConfig
from kdcore.selection import load_strategy
from kdcore.testing import small_student, small_teacher
from kdcore.trainer import train
from kdcore_attention import Attention
from kdcore_contrastive import Contrastive
from kdcore_correlation import Correlation
from kdcore_relational import Relational
from kdcore_variational import Variational
from tests.shipped import SHIPPED

HARD: list[type[Strategy]] = [Relational, Variational, Correlation, Contrastive, Attention]
TEMPERATE = Contrastive(negatives=64, normalised=False)
"""Of few samples and many negatives the loss first rises."""

SAMPLES = 24


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


@pytest.mark.parametrize("method", [TEMPERATE, *sorted({*SHIPPED} - {"contrastive"})], ids=str)
def test_its_loss_falls_in_accumulated_steps(data: TensorDataset, method: str | Strategy) -> None:
    entry = {"name": method, "weight": 1.0} if isinstance(method, str) else method
    distiller = _distiller(data, [entry], task_weight=0.0)
    before = {name: p.detach().clone() for name, p in distiller.strategies.named_parameters()}
    config = TrainConfig(epochs=8, batch_size=8, accumulate=2, lr=2e-2)
    history = train(distiller, DatasetSource(data, "random images"), config, seed=0)
    first, last = history.epochs[0].loss, history.epochs[-1].loss
    assert first > 0
    assert last < 0.95 * first
    after = dict(distiller.strategies.named_parameters())
    assert not [name for name in before if torch.equal(before[name], after[name])]


def test_the_parts_that_the_papers_train_are_trained(data: TensorDataset) -> None:
    distiller = _distiller(data, SHIPPED)
    trained = {name.split(".")[0] for name, _ in distiller.strategies.named_parameters()}
    assert trained == {
        "contrastive",
        "correlation",
        "curriculum",
        "fitnets",
        "review",
        "variational",
    }
    state = distiller.get_extra_state()["state"]
    assert [name for name, memory in state.items() if memory] == ["contrastive"]


def test_all_compose_with_each_other(data: TensorDataset) -> None:
    images, targets = data[:8]
    entries = [{"name": name, "weight": 2.0**-place} for place, name in enumerate(SHIPPED)]
    alone: dict[str, Tensor] = {}
    weights: list[float] = []
    for place, entry in enumerate(entries):
        losses = _distiller(data, [entry])(images, targets, indices=torch.arange(8)).auxiliary
        alone |= losses
        weights += [2.0**-place] * len(losses)
    joined = _distiller(data, entries, task_weight=0.5)(images, targets, indices=torch.arange(8))
    assert list(joined.auxiliary) == list(alone)
    values = [value.item() for value in alone.values()]
    assert [value.item() for value in joined.auxiliary.values()] == values
    expected = sum(weight * value for weight, value in zip(weights, values, strict=True))
    assert joined.total.item() == pytest.approx(expected + 0.5 * joined.task.item(), rel=1e-6)


def test_each_model_runs_once_a_step_however_many_ask(data: TensorDataset) -> None:
    distiller = _distiller(data, SHIPPED)
    (teacher,) = distiller.teachers.values()
    models = {"student": distiller.student, "teacher": teacher.model}
    ran: list[str] = []
    for name, model in models.items():
        model.register_forward_hook(lambda *_, name=name: ran.append(name))
    optimizer = torch.optim.Adam(distiller.parameters(), lr=1e-2)
    for _ in range(2):
        _learn(distiller, data, optimizer)
    assert sorted(ran) == ["student"] * 2 + ["teacher"] * 2


def test_all_together_resume_bit_for_bit(data: TensorDataset) -> None:
    saved = io.BytesIO()
    distiller = _distiller(data, SHIPPED)
    optimizer = torch.optim.Adam(distiller.parameters(), lr=1e-2)
    for _ in range(3):
        _learn(distiller, data, optimizer)
    torch.save([distiller.state_dict(), optimizer.state_dict()], saved)
    expected = [_learn(distiller, data, optimizer) for _ in range(3)]
    saved.seek(0)
    resumed = _distiller(data, SHIPPED, seed=1)
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
    return {who: state[who].clone() for who in ("student", "teacher")}


@pytest.mark.parametrize("name", SHIPPED)
def test_its_author_needs_the_public_names_alone(name: str) -> None:
    method, _ = load_strategy(name, Catalog())
    tree = ast.parse(Path(inspect.getfile(method)).read_text(encoding="utf-8"))
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom | ast.Import)]
    own = [node for node in imported if "kdcore" in ast.unparse(node)]
    assert own
    for node in own:
        assert isinstance(node, ast.ImportFrom)
        assert node.module == "kdcore"
        assert {alias.name for alias in node.names} <= set(kdcore.__all__)
