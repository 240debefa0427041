"""From the section ``[task]`` to the task."""

from collections.abc import Callable

from kdcore.errors import ConfigError
from kdcore.imports import imported
from kdcore.positions import Segmentation, Sequences
from kdcore.sections import TaskConfig, TrainConfig
from kdcore.tasks import ACCURACY, MACRO_F1, Classification, Task
from kdcore.values import MultiLabel, NoTask, Regression


def task_of(config: TaskConfig, train: TrainConfig) -> Task:
    """Make the task of a training.

    Args:
        config: which task.
        train: the training, whose label smoothing belongs to it.

    Raises:
        ConfigError: its metric cannot be imported.
    """
    return _KINDS[config.kind](config, train)


def _no_task(config: TaskConfig, _: TrainConfig) -> NoTask:
    metric = config.metric and imported(config.metric, "task.metric", ConfigError)
    higher = config.higher_is_better is not False
    return NoTask(metric or None, config.metric_name or "score", higher_is_better=higher)


_KINDS: dict[str, Callable[[TaskConfig, TrainConfig], Task]] = {
    "classification": lambda config, train: Classification(
        train.label_smoothing, MACRO_F1 if config.select == "macro-f1" else ACCURACY
    ),
    "multi-label": lambda _, train: MultiLabel(),  # noqa: ARG005
    "regression": lambda config, _: Regression(config.loss or "squared"),
    "segmentation": lambda _, train: Segmentation(train.label_smoothing),
    "sequences": lambda _, train: Sequences(train.label_smoothing),
    "none": _no_task,
}
