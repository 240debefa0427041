"""Stages of a training: what learns in each, what is carried over, and FitNets as published."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdcore import Distiller, Setup
from kdcore.cli.main import run_command
from kdcore.configfile import as_comparison, as_run
from kdcore.data.source import DatasetSource
from kdcore.errors import ConfigError, ModelError, StrategyError
from kdcore.sections import TrainConfig
from kdcore.testing import small_student, small_teacher
from kdcore.trainer import train
from kdcore_contrastive import Contrastive

SAMPLES = 20


def _source() -> DatasetSource:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(SAMPLES, 3, 16, 16, generator=generator)
    pairs = [(inputs[index], index % 5) for index in range(SAMPLES)]
    return DatasetSource(pairs, "train", same_every_epoch=True)


def _distiller(student: nn.Module, *entries: Any, **given: Any) -> Distiller:
    torch.manual_seed(2)
    source = _source()
    return Distiller(
        small_teacher(),
        student,
        entries,
        sample_input=source.batch(torch.arange(2)).inputs,
        setup=Setup(targets=source.targets),
        **given,
    )


def _student() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(small_student(), nn.BatchNorm1d(5), nn.Linear(5, 5))


def test_only_what_is_trainable_learns_and_the_rest_is_as_it_was() -> None:
    student = _student()
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    with _distiller(student, "fitnets", task_weight=0.0, trainable=["0"]) as distiller:
        train(distiller, _source(), TrainConfig(epochs=1, batch_size=8, weight_decay=0.1), 1)
        assert not any(each.requires_grad for each in student[2].parameters())  # type: ignore[index]
    changed = {
        name
        for name, tensor in student.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    assert changed
    assert all(name.startswith("0.") for name in changed)
    assert all(each.requires_grad for each in student.parameters())


def test_all_learns_where_nothing_is_said() -> None:  # the control
    student = _student()
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    with _distiller(student, "fitnets", task_weight=1.0) as distiller:
        train(distiller, _source(), TrainConfig(epochs=1, batch_size=8), 1)
    after = student.state_dict()
    assert not any(torch.equal(tensor, before[name]) for name, tensor in after.items())


def test_an_unknown_module_is_named_with_its_neighbours() -> None:
    student = _student()
    with pytest.raises(ModelError, match="trainable: unknown module '7'"):
        _distiller(student, "fitnets", trainable=["7"])
    assert not any(each._forward_hooks for each in student.modules())  # nothing was set up yet


def test_what_a_user_froze_stays_frozen_after_it() -> None:
    student = _student()
    student[2].weight.requires_grad_(False)  # type: ignore[index]
    _distiller(student, "fitnets", trainable=["0"]).close()
    frozen = [name for name, each in student.named_parameters() if not each.requires_grad]
    assert frozen == ["2.weight"]


def _learn(stages: int, epochs: int) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Train in equal stages with an optimizer that remembers nothing."""
    config = TrainConfig(epochs=epochs, batch_size=8, optimizer="sgd", momentum=0.0, lr=0.05)
    student = small_student()
    torch.manual_seed(4)
    for parameter in student.parameters():
        nn.init.normal_(parameter, std=0.2)
    carried: dict[str, Mapping[str, Any]] = {}
    losses: list[float] = []
    for stage in range(stages):
        with _distiller(student, "fitnets", Contrastive()) as distiller:
            distiller.take_over(carried)
            history = train(distiller, _source(), config, 7, epochs_before=stage * epochs)
            carried = distiller.carried()
        losses += [record.loss for record in history.epochs]
        assert history.epochs[0].epoch == stage * epochs + 1
    return losses, student.state_dict()


def test_two_stages_alike_are_one_of_twice_the_length_bit_for_bit() -> None:
    whole, parts = _learn(1, 4), _learn(2, 2)
    assert parts[0] == whole[0]
    for name, tensor in whole[1].items():
        assert torch.equal(tensor, parts[1][name]), name


def test_another_method_by_the_same_label_is_refused() -> None:
    with _distiller(small_student(), "fitnets") as first:
        carried = first.carried()
    with (
        _distiller(small_student(), {"name": "cosine", "label": "fitnets"}) as second,
        pytest.raises(StrategyError, match=r"another method, or other adapters.*another label"),
    ):
        second.take_over(carried)
    with _distiller(small_student(), "cosine") as third:
        third.take_over(carried)  # another label


