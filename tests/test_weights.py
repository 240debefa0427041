"""Weights that move: by hand, in files, in losses."""

import math
from typing import Any

import pytest
import torch

from kdcore import Distiller, Moving
from kdcore.configfile import as_run, as_toml, read_file
from kdcore.errors import ConfigError
from kdcore.testing import small_student, small_teacher
from kdcore.weights import scaled, weight_at, weight_text

HALF = math.cos(math.pi / 4)  # a quarter of the way of a cosine from 1 to 0 is (1 + this) / 2


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ({"start": 0.5}, [0.5, 0.5, 0.5]),
        ({"start": 0.0, "end": 1.0, "epochs": 5, "shape": "linear"}, [0, 0.25, 0.5, 0.75, 1, 1]),
        ({"start": 2.0, "end": 1.0, "epochs": 1, "shape": "linear"}, [1, 1]),
        (
            {"start": 1.0, "end": 0.0, "epochs": 5, "shape": "cosine"},
            [1, (1 + HALF) / 2, 0.5, (1 - HALF) / 2, 0, 0],
        ),
        (
            {"start": 1.0, "shape": "step", "milestones": [1, 3]},
            [1, 0.1, 0.1, 0.01],
        ),
        (
            {"start": 1.0, "shape": "step", "milestones": [2], "gamma": 0.0},
            [1, 1, 0, 0],
        ),
        ({"start": 3.0, "warmup": 2}, [1, 2, 3, 3]),
        (
            {"start": 4.0, "end": 0.0, "epochs": 3, "shape": "linear", "warmup": 1},
            [2, 2, 0],
        ),
    ],
)
def test_each_shape_has_its_values(given: dict[str, Any], values: list[float]) -> None:
    moving = Moving.model_validate(given)
    assert [moving.at(epoch) for epoch in range(len(values))] == pytest.approx(values)
    assert [scaled(moving, 0.5).at(epoch) for epoch in range(len(values))] == pytest.approx(  # type: ignore[union-attr]
        [value / 2 for value in values]
    )


def test_a_number_stays_one() -> None:
    assert weight_at(0.25, 7) == 0.25
    assert scaled(3.0, 0.5) == 1.5
    assert weight_text(0.25) == "0.25"


RUN = """
task_weight = { start = 1.0, end = 0.5, epochs = 3, shape = "linear" }
strategies = [{ name = "logits", weight = { start = 0.8, warmup = 3 } }]
[data]
name = "digits"
"""


def test_they_are_read_from_files_and_written_again(tmp_path: Any) -> None:
    file = tmp_path / "run.toml"
    file.write_text(RUN)
    config = as_run(read_file(file), "run")
    assert config.strategies[0].weight == Moving(start=0.8, warmup=3)
    assert weight_at(config.task_weight or 0.0, 1) == 0.75
    file.write_text(as_toml(config))
    assert as_run(read_file(file), "again") == config


@pytest.mark.parametrize(
    ("weight", "said"),
    [
        ({"start": 1.0, "end": 2.0}, "end would be ignored: only shape = 'linear or cosine'"),
        ({"start": 1.0, "shape": "linear", "end": 0.0}, "shape = 'linear' needs epochs"),
        ({"start": 1.0, "shape": "step"}, "shape = 'step' needs milestones"),
        ({"start": 1.0, "shape": "step", "milestones": [3, 2]}, "milestones must rise"),
        ({"begin": 1.0}, "unknown key 'begin'"),
        ({"start": -1.0}, "start: .*greater than or equal to 0"),
        ({"start": float("nan")}, "start: .*finite"),
        (-0.5, "weight: .*greater than or equal to 0"),
        ("much", "weight: .*valid number"),
    ],
)
def test_a_wrong_one_is_one_line_that_names_its_key(weight: object, said: str) -> None:
    tree = {"strategies": [{"name": "logits", "weight": weight}], "data": {"name": "digits"}}
    with pytest.raises(ConfigError, match=said) as caught:
        as_run(tree, "run")
    assert "strategies.0.weight" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_losses_are_weighted_by_epoch_and_logged_unweighted() -> None:
    torch.manual_seed(0)
    images, targets = torch.randn(6, 3, 16, 16), torch.arange(6) % 5
    moving = {"start": 0.0, "end": 1.0, "epochs": 3, "shape": "linear"}
    with Distiller(
        small_teacher(),
        small_student(),
        [{"name": "logits", "weight": moving}],
        task_weight=Moving(start=1.0, shape="step", milestones=(1,), gamma=0.5),
        sample_input=images,
    ) as distiller:
        for epoch, (task, auxiliary) in enumerate([(1.0, 0.0), (0.5, 0.5), (0.5, 1.0)]):
            distiller.epoch = epoch
            losses = distiller(images, targets)
            assert losses.weights == {"logits": auxiliary}
            soft = losses.auxiliary["logits"].item()
            assert losses.total.item() == pytest.approx(
                task * losses.task.item() + auxiliary * soft
            )
            assert soft > 0
