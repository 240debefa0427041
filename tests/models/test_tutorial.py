"""The tutorial's networks, against the numbers that its page prints."""

import pytest
import torch
from torch import nn

from kdcore.models.tutorial import DeepNN, LightNN


@pytest.mark.parametrize(("network", "count"), [(DeepNN, 1_186_986), (LightNN, 267_738)])
def test_they_have_as_many_parameters_as_the_page_prints(
    network: type[DeepNN] | type[LightNN], count: int
) -> None:
    assert sum(parameter.numel() for parameter in network().parameters()) == count


def test_the_student_of_seed_42_has_the_first_layer_that_the_page_prints() -> None:
    torch.manual_seed(42)
    first = LightNN().features[0]
    assert isinstance(first, nn.Conv2d)
    assert first.weight.norm().item() == pytest.approx(2.327361822128296, rel=1e-7)


@pytest.mark.parametrize(
    ("network", "features"), [(DeepNN, (2, 32, 8, 8)), (LightNN, (2, 16, 8, 8))]
)
def test_their_features_have_the_shapes_that_the_page_prints(
    network: type[DeepNN] | type[LightNN], features: tuple[int, ...]
) -> None:
    model, images = network(), torch.zeros(2, 3, 32, 32)
    assert tuple(model.features(images).shape) == features
    assert tuple(model(images).shape) == (2, 10)


@pytest.mark.parametrize("network", [DeepNN, LightNN])
def test_other_classes_and_sizes_of_images_can_be_had(
    network: type[DeepNN] | type[LightNN],
) -> None:
    model = network(num_classes=7, image_size=16)
    assert tuple(model(torch.zeros(1, 3, 16, 16)).shape) == (1, 7)
