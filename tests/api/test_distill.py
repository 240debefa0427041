from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import kdcore
from kdcore.data.source import DatasetSource
from kdcore.errors import ConfigError, DataError, ResumeError, ScoreError
from kdcore.history import EpochRecord


def _data(samples: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, 4, generator=generator)
    return inputs, inputs[:, :3].argmax(1)


def _net(width: int) -> nn.Sequential:
    torch.manual_seed(width)
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))


def test_one_call_trains_the_student_and_reports_its_accuracy() -> None:
    student = _net(6)
    result = kdcore.distill(
        _net(12), student, _data(200, 0), _data(100, 1), ["logits"], epochs=12, lr=0.02
    )
    assert result.student is student
    assert result.accuracy == result.history.epochs[-1].accuracy
    assert result.accuracy > 60
    assert set(result.history.epochs[0].losses) == {"task", "logits"}


def test_the_student_and_the_teacher_come_back_without_hooks() -> None:
    teacher, student = _net(12), _net(6)
    teacher.train()
    kdcore.distill(
        teacher,
        student,
        _data(20, 0),
        _data(10, 1),
        [{"name": "fitnets", "student_tap": "0", "teacher_tap": "0"}],
        epochs=1,
    )
    for model in (teacher, student):
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert teacher.training


def test_data_sets_and_pairs_of_tensors_train_alike() -> None:
    results = []
    for wrap in (tuple, lambda pair: TensorDataset(*pair)):
        student = _net(6)
        kdcore.distill(None, student, wrap(_data(30, 0)), _data(10, 1), epochs=2)
        results.append(student.state_dict()["0.weight"].clone())
    assert torch.equal(*results)


def test_samples_without_labels_reach_the_student_through_the_teacher() -> None:
    inputs, targets = _data(60, 0)
    targets[10:] = -100
    result = kdcore.distill(
        _net(12),
        _net(6),
        (inputs, targets),
        _data(10, 1),
        ["logits"],
        epochs=1,
        batch_size=10,
        labelled_share=0.5,
    )
    assert result.history.epochs[0].samples == 100


def test_the_best_weights_are_kept_where_there_is_validation_data() -> None:
    result = kdcore.distill(
        None, _net(6), _data(40, 0), _data(10, 1), epochs=2, validation_data=_data(10, 2)
    )
    assert result.history.best_epoch in (1, 2)


def test_an_unknown_key_of_the_training_is_named_with_its_neighbour() -> None:
    with pytest.raises(ConfigError, match="unknown key 'epoch'; did you mean 'epochs'"):
        kdcore.distill(None, _net(6), _data(4, 0), _data(4, 1), epoch=2)


def test_evaluation_data_without_labels_is_refused() -> None:
    inputs, targets = _data(4, 1)
    with pytest.raises(DataError, match="eval_data has no labels"):
        kdcore.distill(None, _net(6), _data(4, 0), (inputs, targets.fill_(-100)), epochs=1)


def test_a_pair_of_unequal_lengths_is_refused() -> None:
    with pytest.raises(DataError, match="train_data: expected a pair of tensors of equal length"):
        kdcore.distill(
            None, _net(6), (torch.zeros(3, 4), torch.zeros(2).long()), _data(4, 1), epochs=1
        )


@pytest.mark.parametrize("wrong", [3, -1])
def test_a_target_that_is_no_class_of_the_student_is_named(wrong: int) -> None:
    inputs, targets = _data(6, 0)
    targets[2] = wrong
    with pytest.raises(DataError, match=rf"train_data\[2\]: the target is {wrong}, the student"):
        kdcore.distill(None, _net(6), (inputs, targets), _data(4, 1), epochs=1)


def test_validation_data_without_labels_is_refused() -> None:
    nothing = torch.zeros(3, 4), torch.full((3,), -100)
    with pytest.raises(DataError, match="validation_data has no labels"):
        kdcore.distill(None, _net(6), _data(4, 0), _data(4, 1), epochs=1, validation_data=nothing)


