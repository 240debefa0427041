"""QuickCNN: its size, the images that it takes, and that it can be named."""

import pytest
import torch

from kdcore.models.build import build_model
from kdcore.models.quick import QuickCNN
from kdcore.sections import ModelConfig


def test_it_has_the_parameters_that_the_documentation_says() -> None:
    assert sum(each.numel() for each in QuickCNN().parameters()) == 562_598


@pytest.mark.parametrize("side", [16, 32, 64])
def test_it_gives_a_logit_a_class_for_images_of_many_sides(side: int) -> None:
    assert QuickCNN(num_classes=7)(torch.zeros(2, 3, side, side)).shape == (2, 7)


def test_images_that_its_pooling_leaves_nothing_of_are_refused() -> None:
    with pytest.raises(RuntimeError, match="too small"):
        QuickCNN()(torch.zeros(2, 3, 8, 8))


def test_it_is_built_by_name_with_the_classes_of_the_data() -> None:
    model = build_model(ModelConfig(model="quickcnn"), 5, 32, "teacher")

    assert isinstance(model, QuickCNN)
    assert model.fc.out_features == 5
