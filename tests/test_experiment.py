"""What an experiment may say: defaults, bounds, and keys that would have no effect."""

import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from kdcore.experiment import (
    CandidateConfig,
    ComparisonConfig,
    Experiment,
    RunConfig,
    StrategyConfig,
)
from kdcore.sections import AugmentConfig, DataConfig, ModelConfig, TrainConfig
from kdcore.teacher_sections import TeacherConfig
from kdcore.validation import describe_validation

CANDIDATE: dict[str, Any] = {"label": "a", "strategies": [{"name": "a"}]}


def _refused(kind: type[BaseModel], **values: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(values)
    return describe_validation(caught.value, "file.toml", kind)


def _is_section(kind: type[BaseModel]) -> bool:
    return kind.model_config.get("extra") == "forbid"


# Every key


@pytest.mark.parametrize(
    "kind", [DataConfig, ModelConfig, TrainConfig, TeacherConfig, CandidateConfig, Experiment]
)
def test_an_unknown_key_is_refused_at_every_depth(kind: type[BaseModel]) -> None:
    assert "unknown key 'nonsense'" in _refused(kind, nonsense=1)
    assert _is_section(kind)


def test_keys_beside_the_four_of_an_entry_are_the_methods_settings() -> None:
    entry = StrategyConfig.model_validate({"name": "logits", "weight": 2, "temperature": 4})
    assert entry.settings == {"temperature": 4}
    assert (entry.name, entry.weight, entry.label, entry.teacher) == ("logits", 2.0, None, None)


@pytest.mark.parametrize(
    ("kind", "values", "says"),
    [
        (RunConfig, {"strategies": ["logits"]}, "strategies.0"),
        (RunConfig, {"strategies": [{"name": "fitnets"}, "logits"]}, "strategies.1"),
        (RunConfig, {"stages": [{"strategies": ["logits"]}]}, "stages.0.strategies.0"),
        (
            ComparisonConfig,
            {"candidates": [{"strategies": ["logits"]}]},
            "candidates.0.strategies.0",
        ),
    ],
)
def test_a_strategy_that_is_a_name_alone_is_told_as_the_table_to_write(
    kind: type[BaseModel], values: dict[str, Any], says: str
) -> None:
    told = _refused(kind, **values)
    assert told == f'file.toml: {says}: "logits" stands alone; write {{ name = "logits" }}'


def test_strategies_that_are_no_list_are_told_as_the_list_to_write() -> None:
    said = 'strategies: "logits" is no list; write [{ name = "logits" }]'
    assert _refused(RunConfig, strategies="logits") == f"file.toml: {said}"


@pytest.mark.parametrize(
    "kind", [DataConfig, TrainConfig, TeacherConfig, RunConfig, ComparisonConfig, StrategyConfig]
)
def test_every_key_that_is_no_table_is_described(kind: type[BaseModel]) -> None:
    for key, field in kind.model_fields.items():
        tables = (
            "task",
            "data",
            "teacher",
            "teachers",
            "student",
            "train",
            "augment",
            "cache",
            "checkpoint",
            "processes",
            "export",
            "log",
            "strategies",
            "candidates",
        )
        assert field.description or key in tables, key


def test_an_experiment_cannot_be_changed() -> None:
    experiment = RunConfig()
    with pytest.raises(ValidationError, match="frozen"):
        experiment.train.epochs = 3  # type: ignore[misc]  # mypy knows it, too
    with pytest.raises(ValidationError, match="frozen"):
        experiment.seed = 3  # type: ignore[misc]


def test_defaults_of_two_experiments_are_their_own() -> None:
    RunConfig().model_teachers["teacher"].train["epochs"] = 1
    assert RunConfig().model_teachers["teacher"].train == {}


# Numbers


@pytest.mark.parametrize(
    ("key", "value", "bound"),
    [
        ("epochs", 0, "greater than or equal to 1"),
        ("epochs", -3, "greater than or equal to 1"),
        ("epochs", 1.5, "valid integer"),
        ("batch_size", 0, "greater than or equal to 1"),
        ("accumulate", 0, "greater than or equal to 1"),
        ("lr", 0, "greater than 0"),
        ("lr", -1e-3, "greater than 0"),
        ("lr", math.nan, "finite"),
        ("lr", math.inf, "finite"),
        ("lr", 10**400, "valid number"),
        ("weight_decay", -1, "greater than or equal to 0"),
        ("weight_decay", math.inf, "finite"),
        ("momentum", 1, "less than 1"),
        ("momentum", -0.1, "greater than or equal to 0"),
        ("gamma", 0, "greater than 0"),
        ("milestones", [0], "greater than or equal to 1"),
        ("warmup_epochs", -1, "greater than or equal to 0"),
        ("warmup_epochs", math.nan, "finite"),
        ("clip_norm", 0, "greater than 0"),
        ("label_smoothing", 1, "less than 1"),
        ("labelled_share", 0, "greater than 0"),
        ("labelled_share", 1, "less than 1"),
        ("optimizer", "lion", "'adam', 'adamw', 'muon' or 'sgd'"),
        ("schedule", "linear", "'constant', 'cosine', 'step' or 'one-cycle'"),
    ],
)
def test_a_value_of_train_out_of_bounds_is_refused_with_key_bound_and_value(
    key: str, value: Any, bound: str
) -> None:
    line = _refused(TrainConfig, **{key: value})
    assert line.startswith(f"file.toml: {key}")
    assert bound in line
    assert "(got " in line
    assert line.count("; ") == 0


@pytest.mark.parametrize(
    ("key", "value", "bound"),
    [
        ("labels", 0, "greater than or equal to 1"),
        ("limit", -1, "greater than or equal to 1"),
        ("validation", 1, "less than 1"),
        ("validation", -0.1, "greater than or equal to 0"),
        ("validation", math.nan, "finite"),
        ("test_share", 0, "greater than 0"),
        ("split_seed", -1, "greater than or equal to 0"),
        ("split_seed", 2**63, "less than 9223372036854775808"),
        ("name", "mnist", "unknown data set 'mnist'"),
    ],
)
def test_a_value_of_data_out_of_bounds_is_refused_with_key_bound_and_value(
    key: str, value: Any, bound: str
) -> None:
    line = _refused(DataConfig, **{key: value})
    assert line.startswith(f"file.toml: {key}: ")
    assert bound in line


@pytest.mark.parametrize(
    ("kind", "key"),
    [(TrainConfig, "epochs"), (TrainConfig, "lr"), (DataConfig, "limit"), (RunConfig, "seed")],
)
def test_true_is_no_number_unlike_in_python(kind: type[BaseModel], key: str) -> None:
    class Plain(BaseModel):
        epochs: int

    assert Plain.model_validate({"epochs": True}).epochs == 1
    assert f"{key}: true is no value" in _refused(kind, **{key: True})


def test_a_key_that_may_be_true_still_can_be() -> None:
    config = TrainConfig.model_validate({"optimizer": "sgd", "nesterov": True})
    assert config.nesterov is True


@pytest.mark.parametrize("seed", [-1, 2**63, 10**30, 0.5, math.nan, "one"])
def test_a_seed_that_is_none_is_refused(seed: object) -> None:
    assert _refused(RunConfig, seed=seed).startswith("file.toml: seed: ")
    assert "seeds.1: " in _refused(ComparisonConfig, candidates=[CANDIDATE], seeds=[0, seed])


def test_the_largest_seed_is_one() -> None:
    assert RunConfig(seed=2**63 - 1).seed == 2**63 - 1


@pytest.mark.parametrize("value", [-1, math.nan, math.inf])
@pytest.mark.parametrize(
    ("kind", "key", "values"),
    [
        (RunConfig, "task_weight", {}),
        (CandidateConfig, "task_weight", CANDIDATE),
        (StrategyConfig, "weight", {"name": "a"}),
    ],
)
def test_a_weight_is_a_number_from_0(
    kind: type[BaseModel], key: str, values: dict[str, Any], value: float
) -> None:
    assert _refused(kind, **{**values, key: value}).startswith(f"file.toml: {key}: ")
    assert getattr(kind.model_validate({**values, key: 0}), key) == 0.0


# Models


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"model": ""}, "model"),
        ({"model": "m", "image_size": 0}, "image_size"),
        ({"model": "m", "std": [1, 0, 1]}, "std.1"),
        ({"model": "m", "mean": [0, math.nan, 0]}, "mean.1"),
        ({"model": "m", "mean": [0, 0]}, "mean.2"),
    ],
)
def test_a_model_is_refused_with_the_key_that_is_wrong(values: dict[str, Any], key: str) -> None:
    assert _refused(ModelConfig, **values).startswith(f"file.toml: {key}: ")