def test_what_the_data_set_returns_counts_and_not_its_raw_targets() -> None:
    class Shifted:
        targets = (0, 0, 0, 0)

        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return torch.full((4,), float(index)), 2

    source = DatasetSource(Shifted(), "train_data")
    assert source.targets.tolist() == [2] * 4


class _Stops:
    """Ends a training after an epoch, as a crash would."""

    def on_step(self, record: object) -> None: ...

    def on_epoch(self, record: EpochRecord) -> None:
        if record.epoch == 3:
            raise RuntimeError("a crash")


def _seeded(**given: Any) -> kdcore.Result:
    torch.manual_seed(5)
    teacher, student = _net(12), _net(6)
    given = {"strategies": ["logits"], "epochs": 4, "batch_size": 8, **given}
    return kdcore.distill(teacher, student, _data(30, 0), _data(10, 1), **given)


def test_a_training_that_crashed_is_continued_by_the_same_call(tmp_path: Path) -> None:
    whole = _seeded()
    with pytest.raises(RuntimeError, match="a crash"):
        _seeded(resume=tmp_path, observers=[_Stops()])
    again = _seeded(resume=tmp_path)
    losses = [[(each.loss, each.accuracy) for each in r.history.epochs] for r in (whole, again)]
    assert losses[0] == losses[1]
    for one, other in zip(whole.student.parameters(), again.student.parameters(), strict=True):
        assert torch.equal(one, other)
    assert _seeded(resume=tmp_path).accuracy == whole.accuracy  # finished: only read


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lr": 0.5}, "train.lr"),
        ({"seed": 9}, "seed was 0, is 9"),
        ({"strategies": [{"name": "logits", "temperature": 3.0}]}, "strategies"),
    ],
)
def test_another_training_is_not_continued(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    _seeded(resume=tmp_path)
    with pytest.raises(ResumeError, match=f"began with something else: {said}"):
        _seeded(resume=tmp_path, **change)


def _changed_inputs(pair: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = pair[0].clone()
    inputs[-1] += 1
    return inputs, pair[1]


DATA, EVALUATION = _data(30, 0), _data(10, 1)


def test_other_samples_and_other_models_of_equal_weights_are_noticed(tmp_path: Path) -> None:
    def run(
        dropout: float = 0.1,
        activation: type[nn.Module] = nn.ReLU,
        train: Any = DATA,
        evaluate: Any = EVALUATION,
        freeze: int = 0,
    ) -> None:
        torch.manual_seed(5)
        teacher = nn.Sequential(nn.Linear(4, 8), activation(), nn.Linear(8, 3))
        student = nn.Sequential(nn.Linear(4, 4), nn.Dropout(dropout), nn.Linear(4, 3))
        student[freeze].bias.requires_grad_(False)
        kdcore.distill(teacher, student, train, evaluate, ["logits"], epochs=1, resume=tmp_path)

    run()
    run()  # the control
    changes: list[tuple[dict[str, Any], str]] = [
        ({"dropout": 0.7}, "student"),
        ({"freeze": 2}, "student"),
        ({"activation": nn.Tanh}, "teachers.teacher"),
        ({"train": _changed_inputs(_data(30, 0))}, "data.train"),
        ({"evaluate": _changed_inputs(_data(10, 1))}, "data.eval"),
    ]
    for change, said in changes:
        with pytest.raises(ResumeError, match=f"began with something else: {said};"):
            run(**change)


def test_two_trainings_in_one_folder_are_refused(tmp_path: Path) -> None:
    class Again:
        def on_step(self, record: object) -> None: ...

        def on_epoch(self, record: EpochRecord) -> None:  # noqa: ARG002
            with pytest.raises(ResumeError, match="another training is saved in"):
                _seeded(resume=tmp_path)

    _seeded(resume=tmp_path, epochs=1, observers=[Again()])
    _seeded(resume=tmp_path, epochs=1)  # the control


class _Follow(kdcore.Strategy):
    """``(student - teacher)²`` of what both predict."""

    @kdcore.hookimpl
    def compute_auxiliary_loss(
        self, student: kdcore.Features, teacher: kdcore.Features
    ) -> torch.Tensor:
        return kdcore.squared_error(student.logits, teacher.logits)


def _values(samples: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, _ = _data(samples, seed)
    return inputs, inputs[:, :3] * 2


def test_any_task_is_distilled_and_scored() -> None:
    inputs, targets = _values(120, 0)
    targets[10:] = torch.nan
    given: dict[str, Any] = {"task": kdcore.Regression(), "epochs": 8, "lr": 0.03}
    teacher = _net(16)
    first = kdcore.distill(None, teacher, _values(120, 0), _values(60, 1), **given)
    taught = kdcore.distill(teacher, _net(6), (inputs, targets), _values(60, 1), [_Follow], **given)
    alone = kdcore.distill(None, _net(6), (inputs, targets), _values(60, 1), **given)
    assert list(first.scores) == ["R²", "MAE", "RMSE"]
    assert first.scores["R²"] > taught.scores["R²"] > alone.scores["R²"]
    with pytest.raises(ScoreError, match=r"unknown score 'accuracy'.*known: MAE, RMSE, R²"):
        _ = first.accuracy


def test_validation_of_a_score_that_should_be_low_keeps_the_lowest() -> None:
    def told(outputs: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return torch.full((len(outputs),), next(order))

    order = iter([5.0, 5.0, 2.0, 2.0, 9.0, 9.0])  # of test and validation in turn
    task = kdcore.NoTask(told, "distance", higher_is_better=False)
    result = kdcore.distill(
        _net(12),
        _net(6),
        _values(20, 0),
        _values(20, 1),
        [_Follow],
        validation_data=_values(20, 2),
        task=task,
        epochs=3,
    )
    assert (result.history.best_epoch, result.history.best_validation) == (2, 2.0)


def test_without_a_task_strategies_alone_train() -> None:
    task = kdcore.NoTask()
    data = _data(40, 0)[0], torch.full((40,), -100)
    result = kdcore.distill(_net(12), _net(6), data, data, ["logits"], task=task, epochs=2)
    assert result.scores == {}
    assert result.history.epochs[1].loss < result.history.epochs[0].loss
    with pytest.raises(ConfigError, match="learns from strategies alone: give some"):
        kdcore.distill(None, _net(6), data, data, task=task)


def test_label_smoothing_beside_a_task_is_refused() -> None:
    with pytest.raises(ConfigError, match="label_smoothing would be ignored: give it to the task"):
        kdcore.distill(
            None,
            _net(6),
            _data(4, 0),
            _data(4, 1),
            task=kdcore.Classification(),
            label_smoothing=0.1,
        )


def test_targets_of_another_task_are_refused_before_any_step() -> None:
    for data, task, words in (
        (_data(4, 0), kdcore.Regression(), r"regression takes targets that are floating-point"),
        (_values(4, 0), kdcore.Classification(), r"takes targets that are whole .* float32 \[4, 3"),
        (_values(4, 0), kdcore.MultiLabel(), r"train_data\[\d\]: the target is .* takes 0, 1, and"),
    ):
        with pytest.raises(DataError, match=words):
            kdcore.distill(None, _net(6), data, data, task=task, epochs=1)


def test_a_training_of_another_task_is_not_continued(tmp_path: Path) -> None:
    given: dict[str, Any] = {"epochs": 1, "resume": tmp_path}
    data = _values(20, 0)
    kdcore.distill(None, _net(6), data, data, task=kdcore.Regression(), **given)
    with pytest.raises(ResumeError, match="task"):
        kdcore.distill(None, _net(6), data, data, task=kdcore.Regression("huber"), **given)
