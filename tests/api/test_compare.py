"""Comparisons in one call: equal starts, one teacher's pass, tables and what is refused."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import kdcore
from kdcore.asking import ask_all
from kdcore.errors import ConfigError, DataError, ModelError, StrategyError, TapError
from kdcore.evaluation import evaluate
from kdcore.frozen_teacher import AnyTeacher
from kdcore.job import STUDENT

GENERATOR = torch.Generator().manual_seed(0)
DATA = torch.randn(24, 6, generator=GENERATOR), torch.arange(24) % 3
TEST = torch.randn(12, 6, generator=GENERATOR), torch.arange(12) % 3


class Teacher(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(9)
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.asked = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.asked += len(inputs)
        return torch.as_tensor(self.head(self.body(inputs).relu()))


def _student() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))


def _compare(teacher: nn.Module | None = None, **more: Any) -> kdcore.Comparison:
    given: dict[str, Any] = {
        "candidates": {"kd": ["logits"], "both": ["logits", "cosine"]},
        "seeds": (3, 4),
        "epochs": 2,
        "batch_size": 8,
    }
    return kdcore.compare(teacher or Teacher(), _student, DATA, TEST, **{**given, **more})


def test_all_students_of_a_seed_are_those_that_distill_trains() -> None:
    found = _compare()
    names = [(each.name, each.seed) for each in found.results]
    rows = ["teacher", STUDENT, "kd", "both"]
    assert names == [(name, seed) for seed in (3, 4) for name in rows]
    torch.manual_seed(4)
    alone = _student()
    kdcore.distill(None, alone, DATA, TEST, seed=4, epochs=2, batch_size=8)
    torch.manual_seed(4)
    taught = _student()
    kdcore.distill(Teacher(), taught, DATA, TEST, ["logits"], seed=4, epochs=2, batch_size=8)
    for name, model in ((STUDENT, alone), ("kd", taught)):
        own = found.students[name, 4].state_dict()
        assert all(torch.equal(own[key], each) for key, each in model.state_dict().items())


def test_the_teacher_is_asked_once_for_all_runs() -> None:
    several, one = Teacher(), Teacher()
    _compare(several)
    _compare(one, candidates=["logits"], seeds=(3,))
    # Both look at every training sample once; what is tried at set-up differs.
    assert several.asked - one.asked < len(DATA[0])


def test_seconds_are_those_of_training_and_evaluation_and_not_of_asking_the_teacher(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, later = time.perf_counter, 0.0

    def passing(seconds: float, work: Callable[..., Any]) -> Callable[..., Any]:
        def longer(*given: Any, **named: Any) -> Any:
            nonlocal later
            later += seconds
            return work(*given, **named)

        return longer

    monkeypatch.setattr(time, "perf_counter", lambda: now() + later)
    monkeypatch.setattr("kdcore.trainer.evaluate", passing(1_000.0, evaluate))
    monkeypatch.setattr("kdcore.cache.ask_all", passing(1_000_000.0, ask_all))
    found = _compare(seeds=(3,), validation_data=TEST)
    assert later == 1_000_000 + 3 * 2 * 2 * 1_000  # three students, two epochs, two lots of data
    teacher, *students = found.results
    assert teacher.seconds == 0
    assert [each.seconds // 1_000 for each in students] == [4, 4, 4]


def test_rows_are_means_over_seeds_with_paired_differences() -> None:
    found = _compare()
    by = {row.title: row for row in found.rows}
    scores = {(each.name, each.seed): each.accuracy for each in found.results}
    differences = [scores["kd", seed] - scores[STUDENT, seed] for seed in (3, 4)]
    assert by["kd"].difference is not None
    assert by["kd"].difference.mean == pytest.approx(sum(differences) / 2)
    assert by["student alone"].difference is None


def test_the_best_weights_are_chosen_on_the_validation_data() -> None:
    found = _compare(validation_data=TEST, candidates=["logits"], epochs=4, lr=0.05)
    for each in found.results:
        if each.name != "teacher":
            assert each.best_epoch is not None
            assert each.best_scores is not None
            # Here they are the test data, too.
            assert each.best_scores["accuracy"] == max(e["scores"]["accuracy"] for e in each.epochs)


def test_it_shows_itself_as_a_table() -> None:
    found = _compare(seeds=(3,))
    console = Console(record=True, width=150)
    console.print(found)
    text = console.export_text()
    for name in ("teacher", "student alone", "kd", "both", "accuracy (%)"):
        assert name in text
        assert name in found._repr_html_()
    assert str(found).startswith("| ")
    assert "<script" not in found._repr_html_()


def test_a_result_shows_its_history_with_whole_numbers_whole() -> None:
    images = torch.randn(12_345, 6), torch.zeros(12_345, dtype=torch.int64)
    result = kdcore.distill(None, _student(), images, TEST, epochs=1, batch_size=4_115)
    console = Console(record=True, width=150)
    console.print(result)
    for text in (console.export_text(), result._repr_html_()):
        assert "12,345" in text
        assert "loss task" in text
        assert f"{result.accuracy:.4g}" in text


def test_runs_and_epochs_are_tables_of_pandas() -> None:
    found = _compare(seeds=(3,))
    table = found.to_pandas()
    assert isinstance(table, pd.DataFrame)
    assert list(table["name"]) == ["teacher", STUDENT, "kd", "both"]
    assert list(table["accuracy"]) == [each.accuracy for each in found.results]
    asked = list(table["teacher seconds"])
    assert asked[2] > 0 == asked[0] == asked[1] == asked[3]  # the first that learns from it
    result = kdcore.distill(None, _student(), DATA, TEST, epochs=3)
    epochs = result.to_pandas()
    assert list(epochs["epoch"]) == [1, 2, 3]
    assert list(epochs["accuracy"]) == [each.accuracy for each in result.history.epochs]
    assert {"loss", "loss task", "lr", "seconds"} <= set(epochs.columns)


def test_a_student_that_begins_otherwise_each_time_is_refused() -> None:
    count = iter(range(100))

    def other() -> nn.Module:
        model = _student()
        with torch.no_grad():
            next(model.parameters()).add_(next(count))
        return model

    with pytest.raises(ModelError, match="began with other weights than before"):
        kdcore.compare(Teacher(), other, DATA, TEST, ["logits"], seeds=(1,), epochs=1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"candidates": {}}, "there are none to compare"),
        ({"candidates": {"a": []}}, "'a' has no strategies"),
        ({"candidates": ["logits", "logits"]}, "one stands twice"),
        ({"candidates": {"student": ["logits"]}}, "kdcore's own row"),
        ({"candidates": {"teacher x": ["logits"]}}, "kdcore's own row"),
        ({"seeds": ()}, "give one or more"),
        ({"seeds": (1, 1)}, "give one or more, each once"),
        ({"epoch": 3}, "epoch"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        _compare(**changes)


def test_a_candidate_that_cannot_work_fails_before_any_training() -> None:
    teacher = Teacher()
    with pytest.raises(TapError, match=r"'fitnets'.* cannot tell which tap is its feature map"):
        _compare(teacher, candidates={"ok": ["logits"], "no": [{"name": "fitnets"}]})
    assert teacher.asked < len(DATA[0])


class NoLoss(kdcore.Strategy):
    """Can be set up, and has no loss."""

    @kdcore.hookimpl
    def compute_auxiliary_loss(self) -> Tensor:
        raise ValueError("there is none")


def test_a_loss_that_cannot_be_computed_fails_before_any_training() -> None:
    teacher = Teacher()
    with pytest.raises(StrategyError, match="there is none"):
        _compare(teacher, candidates={"ok": ["logits"], "no": [NoLoss()]})
    assert teacher.asked < len(DATA[0])


def test_targets_that_are_no_classes_are_said_to_be_that_before_losses_are_tried() -> None:
    wrong = DATA[0], DATA[1] + 1
    with pytest.raises(DataError, match="train_data"):
        kdcore.compare(Teacher(), _student, wrong, TEST, ["logits"], epochs=1)


def test_an_experiments_file_is_compared_as_the_command_does(tmp_path: Path) -> None:
    file = tmp_path / "digits.toml"
    file.write_text(
        "seeds = [1]\n[data]\nlimit = 60\n[teacher]\nmodel = 'lightnn'\nimage_size = 8\n"
        "[student]\nimage_size = 8\n[train]\nepochs = 1\n"
        "[[candidates]]\nstrategies = [{ name = 'logits' }]\n"
    )
    found = kdcore.compare_file(file, "train.batch_size=16", out=tmp_path / "out")
    assert [each.name for each in found.results] == ["teacher", STUDENT, "logits"]
    assert found.folder == tmp_path / "out"
    assert (tmp_path / "out" / "report.md").is_file()
    assert "batch_size = 16" in (tmp_path / "out" / "comparison.toml").read_text()
    again = kdcore.compare_file(file, "train.batch_size=16", out=tmp_path / "out")
    assert all(each.kept for each in again.results)


class Mute(nn.Module):
    """A model without logits."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(6, 8)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        return {"hidden": self.body(inputs)}