def test_teacher_and_student_have_a_model_of_their_own_by_default() -> None:
    assert RunConfig().model_names == ("deepnn", "lightnn")


# Data


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "folder", "csv"])
def test_data_that_lies_in_a_folder_needs_one(name: str) -> None:
    line = _refused(DataConfig, name=name)
    assert f"data.name = {name!r} needs data.root (--root DIR)" in line
    found = DataConfig.model_validate({"name": name, "root": "there"}).root
    # Absolute, so that a saved experiment can be run from anywhere.
    assert found == Path.cwd() / "there"


def test_a_folder_for_data_that_lies_in_none_is_refused() -> None:
    said = _refused(DataConfig, root="there")
    assert "root would be ignored" in said
    assert "--data folder or cifar10 (data.name)" in said


@pytest.mark.parametrize("key", ["group_by", "skip_unreadable"])
def test_a_key_about_image_files_is_refused_where_there_are_none(key: str) -> None:
    value = {"group_by": "patient", "skip_unreadable": True}[key]
    line = _refused(DataConfig, name="cifar10", root="there", **{key: value})
    assert f"{key} would be ignored: only folder and csv" in line
    for name in ("folder", "csv"):
        values = {"name": name, "root": "there", key: value}
        assert getattr(DataConfig.model_validate(values), key) == value


