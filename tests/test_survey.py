"""One model and the taps that a run asks of it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdcore.devices import device_of
from kdcore.errors import ModelError, TapError
from kdcore.models.tutorial import LightNN
from kdcore.survey import Survey
from kdcore.taps import TapAddress

X = torch.zeros(5, 3, 8, 8)


class Counting(nn.Module):
    """Counts its passes, and the samples of each."""

    def __init__(self) -> None:
        super().__init__()
        self.model = LightNN(num_classes=7, image_size=8)
        self.passes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.passes.append(len(x))
        logits: Tensor = self.model(x)
        return logits


def _survey(model: nn.Module | None = None, sample: Any = X) -> Survey:
    return Survey(LightNN(7, 8) if model is None else model, sample, "student")


def test_roles_are_resolved_to_addresses_in_their_order() -> None:
    survey = _survey()
    roles = survey.resolve({"hint": "features.2", "pair": ["features.4", "features.1:input"]})
    texts = {role: [str(address) for address in taps] for role, taps in roles.items()}
    assert texts == {"hint": ["features.2"], "pair": ["features.4", "features.1:input"]}


def test_automatic_taps_are_found_and_told() -> None:
    survey = _survey()
    roles = survey.resolve({"maps": "auto:stages", "hidden": "auto:embedding"})
    assert [str(address) for address in roles["hidden"]] == ["classifier:input"]
    assert len(roles["maps"]) == 3  # 8, 4 and 2 pixels
    assert survey.automatic == {"stages": roles["maps"], "embedding": roles["hidden"]}


def test_automatic_and_named_taps_may_stand_in_one_role() -> None:
    roles = _survey().resolve({"both": ["features.0", "auto:feature_map"]})
    assert [str(address) for address in roles["both"]] == ["features.0", "features"]


def test_what_several_strategies_ask_for_is_wanted_once_in_the_order_of_asking() -> None:
    survey = _survey()
    survey.resolve({"a": "features.4", "b": "features.2"})
    survey.resolve({"a": "features.2:output", "c": "classifier"})
    assert [str(address) for address in survey.wanted] == ["features.4", "features.2", "classifier"]


def test_the_model_runs_twice_in_all_on_two_samples() -> None:
    model = Counting()
    survey = _survey(model)
    for _ in range(3):
        roles = survey.resolve({"maps": "auto:stages", "hidden": "auto:embedding"})
    for _ in range(3):
        survey.shapes(roles)
    assert model.passes == [2, 2]


def test_without_automatic_taps_it_runs_once() -> None:
    model = Counting()
    survey = _survey(model)
    survey.shapes(survey.resolve({"maps": "model.features"}))
    assert model.passes == [2]


def test_shapes_are_those_of_a_small_batch() -> None:
    survey = _survey()
    shapes = survey.shapes(survey.resolve({"hint": "features", "maps": "auto:stages"}))
    assert shapes["hint"] == (2, 16, 2, 2)
    assert [tuple(shape) for shape in shapes.all("maps")] == [
        (2, 16, 8, 8),
        (2, 16, 4, 4),
        (2, 16, 2, 2),
    ]
    assert shapes.logits == (2, 7)
    assert survey.class_count == 7


@pytest.mark.parametrize("inplace", [True, False])
def test_taps_to_be_copied_are_those_that_the_probe_saw_overwritten(inplace: bool) -> None:
    survey = _survey(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace)))
    roles = survey.resolve({"before": "0", "after": "1"})
    assert survey.keep == frozenset()
    survey.shapes(roles)
    assert survey.keep == ({TapAddress("0")} if inplace else set())


def test_a_class_count_is_not_known_before_the_model_ran() -> None:
    assert _survey().class_count is None


def test_a_named_tap_needs_no_sample() -> None:
    assert _survey(sample=None).resolve({"hint": "features"})


def test_what_needs_a_sample_says_so() -> None:
    survey = _survey(sample=None)
    with pytest.raises(ModelError, match=r"^student: strategies need a sample.*sample_input="):
        survey.resolve({"hint": "auto:feature_map"})
    with pytest.raises(ModelError, match=r"pass sample_input="):
        survey.shapes({})


def test_a_module_that_does_not_exist_is_refused_before_anything_runs() -> None:
    model = Counting()
    with pytest.raises(TapError, match=r"^student: unknown module 'model\.feature'; did you mean"):
        _survey(model).resolve({"hint": "model.feature"})
    assert model.passes == []


def test_a_models_device_is_that_of_its_first_parameter_or_buffer() -> None:
    assert device_of(nn.Linear(2, 2, device="meta")) == torch.device("meta")
    statistics = nn.BatchNorm1d(2, affine=False, device="meta")
    assert device_of(statistics) == torch.device("meta")
    assert device_of(nn.ReLU()) == torch.device("cpu")
