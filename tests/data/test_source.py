import pytest
import torch
from torch.utils.data import TensorDataset

from kdcore.data.images import ArrayImages, LabelledImages
from kdcore.data.preprocess import Preprocess
from kdcore.data.source import DatasetSource, ImageSource
from kdcore.errors import DataError

HALF = (0.5, 0.5, 0.5)


def _labelled() -> LabelledImages:
    pixels = torch.arange(4 * 3 * 8 * 8, dtype=torch.int64).remainder(256).to(torch.uint8)
    images = ArrayImages(pixels.view(4, 3, 8, 8))
    return LabelledImages(images, torch.tensor([0, 1, -100, 1]), ("a", "b"))


def test_models_that_want_the_same_images_share_one_tensor() -> None:
    batch = ImageSource(_labelled(), Preprocess(8, HALF, HALF)).batch(torch.tensor([3, 0]))
    assert batch.teacher_inputs is batch.inputs
    moved = batch.to(torch.device("cpu"))
    assert moved.teacher_inputs is moved.inputs
    assert batch.targets.tolist() == [1, 0]
    assert batch.indices.tolist() == [3, 0]


def test_each_model_has_the_same_samples_at_its_own_size_and_normalisation() -> None:
    source = ImageSource(_labelled(), Preprocess(8, HALF, HALF), Preprocess(4, (0.0,) * 3, HALF))
    batch = source.batch(torch.tensor([0, 1]))
    assert batch.inputs.shape == (2, 3, 8, 8)
    assert batch.teacher_inputs.shape == (2, 3, 4, 4)
    alone = ImageSource(_labelled(), Preprocess(4, (0.0,) * 3, HALF)).batch(torch.tensor([0, 1]))
    assert torch.equal(batch.teacher_inputs, alone.inputs)


def test_a_users_data_set_is_gathered_by_index() -> None:
    inputs = torch.arange(6.0).view(3, 2)
    source = DatasetSource(TensorDataset(inputs, torch.tensor([1, 0, 1])), "train_data")
    batch = source.batch(torch.tensor([2, 0]))
    assert torch.equal(batch.inputs, inputs[[2, 0]])
    assert source.targets.tolist() == [1, 0, 1]


def test_a_target_of_none_is_no_label() -> None:
    assert DatasetSource([(torch.zeros(1), None)], "train_data").targets.tolist() == [-100]


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "train_data is empty"),
        ([torch.zeros(2)], r"train_data\[0\] is Tensor, expected \(input, target\)"),
        ([(torch.zeros(1), "cat")], r"train_data\[0\]: the target is str"),
    ],
)
def test_a_data_set_that_is_none_is_refused(samples: list[object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        DatasetSource(samples, "train_data")
