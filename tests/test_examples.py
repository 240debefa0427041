"""The loops of docs/examples, run: exact accumulation, trained adapters, a clean student."""

import copy
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kdcore
from tests.extras import needed

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
SAMPLES, BATCH, EPOCHS = 42, 16, 2
STEPS = EPOCHS * 3  # of which the last of each epoch holds ten samples

# What Lightning itself uses of others.
LIGHTNING = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*GPU available"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
LOOPS = [
    "plain_loop",
    "hf_trainer",
    pytest.param("lightning_module", marks=LIGHTNING),
]


@pytest.fixture
def example(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    name: str = request.param
    if name == "hf_trainer":
        needed("transformers")
        needed("accelerate")
    if name == "lightning_module":
        needed("lightning.pytorch")
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.delitem(sys.modules, name, raising=False)
    module: ModuleType = __import__(name)
    return module


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[kdcore.Distiller]:
    """Collect the distillers that an example makes."""
    found: list[kdcore.Distiller] = []
    make = kdcore.Distiller

    def collected(*arguments: Any, **named: Any) -> kdcore.Distiller:
        found.append(make(*arguments, **named))
        return found[-1]

    monkeypatch.setattr(kdcore, "Distiller", collected)
    return found


def _models(example: ModuleType) -> tuple[nn.Module, nn.Module]:
    """Return teacher and student in float64, alike in each call."""
    torch.manual_seed(3)
    if example.__name__ == "hf_trainer":
        return example.bert(2, 32).double(), example.bert(1, 16).double()
    make: Callable[[int], nn.Module] = getattr(example, "Network", None) or example.network
    return make(16).double(), make(4).double()


def _trained(example: ModuleType, micro_batch: int) -> nn.Module:
    teacher, student = _models(example)
    if example.__name__ == "hf_trainer":
        samples = example.texts(SAMPLES)
        example.distil(
            teacher,
            student,
            samples,
            micro_batch=micro_batch,
            accumulate=BATCH // micro_batch,
            epochs=EPOCHS,
        )
        return student
    if example.__name__ == "lightning_module":
        images, labels = example.images_and_labels(SAMPLES).tensors
        data: Any = torch.utils.data.TensorDataset(images.double(), labels)
    else:
        images, labels = example.images_and_labels(SAMPLES)
        data = (images.double(), labels)
    example.distil(teacher, student, data, batch_size=BATCH, micro_batch=micro_batch, epochs=EPOCHS)
    return student


def _distance(first: nn.Module, second: nn.Module) -> float:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


def _hooks(model: nn.Module) -> Iterator[object]:
    for module in model.modules():
        for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks"):
            yield from getattr(module, name).values()


@pytest.mark.parametrize("micro_batch", [1, 4])
@pytest.mark.parametrize("example", LOOPS, indirect=True)
def test_accumulation_gives_the_student_of_one_big_batch(
    example: ModuleType, made: list[kdcore.Distiller], micro_batch: int
) -> None:
    whole, parts = _trained(example, BATCH), _trained(example, micro_batch)
    assert _distance(whole, parts) < 1e-10
    assert _distance(whole, _models(example)[1]) > 1e-2
    assert [distiller.step for distiller in made] == [STEPS, STEPS]


@pytest.mark.parametrize("example", LOOPS, indirect=True)
def test_a_mean_of_the_means_of_micro_batches_gives_another_student(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `counts`, where parts hold unequally many labels: what the examples prevent."""
    whole = _trained(example, BATCH)
    forward = kdcore.Distiller.forward

    def without(self: kdcore.Distiller, inputs: Any, targets: Tensor, *, counts: Any) -> Any:
        losses = forward(self, inputs, targets)
        return replace(losses, total=losses.total / -(-counts.samples // 4))

    monkeypatch.setattr(kdcore.Distiller, "forward", without)
    assert _distance(whole, _trained(example, 4)) > 1e-6


@pytest.mark.parametrize("example", LOOPS, indirect=True)
def test_adapters_learn_and_the_teacher_does_not(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[nn.Parameter], list[Tensor], nn.Module, nn.Module]] = []
    make = kdcore.Distiller

    def watched(teacher: nn.Module, *arguments: Any, **named: Any) -> kdcore.Distiller:
        distiller = make(teacher, *arguments, **named)
        trained = list(distiller.strategies.parameters())
        before = [parameter.detach().clone() for parameter in trained]
        seen.append((trained, before, teacher, copy.deepcopy(teacher)))
        return distiller

    monkeypatch.setattr(kdcore, "Distiller", watched)
    _trained(example, BATCH)
    ((trained, before, teacher, teacher_before),) = seen
    assert trained
    assert all(not torch.equal(*pair) for pair in zip(trained, before, strict=True))
    assert _distance(teacher, teacher_before) == 0


@pytest.mark.parametrize("example", LOOPS, indirect=True)
def test_the_student_leaves_as_it_came(example: ModuleType) -> None:
    student = _trained(example, BATCH)
    assert [*_hooks(student)] == []
    _, fresh = _models(example)
    fresh.load_state_dict(student.state_dict(), strict=True)
    assert list(fresh.state_dict()) == list(student.state_dict())
    # While a distiller holds a student, hooks are there to be found.
    teacher, held = _models(example)
    sample = torch.zeros(2, 3, 8, 8, dtype=torch.float64)
    if example.__name__ != "hf_trainer":
        with kdcore.Distiller(teacher, held, ["fitnets"], sample_input=sample):
            assert [*_hooks(held)]
        assert [*_hooks(held)] == []


@pytest.mark.parametrize("example", LOOPS, indirect=True)
def test_an_example_saves_a_student_that_loads(example: ModuleType, tmp_path: Path) -> None:
    if example.__name__ == "hf_trainer":
        example.main(tmp_path / "student")
        model = example.BertForSequenceClassification
        loaded, told = model.from_pretrained(tmp_path / "student", output_loading_info=True)
        assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert sum(each.numel() for each in loaded.parameters()) < 10_000
        return
    file = tmp_path / "student.safetensors"
    example.main(file)
    assert file.is_file()


@pytest.mark.slow
def test_the_plain_example_runs_as_its_first_lines_say(tmp_path: Path) -> None:
    file = tmp_path / "student.safetensors"
    command = [sys.executable, "-W", "error", str(EXAMPLES / "plain_loop.py"), str(file)]
    subprocess.run(command, check=True, capture_output=True)
    assert file.is_file()
