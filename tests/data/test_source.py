from dataclasses import replace

import pytest
import torch
from torch.utils.data import TensorDataset

from kdcore.data.augment import Augment
from kdcore.data.geometry import Geometry
from kdcore.data.images import ArrayImages, LabelledImages
from kdcore.data.preprocess import Preprocess
from kdcore.data.source import Batch, DatasetSource, ImageSource, gathered
from kdcore.errors import DataError
from kdcore.sections import AugmentConfig

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


CROPS = AugmentConfig(crop=2, flip=True)


def test_both_models_see_one_view_at_their_own_size() -> None:
    large, small = Preprocess(8, (0.0,) * 3, (1.0,) * 3), Preprocess(4, (0.0,) * 3, (1.0,) * 3)
    indices = torch.tensor([0, 1])
    for student, teacher in ((large, small), (small, large)):
        source = ImageSource(_labelled(), student, teacher, None, Augment(CROPS))
        batch = source.batch(indices, 3)
        big, little = batch.inputs, batch.teacher_inputs
        if student == small:
            big, little = little, big
        shrunk = Geometry(4).fit((big * 255).round().to(torch.uint8))
        assert torch.allclose(little, shrunk / 255, atol=1e-6)


def test_a_view_comes_again_and_differs_from_others_and_from_the_image() -> None:
    plain = Preprocess(8, HALF, HALF)
    source = ImageSource(_labelled(), plain, None, None, Augment(CROPS))
    indices = torch.tensor([2, 0, 3])
    first = source.batch(indices, 1).inputs
    assert torch.equal(first, source.batch(indices, 1).inputs)
    assert torch.equal(first[1:2], source.batch(torch.tensor([0]), 1).inputs)
    assert not torch.equal(first, source.batch(indices, 2).inputs)
    assert not torch.equal(first, ImageSource(_labelled(), plain).batch(indices).inputs)


@pytest.mark.parametrize(
    ("augment", "views", "epochs"),
    [
        (AugmentConfig(), 1, [0, 0, 0, 0]),
        (CROPS, None, [0, 1, 2, 3]),
        (CROPS.model_copy(update={"views": 3}), 3, [0, 1, 2, 0]),
    ],
)
def test_a_source_says_how_many_views_it_has_and_which_an_epoch_sees(
    augment: AugmentConfig, views: int | None, epochs: list[int]
) -> None:
    source = ImageSource(_labelled(), Preprocess(8, HALF, HALF), None, None, Augment(augment))
    assert source.views == views
    assert [source.view(epoch) for epoch in range(4)] == epochs


def test_mixed_samples_say_with_what_and_how_much() -> None:
    mixing = Augment(AugmentConfig(mixup=1.0))
    source = ImageSource(_labelled(), Preprocess(8, (0.0,) * 3, (1.0,) * 3), None, None, mixing)
    indices = torch.arange(4)
    batch, mix = source.batch(indices), mixing.partners(indices, 0, source.targets, 8)
    assert batch.mixed is not None
    assert mix is not None
    assert torch.equal(batch.mixed.targets, source.targets[mix.partners])
    images = _labelled().images
    for row, (partner, share) in enumerate(zip(mix.partners, batch.mixed.share, strict=True)):
        own, other = images.read(row).float(), images.read(int(partner)).float()
        expected = (share * own + (1 - share) * other) / 255
        assert torch.allclose(batch.inputs[row], expected, atol=1 / 255)
    assert ImageSource(_labelled(), Preprocess(8, HALF, HALF)).batch(indices).mixed is None


def test_its_fingerprint_is_of_all_that_a_teacher_sees_and_of_nothing_else() -> None:
    one, two = Preprocess(8, HALF, HALF), Preprocess(8, (0.1,) * 3, HALF)
    relabelled = replace(_labelled(), targets=torch.tensor([1, 0, -100, 0]))
    other = ArrayImages(torch.zeros(4, 3, 8, 8, dtype=torch.uint8))
    base = ImageSource(_labelled(), one).fingerprint
    same = [
        ImageSource(_labelled(), two, one),  # what the student sees is its own matter
        ImageSource(relabelled, one),
        ImageSource(_labelled(), one, None, None, Augment(AugmentConfig())),
    ]
    different = [
        ImageSource(_labelled(), one, two),
        ImageSource(replace(_labelled(), images=other), one),
        ImageSource(_labelled().subset([1, 0, 2, 3]), one),
        ImageSource(_labelled(), one, None, None, Augment(CROPS)),
        ImageSource(_labelled(), one, None, None, Augment(CROPS.model_copy(update={"seed": 1}))),
        ImageSource(_labelled(), one, None, None, Augment(AugmentConfig(mixup=1.0))),
        ImageSource(relabelled, one, None, None, Augment(AugmentConfig(mixup=1.0))),
    ]
    assert {source.fingerprint for source in same} == {base}
    assert len({base, *(source.fingerprint for source in different)}) == len(different) + 1


