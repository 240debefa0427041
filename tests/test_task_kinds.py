"""Every kind of task that a file may name is one, with the settings that belong to it."""

from typing import Any, get_args

import pytest

from kdcore.configfile import as_comparison, as_run
from kdcore.errors import ConfigError
from kdcore.sections import Kind, TaskConfig, TrainConfig
from kdcore.task_kinds import task_of

LOGITS = [{"name": "logits"}]


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_kind_is_the_task_of_its_name(kind: str) -> None:
    task = task_of(TaskConfig.model_validate({"kind": kind}), TrainConfig())
    assert task.kind == task.facts()["kind"] == kind


def test_settings_reach_the_task() -> None:
    def facts(kind: str, smoothing: float = 0.0, **keys: Any) -> dict[str, object]:
        config = TaskConfig.model_validate({"kind": kind, **keys})
        return task_of(config, TrainConfig(label_smoothing=smoothing)).facts()

    assert facts("regression")["loss"] == "squared"
    assert facts("regression", loss="huber")["loss"] == "huber"
    for kind in ("classification", "segmentation", "sequences"):
        assert facts(kind, 0.2)["label_smoothing"] == 0.2
    measured = facts("none", metric="math:hypot", metric_name="far", higher_is_better=False)
    assert (measured["metric"], measured["score"]) == ("math:hypot", ["far", False])


def _refused(tree: dict[str, Any], *, compared: bool = False) -> str:
    with pytest.raises(ConfigError) as caught:
        (as_comparison if compared else as_run)(tree, "file.toml")
    return str(caught.value)


OWN = {"name": "my_data:sets"}


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"task": {"kind": "counting"}}, "task.kind: input should be 'classification'"),
        ({"task": {"loss": "huber"}}, "task: loss would be ignored: only kind = 'regression'"),
        ({"task": {"metric": "a:b"}}, "metric would be ignored: only kind = 'none' has it"),
        ({"task": {"kind": "none", "metric": "ab"}}, "task.metric"),
        (
            {"task": {"kind": "none", "metric_name": "far"}, "strategies": LOGITS},
            "task: metric_name would be ignored: only metric has it",
        ),
        ({"task": {"kind": "none"}}, "learns from strategies alone: give some"),
        (
            {"task": {"kind": "regression"}},
            "needs other data than digits: data.name = 'csv' or 'package.module:callable'",
        ),
        (
            {"task": {"kind": "sequences"}, "data": {"name": "csv", "root": "x"}},
            "needs other data than csv: data.name = 'package.module:callable'",
        ),
        (
            {"task": {"kind": "regression"}, "data": OWN, "train": {"label_smoothing": 0.1}},
            "label_smoothing would be ignored: regression has no classes",
        ),
        (
            {
                "task": {"kind": "regression"},
                "data": {"name": "csv", "root": "x"},
                "augment": {"mixup": 0.2},
            },
            "mixup and cutmix mix the classes of images, not regression",
        ),
        ({"data": OWN, "augment": {"flip": True}}, "augment would be ignored: my_data:sets brings"),
        ({"data": OWN, "student": {"image_size": 8}}, "student.image_size would be ignored"),
        ({"data": {**OWN, "root": "x"}}, "data: root would be ignored: my_data:sets brings"),
        ({"data": {**OWN, "keep": "never"}}, "data: keep would be ignored"),
        ({"data": {**OWN, "group_by": "a"}}, "group_by would be ignored"),
    ],
)
def test_what_a_task_or_its_data_do_not_use_is_refused(tree: dict[str, Any], words: str) -> None:
    assert words in _refused(tree)


def test_a_stage_or_teacher_that_smooths_labels_of_no_classes_is_refused() -> None:
    base = {"task": {"kind": "regression"}, "data": OWN}
    smooth = {"label_smoothing": 0.1}
    assert "no classes" in _refused({**base, "teacher": {"train": smooth}})
    stages = [{"strategies": LOGITS, "train": smooth}, {}]
    assert "no classes" in _refused({**base, "stages": stages})
    assert as_run({**base, "task": {"kind": "sequences"}, "train": smooth}, "file.toml")


def test_every_import_of_an_experiment_is_named() -> None:
    tree = {
        "task": {"kind": "none", "metric": "my_metrics:far"},
        "data": OWN,
        "student": {"model": "my_models:small"},
        "strategies": LOGITS,
    }
    names = as_run(tree, "file.toml").imports
    assert names == ("my_models:small", "my_data:sets", "my_metrics:far")
    assert as_run({}, "file.toml").imports == ()