STAGES = """
[data]
limit = 60
[teacher]
model = "lightnn"
image_size = 8
[student]
image_size = 8
[train]
epochs = 3
batch_size = 16
[[stages]]                         # hints first, for the layers up to the hint
strategies = [{ name = "fitnets", student_tap = "features", teacher_tap = "features" }]
task_weight = 0.0
trainable = ["features"]
train = { epochs = 2, lr = 2e-3 }
[[stages]]                         # then soft targets, for all of it
strategies = [{ name = "logits" }]
"""


def _rows(path: Path) -> list[Any]:
    rows = json.loads(path.read_text())["rows"]
    return [
        (row["name"], row["scores"], [each["losses"] for each in row["epochs"]]) for row in rows
    ]


@pytest.mark.parametrize("resolved", [False, True])
def test_fitnets_as_published_hints_first(tmp_path: Path, resolved: bool) -> None:
    file, out = tmp_path / "fitnets.toml", tmp_path / "out.json"
    file.write_text(STAGES)
    assert run_command(["run", str(file), "--out", str(tmp_path / "out"), "--json", str(out)]) == 0
    (folder,) = (tmp_path / "out").glob("fitnets-logits-seed42-*")
    if resolved:  # what was decided makes the same run again
        first, out = _rows(out), tmp_path / "again.json"
        again = ["run", str(folder / "config.toml"), "--out", str(tmp_path / "again")]
        assert run_command([*again, "--json", str(out)]) == 0
        assert _rows(out)[-1][1:] == first[-1][1:]
    name, _, losses = _rows(out)[-1]
    assert name == "fitnets-logits"
    assert [set(each) for each in losses] == [{"task", "fitnets"}] * 2 + [{"task", "logits"}] * 3
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [each["epoch"] for each in log if each["kind"] == "epoch"] == [1, 2, 3, 4, 5]
    assert [each["lr"] for each in log if each["kind"] == "epoch"] == [2e-3] * 2 + [1e-3] * 3


def test_a_candidate_may_have_stages_and_its_budget_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = STAGES.replace("[[stages]]", "[[candidates.stages]]")
    text = text.replace(
        "[[candidates.stages]]", '[[candidates]]\nlabel = "hints"\n[[candidates.stages]]', 1
    )
    file = tmp_path / "compare.toml"
    file.write_text(text)
    assert run_command(["compare", str(file), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "stage 1 of 2: 2 epochs" in said
    assert "5 epochs in all, where the student alone has 3" in said
    assert "hints, seed 42, stage 2 of 2" in said


ONE = {"strategies": [{"name": "logits"}]}


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"stages": [ONE], "task_weight": 0.5}, "each stage has its own strategies"),
        ({"stages": [ONE], **ONE}, "each stage has its own strategies"),
        ({"stages": [{**ONE, "train": {"epoch": 1}}]}, r"stages\.0\.train: unknown key 'epoch'"),
        ({"stages": [{**ONE, "epochs": 1}]}, "unknown key 'epochs'"),
    ],
)
def test_wrong_stages_are_one_line(tree: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        as_run({"data": {"name": "digits"}, **tree}, "run")


def test_a_candidate_without_any_strategy_is_refused() -> None:
    tree = {"candidates": [{"label": "none", "stages": [{}, {}]}]}
    with pytest.raises(ConfigError, match="candidate 'none' has no strategies, in no stage"):
        as_comparison(tree, "compare")


def test_statistics_of_layers_without_weights_are_frozen_too() -> None:
    norm = nn.BatchNorm2d(4, affine=False)
    student = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.Flatten(), nn.Linear(4 * 36, 5))
    images = torch.rand(6, 3, 8, 8)
    for trainable, moves in (["3"], False), ([], True):  # the latter is the control
        before = norm.running_mean.clone()  # type: ignore[union-attr]
        with Distiller(None, student, sample_input=images, trainable=trainable) as distiller:
            distiller.train()
            distiller(images, torch.arange(6) % 5)
        assert torch.equal(norm.running_mean, before) is not moves  # type: ignore[arg-type]