def test_a_pattern_that_is_no_regular_expression_is_refused_with_why() -> None:
    line = _refused(DataConfig, name="folder", root="there", group_by="patient(")
    assert line.startswith("file.toml: group_by: not a regular expression: ")
    assert "unterminated" in line


# Settings of the training that others leave without effect


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"momentum": 0.9}, "momentum would be ignored: only optimizer = 'sgd' or 'muon' has it"),
        (
            {"optimizer": "adamw", "momentum": 0.9, "nesterov": False},
            "momentum and nesterov would be ignored: only optimizer = 'sgd' or 'muon' has it",
        ),
        ({"optimizer": "muon", "shard": True}, "shard does not go with optimizer = 'muon'"),
        ({"milestones": [3]}, "milestones would be ignored: only schedule = 'step' has it"),
        ({"schedule": "cosine", "gamma": 0.5}, "gamma would be ignored: only schedule = 'step'"),
        ({"schedule": "step"}, "schedule = 'step' needs milestones, such as [5, 8]"),
        ({"schedule": "step", "milestones": []}, "schedule = 'step' needs milestones"),
        ({"schedule": "step", "milestones": [5, 5]}, "milestones must rise"),
        ({"schedule": "step", "milestones": [8, 5]}, "milestones must rise"),
        (
            {"schedule": "step", "milestones": [2, 5], "warmup_epochs": 2},
            "milestones must come after warmup_epochs",
        ),
        ({"optimizer": "sgd", "nesterov": True, "momentum": 0}, "nesterov needs momentum above 0"),
        ({"batch_size": 4, "accumulate": 5}, "accumulate must not be more than batch_size"),
        ({"schedule": "one-cycle", "warmup_epochs": 1}, "schedule = 'one-cycle' has a warm-up"),
        ({"epochs": 3, "warmup_epochs": 3}, "warmup_epochs must be less than epochs"),
    ],
)
def test_settings_of_the_training_that_do_not_go_together_are_refused_with_why(
    values: dict[str, Any], reason: str
) -> None:
    assert reason in _refused(TrainConfig, **values)
    assert _refused(RunConfig, train=values).startswith(f"file.toml: train: {reason}")


@pytest.mark.parametrize(
    "values",
    [
        {"optimizer": "sgd", "momentum": 0.9, "nesterov": True},
        {"optimizer": "sgd", "nesterov": True},
        {"optimizer": "muon", "momentum": 0.9, "nesterov": False},
        {"schedule": "step", "milestones": [3, 8], "gamma": 0.2, "warmup_epochs": 2},
        {"schedule": "cosine", "warmup_epochs": 0.5, "clip_norm": 1},
        {"schedule": "one-cycle", "optimizer": "adamw", "weight_decay": 0.05},
        {"batch_size": 4, "accumulate": 4},
    ],
)
def test_settings_of_the_training_that_go_together_are_taken(values: dict[str, Any]) -> None:
    config = TrainConfig.model_validate(values).model_dump(include=set(values))
    assert config == {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


# The teacher's training


def test_the_teachers_training_is_that_of_the_student_but_for_its_own_keys() -> None:
    config = RunConfig.model_validate(
        {"train": {"epochs": 7, "lr": 0.5}, "teacher": {"train": {"epochs": 3}}}
    )
    assert config.teacher_train() == TrainConfig(epochs=3, lr=0.5)
    assert config.train == TrainConfig(epochs=7, lr=0.5)


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        ({"epochs": 0}, "teacher.train: epochs: input should be greater than or equal to 1"),
        ({"epoch": 1}, "teacher.train: unknown key 'epoch'; did you mean 'epochs'"),
        ({"momentum": 0.9}, "teacher.train: momentum would be ignored"),
        ({"lr": math.nan}, "teacher.train: lr: input should be a finite number"),
    ],
)
def test_the_teachers_own_keys_are_checked_as_those_of_train_and_named_as_its_own(
    own: dict[str, Any], reason: str
) -> None:
    assert _refused(RunConfig, teacher={"train": own}).startswith(f"file.toml: {reason}")