def test_an_ensemble_has_a_row_where_its_members_have() -> None:
    one, two = Teacher(), Teacher()
    with torch.no_grad():
        two.head.weight.neg_()
    teachers: dict[str, AnyTeacher] = {
        "both": kdcore.TeacherEnsemble(("one", "two"), shares=(1, 3)),
        "one": one,
        "two": two,
        "mute": Mute(),
        "muted": kdcore.TeacherEnsemble(("one", "mute")),
    }
    candidates = {"kd": [{"name": "logits", "teacher": "both"}]}
    found = kdcore.compare(teachers, _student, DATA, TEST, candidates, seeds=(3, 4), epochs=1)
    names = ["teacher one", "teacher two", "teacher both", STUDENT, "kd"]
    assert [(each.name, each.seed) for each in found.results] == [
        (name, seed) for seed in (3, 4) for name in names
    ]
    with torch.no_grad():
        right = (one(TEST[0]) / 4 + two(TEST[0]) * 3 / 4).argmax(1) == TEST[1]
    by = {each.name: each.accuracy for each in found.results}
    assert by["teacher both"] == pytest.approx(100 * right.double().mean().item())
    assert by["teacher both"] != by["teacher one"]  # or it could be anyone's


def test_an_ensemble_of_nobody_is_refused_also_where_none_learns_from_it() -> None:
    both = kdcore.TeacherEnsemble(("one", "two"))
    teachers: dict[str, AnyTeacher] = {"one": Teacher(), "both": both}
    candidates = {"kd": [{"name": "logits", "teacher": "one"}]}
    with pytest.raises(ConfigError, match="teacher both: unknown member 'two'"):
        kdcore.compare(teachers, _student, DATA, TEST, candidates, epochs=1)


def test_candidates_may_learn_from_different_teachers() -> None:
    found = kdcore.compare(
        {"a": Teacher(), "b": Teacher()},
        _student,
        DATA,
        TEST,
        {
            "of-a": [{"name": "logits", "teacher": "a"}],
            "of-b": [{"name": "logits", "teacher": "b"}],
        },
        seeds=(1,),
        epochs=1,
        task_weight=0.5,
    )
    names = [each.name for each in found.results]
    assert names == ["teacher a", "teacher b", STUDENT, "of-a", "of-b"]


def test_an_experiments_file_ships_what_it_asks_for(tmp_path: Path) -> None:
    file = tmp_path / "digits.toml"
    file.write_text(
        "export = { formats = [] }\nseeds = [1]\n[data]\nlimit = 60\n"
        "[teacher]\nmodel = 'lightnn'\nimage_size = 8\n[student]\nimage_size = 8\n"
        "[train]\nepochs = 1\n[[candidates]]\nstrategies = [{ name = 'logits' }]\n"
    )
    found = kdcore.compare_file(file, out=tmp_path / "out")
    (own,) = (Path(each.folder) for each in found.results if each.name == "logits")
    assert (own / "export" / "student.safetensors").is_file()
