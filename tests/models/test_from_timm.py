"""timm's models by name: what they are, and how they want images."""

import pytest
import torch
from torch import nn
from torchvision.transforms.v2.functional import to_pil_image

from kdcore.errors import ModelError
from kdcore.models.from_timm import TimmOffer
from tests.extras import needed
from tests.models.pictures import smooth

timm = needed("timm")


def test_images_are_wanted_as_timm_itself_prepares_them() -> None:
    name = "resnet10t.c3_in1k"
    offer = TimmOffer(name, "teacher")
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    view = timm.data.create_transform(**config, is_training=False)
    assert offer.preprocess is not None
    for image in (smooth(260, 420), smooth(500, 233)):
        expected = view(to_pil_image(image))
        own = offer.preprocess.normalise(offer.preprocess.geometry.fit(image).unsqueeze(0))[0]
        assert own.shape == expected.shape
        assert float((own - expected).abs().max()) <= 1.01 / 255 / 0.224


def test_a_new_model_is_of_the_classes_that_are_wanted() -> None:
    model = TimmOffer("resnet10t", "teacher").fresh(3).eval()
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


def test_transformers_of_vision_are_of_one_size() -> None:
    assert TimmOffer("vit_tiny_patch16_224", "teacher").fixed
    assert not TimmOffer("resnet10t", "teacher").fixed


def test_imagenets_classes_have_their_names() -> None:
    categories = TimmOffer("resnet10t", "teacher").categories
    assert len(categories) == 1000
    assert categories[0].startswith("tench")


def test_weights_that_cannot_be_had_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> nn.Module:
        raise RuntimeError("no\nnetwork")

    offer = TimmOffer("resnet10t", "teacher")
    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(ModelError, match=r"weights cannot be had \(RuntimeError: no network\)"):
        offer.pretrained()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet10", "unknown timm model 'resnet10'; did you mean"),
        ("resnet10t.c4_in1k", "unknown weights of timm/resnet10t 'c4_in1k'; did you mean"),
    ],
)
def test_names_that_are_not_known_are_refused(name: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        TimmOffer(name, "teacher")