# Strategies and candidates


@pytest.mark.parametrize("label", ["a b", "", "a.b", "a/b", "../a", "-a", "+", "a\n", "ä"])
def test_a_label_is_fit_for_a_folder_and_a_key(label: str) -> None:
    assert _refused(StrategyConfig, name="a", label=label).startswith("file.toml: label: ")
    values = {**CANDIDATE, "label": label}
    assert _refused(CandidateConfig, **values).startswith("file.toml: label: ")


@pytest.mark.parametrize("label", ["a", "a+b", "t4_x-y", "a@teacher", "9"])
def test_a_label_may_join_names(label: str) -> None:
    assert StrategyConfig(name="a", label=label).label == label


def test_a_candidate_without_a_label_is_called_as_its_strategies() -> None:
    one = {"strategies": [{"name": "a"}, {"name": "kdcore-b:b"}, {"name": "c", "label": "d"}]}
    assert CandidateConfig.model_validate(one).label == "a+b+d"
    stages = {"stages": [one, {"train": {"lr": 0.1}}, {"strategies": [{"name": "c"}]}]}
    assert CandidateConfig.model_validate(stages).label == "a+b+d-c"
    assert CandidateConfig.model_validate({**one, "label": "own"}).label == "own"
    assert "label" in _refused(CandidateConfig, strategies=[])


def test_the_label_of_a_name_with_its_distribution_is_the_name() -> None:
    assert StrategyConfig(name="kdcore-logits:logits").label == "logits"
    assert StrategyConfig(name="kdcore-logits:logits", label="own").label == "own"
    assert StrategyConfig(name="logits").label is None


def test_a_comparison_needs_a_candidate_and_a_candidate_a_strategy() -> None:
    assert _refused(ComparisonConfig) == "file.toml: candidates: field required"
    assert "candidates: " in _refused(ComparisonConfig, candidates=[])
    empty = {"label": "a", "strategies": []}
    line = _refused(ComparisonConfig, candidates=[empty])
    assert line == "file.toml: candidates.0: candidate 'a' has no strategies, in no stage"


def test_two_candidates_of_one_label_are_refused() -> None:
    line = _refused(ComparisonConfig, candidates=[CANDIDATE, CANDIDATE])
    assert line == "file.toml: two candidates have the label 'a'"


@pytest.mark.parametrize("label", ["teacher", "student"])
def test_no_candidate_and_no_strategy_of_a_run_takes_the_name_of_kdcores_own_rows(
    label: str,
) -> None:
    reason = f"file.toml: nothing may be called {label!r}: that row is kdcore's own"
    assert _refused(ComparisonConfig, candidates=[{**CANDIDATE, "label": label}]) == reason
    assert _refused(RunConfig, strategies=[{"name": "a", "label": label}]) == reason
    assert _refused(RunConfig, strategies=[{"name": label}]) == reason
    assert RunConfig.model_validate({"strategies": [{"name": label, "label": "own"}]}).strategies


def test_a_seed_twice_and_no_seed_are_refused() -> None:
    assert "seeds has a seed twice" in _refused(
        ComparisonConfig, candidates=[CANDIDATE], seeds=[1, 2, 1]
    )
    assert "seeds: " in _refused(ComparisonConfig, candidates=[CANDIDATE], seeds=[])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"views": 8}, "views would be ignored: there is no augmentation"),
        ({"flip": True, "magnitude": 3}, "magnitude would be ignored: only randaugment has it"),
        ({"mixup": 0.2, "cutmix": 1.0}, "mixup and cutmix exclude each other"),
        ({"crop": -1}, "crop: input should be greater than or equal to 0 (got -1)"),
        ({"resized_crop": 1.1}, "resized_crop: input should be less than or equal to 1"),
        ({"randaugment": 2, "magnitude": 31}, "magnitude: input should be less than or equal to"),
        ({"flip": True, "views": 0}, "views: input should be greater than or equal to 1 (got 0)"),
    ],
)
def test_an_augmentation_that_cannot_be_or_would_do_nothing_is_refused(
    values: dict[str, Any], message: str
) -> None:
    assert message in _refused(AugmentConfig, **values)
    AugmentConfig(flip=True, views=8)  # the control
    AugmentConfig(randaugment=2, magnitude=3)