@pytest.mark.parametrize("lie", ["view", "indices"])
def test_a_source_that_gives_other_samples_than_were_asked_for_is_found_out(lie: str) -> None:
    class Lying(ImageSource):
        def batch(self, indices: torch.Tensor, view: int = 0, *, teacher: bool = True) -> Batch:
            batch = super().batch(indices, view, teacher=teacher)
            if lie == "view":
                return replace(batch, view=0)
            return replace(batch, indices=torch.arange(2), host_indices=None)

    plain = Preprocess(8, HALF, HALF)
    indices = torch.tensor([3, 1])
    assert gathered(ImageSource(_labelled(), plain), indices, 1).view == 1  # the control
    with pytest.raises(DataError, match=r"Lying\.batch was asked for view 1 of \[3, 1\]"):
        gathered(Lying(_labelled(), plain), indices, 1)


def test_targets_may_be_numbers_or_of_any_shape() -> None:
    def targets(*given: object) -> torch.Tensor:
        return DatasetSource([(torch.zeros(1), each) for each in given], "x").targets

    assert targets(0.5, 2.0).dtype == torch.float32
    assert targets(torch.tensor([1, 2]), None).tolist() == [[1, 2], [-100, -100]]
    assert targets(torch.ones(2), None)[1].isnan().all()
    assert targets(torch.tensor(3, dtype=torch.uint8), 4).tolist() == [3, 4]


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([torch.zeros(2), torch.zeros(3)], r"x\[1\]: the target is float32 \[3\], that of x\[0\]"),
        ([1, 0.5], r"x\[1\]: the target is float32 \[\], that of x\[0\] int64 \[\]; all must"),
        ([1, torch.tensor(1j)], r"x\[1\]: the target is Tensor, expected the class"),
    ],
)
def test_targets_that_differ_in_kind_or_shape_are_refused(
    targets: list[object], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        DatasetSource([(torch.zeros(1), each) for each in targets], "x")


def test_inputs_that_cannot_be_stacked_are_refused() -> None:
    source = DatasetSource([(torch.zeros(1), 0), (torch.zeros(2), 1)], "x")
    with pytest.raises(DataError, match="x: inputs of a batch cannot be stacked"):
        source.batch(torch.arange(2))


def test_views_keep_what_a_model_is_tested_on() -> None:
    pixels = torch.zeros((1, 3, 32, 96), dtype=torch.uint8)
    pixels[..., :24] = 255  # the left quarter, which a middle square has nothing of
    data = LabelledImages(ArrayImages(pixels), torch.tensor([0]), ("a", "b"))
    zero, one = (0.0,) * 3, (1.0,) * 3
    squashed = Preprocess(16, zero, one, squash=True)
    flips = Augment(AugmentConfig(flip=True, views=2))
    for augment in (None, flips):
        source = ImageSource(data, squashed, augment=augment)
        assert float(source.batch(torch.tensor([0])).inputs.mean()) == pytest.approx(0.25, abs=0.01)
    with pytest.raises(DataError, match="some want images squashed"):
        ImageSource(data, squashed, Preprocess(16, zero, one), augment=flips)


def test_a_rim_is_left_out_of_views_as_it_is_of_images() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (2, 3, 24, 24), dtype=torch.uint8, generator=generator)
    data = LabelledImages(ArrayImages(pixels), torch.tensor([0, 1]), ("a", "b"))
    rimless = Preprocess(16, (0.0,) * 3, (1.0,) * 3, 24)
    plain = ImageSource(data, rimless).batch(torch.arange(2)).inputs
    views = ImageSource(data, rimless, augment=Augment(AugmentConfig(flip=True, views=8)))
    seen = [views.batch(torch.arange(2), view).inputs for view in range(8)]
    for index in range(2):
        ways = [torch.equal(each[index], plain[index]) for each in seen]
        turned = [torch.equal(each[index], plain[index].flip(-1)) for each in seen]
        assert any(ways)
        assert all(a or b for a, b in zip(ways, turned, strict=True))
