"""Torchvision's pretrained models, from a file beside the test whose hash is looked at."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights
from torchvision.transforms.v2.functional import to_pil_image

from kdcore.data.preprocess import Preprocess
from kdcore.errors import ModelError
from kdcore.models.from_torchvision import TorchvisionOffer
from tests.models.offered import NAME, offer_weights
from tests.models.pictures import smooth


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    return offer_weights(tmp_path, monkeypatch)


def _offer() -> TorchvisionOffer:
    return TorchvisionOffer(NAME, "teacher")


def _kept(tmp_path: Path) -> Path:
    (file,) = (tmp_path / "hub" / "checkpoints").iterdir()
    return file


def test_all_layers_begin_with_the_weights_that_are_offered(trained: dict[str, Tensor]) -> None:
    own = _offer().pretrained().state_dict()
    assert own.keys() == trained.keys()
    assert all(torch.equal(own[name], trained[name]) for name in own)


def test_a_head_of_other_classes_begins_anew_and_nothing_else(trained: dict[str, Tensor]) -> None:
    torch.manual_seed(1)
    model = _offer().with_new_head(7)
    own = model.state_dict()
    new = {name for name in own if own[name].shape != trained[name].shape}
    assert new == {"fc.weight", "fc.bias"}
    assert all(torch.equal(own[name], trained[name]) for name in own if name not in new)
    torch.manual_seed(1)
    again = _offer().with_new_head(7).state_dict()
    assert torch.equal(again["fc.weight"], own["fc.weight"])
    torch.manual_seed(2)
    assert not torch.equal(_offer().with_new_head(7).state_dict()["fc.weight"], own["fc.weight"])


@pytest.mark.usefixtures("trained")
def test_a_file_that_was_changed_is_refused_whenever_it_is_read(tmp_path: Path) -> None:
    _offer().pretrained()
    file = _kept(tmp_path)
    before = file.stat().st_mtime_ns
    _offer().pretrained()
    assert file.stat().st_mtime_ns == before  # it is downloaded once
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(
        ModelError, match=r"is not what it says: its SHA-256 begins with \w{8}, not"
    ):
        _offer().pretrained()
    file.unlink()
    _offer().pretrained()


def test_weights_that_cannot_be_downloaded_say_where_the_file_may_be_put(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = (tmp_path / "none" / "model-01234567.pth").as_uri()
    monkeypatch.setattr(TorchvisionOffer, "url", property(lambda _: nowhere))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(ModelError, match=r"cannot be downloaded.*put the file of .* at .*hub"):
        _offer().pretrained()
    assert not (tmp_path / "hub" / "checkpoints" / "model-01234567.pth").exists()


def test_every_file_of_torchvision_has_a_hash_in_its_name_and_a_square_that_kdcore_makes() -> None:
    from torchvision import models

    from kdcore.models.from_torchvision import HASH

    for name in models.list_models(module=models):
        offer = TorchvisionOffer(name, "teacher")
        assert HASH.search(offer.url), offer.url
        assert isinstance(offer.preprocess, Preprocess)
        assert len(offer.categories) == 1000


def test_images_are_wanted_as_torchvision_itself_prepares_them() -> None:
    view = get_model_weights("efficientnet_b0").DEFAULT.transforms()
    offer = TorchvisionOffer("efficientnet_b0", "teacher")
    assert offer.preprocess is not None
    for image in (smooth(300, 420), smooth(500, 233)):
        square = offer.preprocess.geometry.fit(image)
        own = offer.preprocess.normalise(square.unsqueeze(0))[0]
        expected = view(to_pil_image(image))
        assert own.shape == expected.shape
        # A step of 255 of what follows.
        assert float((own - expected).abs().max()) <= 1.01 / 255 / 0.224


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet17", "unknown torchvision model 'resnet17'; did you mean"),
        ("resnet50.IMAGENET1K_V3", "unknown weights of resnet50 'IMAGENET1K_V3'; did you mean"),
        ("fasterrcnn_resnet50_fpn", "unknown torchvision model"),
    ],
)
def test_names_that_are_not_known_are_refused(name: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        TorchvisionOffer(name, "teacher")


def test_the_weights_can_be_chosen_by_their_name() -> None:
    first, second = (TorchvisionOffer(f"resnet50.IMAGENET1K_V{n}", "t") for n in (1, 2))
    assert first.url != second.url
    assert first.preprocess != second.preprocess


def test_a_new_model_is_of_the_classes_that_are_wanted() -> None:
    model = _offer().fresh(3)
    assert isinstance(model.fc, nn.Linear)
    assert model.fc.out_features == 3


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_models_that_would_normalise_anew_are_given_what_they_would_make(name: str) -> None:
    """Torchvision's own have transform_input with pretrained weights: ImageNet's to 0.5."""
    offer = TorchvisionOffer(name, "teacher")
    assert offer.preprocess is not None
    size = offer.preprocess.size
    square = smooth(size, size)
    as_imagenet = get_model_weights(name).DEFAULT.transforms()
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (as_imagenet.mean, as_imagenet.std))
    normalised = ((square.float() / 255 - mean) / std).unsqueeze(0)
    own = offer.fresh(2)
    own.transform_input = True  # type: ignore[assignment]  # a flag of these two
    expected = own._transform_input(normalised)  # type: ignore[operator]
    assert torch.allclose(offer.preprocess.normalise(square.unsqueeze(0)), expected, atol=1e-5)
    assert not offer.fresh(2).transform_input
