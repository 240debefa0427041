import math

import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from kdcore.data.augment import Augment, Mix
from kdcore.data.chance import uniform
from kdcore.data.randaugment import randaugment
from kdcore.errors import DataError
from kdcore.sections import AugmentConfig

SIZE = 13
BATCH = 24
INDICES = torch.arange(BATCH) * 37 + 5

SETTINGS = {
    "crop and flip": AugmentConfig(crop=3, flip=True),
    "resized crop": AugmentConfig(resized_crop=0.2),
    "RandAugment": AugmentConfig(randaugment=2),
    "everything": AugmentConfig(resized_crop=0.3, crop=2, flip=True, randaugment=1),
}
every_setting = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())


def _augment(settings: AugmentConfig, seed: int) -> Augment:
    return Augment(settings.model_copy(update={"seed": seed}))


def _images(count: int = BATCH, size: int = SIZE) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    # None is black, so that padding is told from the image.
    return torch.randint(1, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def _whole(draw: str, count: int, index: int, seed: int, view: int) -> int:
    return math.floor(count * float(uniform(seed, view, torch.tensor([index]), draw)))


# Replay


@every_setting
def test_a_view_of_a_sample_is_the_same_alone_in_another_batch_and_in_another_order(
    settings: AugmentConfig,
) -> None:
    images = _images()
    augment = _augment(settings, 1)
    seen = augment.augment(images, INDICES, 4)
    again = _augment(settings, 1)
    for some in (torch.tensor([7]), torch.arange(BATCH).flip(0), torch.tensor([3, 20, 3, 9, 1])):
        assert torch.equal(again.augment(images[some], INDICES[some], 4), seen[some])


@every_setting
def test_views_seeds_and_samples_differ(settings: AugmentConfig) -> None:
    images = _images(1).expand(BATCH, -1, -1, -1)
    seen = _augment(settings, 1).augment(images, INDICES, 0)
    assert not torch.equal(seen, images)
    assert not torch.equal(seen, _augment(settings, 1).augment(images, INDICES, 1))
    assert not torch.equal(seen, _augment(settings, 2).augment(images, INDICES, 0))
    assert len({str(image.tolist()) for image in seen}) > BATCH / 2


@every_setting
def test_the_layout_is_kept_and_does_not_change_the_pixels(settings: AugmentConfig) -> None:
    images = _images()
    last = images.contiguous(memory_format=torch.channels_last)
    augment = _augment(settings, 1)
    seen, seen_last = augment.augment(images, INDICES, 0), augment.augment(last, INDICES, 0)
    assert torch.equal(seen, seen_last)
    assert seen.is_contiguous()
    assert seen_last.is_contiguous(memory_format=torch.channels_last)


@every_setting
def test_the_images_that_are_given_stay_as_they_were(settings: AugmentConfig) -> None:
    images = _images()
    before = images.clone()
    _augment(settings, 1).augment(images, INDICES, 0)
    assert torch.equal(images, before)


# Crop and flip


@pytest.mark.parametrize(("crop", "flip"), [(3, True), (3, False), (0, True)])
def test_a_crop_is_what_torchvision_cuts_of_the_padded_image(crop: int, flip: bool) -> None:
    images = _images()
    seen = _augment(AugmentConfig(crop=crop, flip=flip), 9).augment(images, INDICES, 2)
    for place, index in enumerate(INDICES.tolist()):
        top = _whole("crop row", 2 * crop + 1, index, 9, 2)
        left = _whole("crop column", 2 * crop + 1, index, 9, 2)
        mirrored = flip and _whole("flip", 2, index, 9, 2) == 0
        cut = F.crop(F.pad(images[place], [crop] * 4), top, left, SIZE, SIZE)
        assert torch.equal(seen[place], F.hflip(cut) if mirrored else cut)


def test_every_other_image_is_mirrored_and_offsets_are_uniform() -> None:
    count = 5000
    # Each image says in its pixels which row and column they come from.
    place = torch.arange(1, 6, dtype=torch.uint8)
    image = torch.stack([place[:, None].expand(5, 5), place.expand(5, 5), place.expand(5, 5)])
    images = image.expand(count, -1, -1, -1)
    indices = torch.arange(count)
    seen = _augment(AugmentConfig(crop=2, flip=True), 4).augment(images, indices, 0)
    row, column = seen[:, 0, 2, 2], seen[:, 1, 2, 2]
    # To the left of column n lies column n - 1, or black left of the first, unless mirrored.
    mirrored = seen[:, 1, 2, 1] != column - 1
    assert stats.chisquare(torch.bincount(row.long())[1:].numpy()).pvalue > 0.001
    assert stats.chisquare(torch.bincount(column.long())[1:].numpy()).pvalue > 0.001
    assert stats.binomtest(int(mirrored.sum()), count).pvalue > 0.001


# Resized crop


def _window(index: int, smallest: float, seed: int, view: int) -> tuple[int, int, int, int]:
    """Draw as torchvision does, from the numbers of one sample."""

    def number(draw: str) -> float:
        return float(uniform(seed, view, torch.tensor([index]), draw))

    height = width = SIZE
    for turn in range(10):
        area = SIZE**2 * (smallest + (1 - smallest) * number(f"area {turn}"))
        aspect = math.exp((2 * number(f"aspect {turn}") - 1) * math.log(4 / 3))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= SIZE and 0 < h <= SIZE:
            height, width = h, w
            break
    top = math.floor((SIZE - height + 1) * number("window row"))
    return top, math.floor((SIZE - width + 1) * number("window column")), height, width


@pytest.mark.parametrize("smallest", [0.05, 0.7, 1.0])
def test_a_resized_crop_is_what_torchvision_makes_of_the_window(smallest: float) -> None:
    images = _images()
    seen = _augment(AugmentConfig(resized_crop=smallest), 9).augment(images, INDICES, 2)
    for place, index in enumerate(INDICES.tolist()):
        window = _window(index, smallest, 9, 2)
        expected = F.resized_crop(images[place], *window, [SIZE, SIZE], antialias=True)
        assert (seen[place].int() - expected.int()).abs().max() <= 1


def test_the_whole_image_is_seen_where_no_smaller_crop_may_be() -> None:
    images = _images()
    seen = _augment(AugmentConfig(resized_crop=1.0), 0).augment(images, INDICES, 0)
    whole = torch.tensor([_window(i, 1.0, 0, 0)[2:] == (SIZE, SIZE) for i in INDICES.tolist()])
    assert whole.any()
    assert torch.equal(seen[whole], images[whole])


# RandAugment


def test_operations_follow_each_other_each_drawn_for_itself() -> None:
    images = _images()
    seen = _augment(AugmentConfig(randaugment=2, magnitude=12), 9).augment(images, INDICES, 2)
    for place, index in enumerate(INDICES.tolist()):
        image = images[place : place + 1]
        for turn in range(2):
            operation = _whole(f"operation {turn}", 14, index, 9, 2)
            opposite = _whole(f"sign {turn}", 2, index, 9, 2) == 0
            image = randaugment(image, [operation], [opposite], 12)
        assert torch.equal(seen[place], image[0])


# Mixing

TARGETS = torch.tensor([-100, 3, -100, 1, 0, -100, -100, 2, -100, -100] * 30)


def _mix(settings: AugmentConfig, indices: Tensor, seed: int = 1, view: int = 0) -> Mix:
    mix = _augment(settings, seed).partners(indices, view, TARGETS, SIZE)
    assert mix is not None
    return mix


MIXES = {"mixup": AugmentConfig(mixup=0.4), "cutmix": AugmentConfig(cutmix=1.0)}
every_mix = pytest.mark.parametrize("settings", MIXES.values(), ids=MIXES.keys())


def test_nothing_is_mixed_where_the_settings_do_not_say_so() -> None:
    augment = _augment(AugmentConfig(flip=True), 0)
    assert augment.partners(INDICES % 300, 0, TARGETS, SIZE) is None


@every_mix
def test_partners_have_labels_as_the_samples_do_and_are_any_of_the_data_set(
    settings: AugmentConfig,
) -> None:
    indices = torch.arange(len(TARGETS))
    partners = torch.cat([_mix(settings, indices, view=view).partners for view in range(10)])
    assert partners.min() == 0
    assert partners.max() == len(TARGETS) - 1
    assert torch.equal(TARGETS[partners] == -100, (TARGETS == -100).repeat(10))
    for labelled in (True, False):
        counts = torch.bincount(partners, minlength=len(TARGETS))[(TARGETS != -100) == labelled]
        assert stats.chisquare(counts.numpy()).pvalue > 0.001


@every_mix
@pytest.mark.parametrize("target", [4, -100])
def test_partners_are_found_where_all_samples_are_labelled_or_none_is(
    settings: AugmentConfig, target: int
) -> None:
    targets = torch.full((5,), target)
    mix = _augment(settings, 0).partners(torch.arange(5), 0, targets, SIZE)
    assert mix is not None
    assert 0 <= int(mix.partners.min()) <= int(mix.partners.max()) < 5


@every_mix
def test_a_mix_does_not_depend_on_the_batch_but_on_view_and_seed(
    settings: AugmentConfig,
) -> None:
    indices = torch.arange(len(TARGETS))
    mix, some = _mix(settings, indices), torch.tensor([40, 2, 40, 299])
    again = _mix(settings, indices[some])
    assert torch.equal(again.partners, mix.partners[some])
    assert torch.equal(again.share, mix.share[some])
    if mix.boxes is not None and again.boxes is not None:
        assert torch.equal(again.boxes, mix.boxes[some])
    for other in (_mix(settings, indices, view=1), _mix(settings, indices, seed=2)):
        assert not torch.equal(other.partners, mix.partners)
        assert not torch.equal(other.share, mix.share)


def test_shares_of_mixup_are_the_larger_ones_of_the_beta_distribution() -> None:
    views = [_mix(AugmentConfig(mixup=0.4), torch.arange(300), view=view) for view in range(20)]
    share = torch.cat([mix.share for mix in views])
    assert share.dtype == torch.float32
    assert share.min() >= 0.5
    quantile = 2 * stats.beta.cdf(share.double().numpy(), 0.4, 0.4) - 1
    assert stats.kstest(quantile, "uniform").pvalue > 0.001


def test_mixup_is_the_mean_weighted_by_the_shares() -> None:
    own, other = _images(), _images().flip(0)
    mix = _mix(AugmentConfig(mixup=1.0), INDICES % 300)
    share = mix.share.double().view(-1, 1, 1, 1)
    exact = own * share + other * (1 - share)
    mixed = mix.pixels(own, other)
    assert mixed.dtype == torch.uint8
    assert (mixed - exact).abs().max() < 0.5 + 1e-4


def test_cutmix_pastes_the_box_of_the_partner_and_its_area_is_the_partners_share() -> None:
    mix = _mix(AugmentConfig(cutmix=1.0), torch.arange(300))
    own, other = torch.zeros(300, 3, SIZE, SIZE, dtype=torch.uint8), _images(300)
    mixed = mix.pixels(own, other)
    assert mix.boxes is not None
    for place, (top, left, bottom, right) in enumerate(mix.boxes.tolist()):
        expected = own[place].clone()
        expected[:, top:bottom, left:right] = other[place, :, top:bottom, left:right]
        assert torch.equal(mixed[place], expected)
    pasted = (mixed[:, 0] > 0).double().mean((1, 2))
    assert torch.allclose(mix.share.double(), 1 - pasted, rtol=0, atol=1e-6)
    assert mix.share.min() >= 0.5
    assert pasted.max() > 0.4
    assert mix.boxes.min() == 0
    assert mix.boxes.max() == SIZE


@every_mix
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_mixing_keeps_the_layout(settings: AugmentConfig, layout: torch.memory_format) -> None:
    mix = _mix(settings, INDICES % 300)
    own, other = _images(), _images().flip(0)
    mixed = mix.pixels(own.contiguous(memory_format=layout), other)
    assert mixed.is_contiguous(memory_format=layout)
    assert torch.equal(mixed, mix.pixels(own, other))


# What is known of it


CHANGES: list[dict[str, object]] = [
    {"resized_crop": 0.2},
    {"crop": 4},
    {"flip": True},
    {"randaugment": 2},
    {"mixup": 0.2},
    {"cutmix": 1.0},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_each_kind_of_augmentation_makes_it_active(change: dict[str, object]) -> None:
    assert not _augment(AugmentConfig(seed=5), 0).active
    assert _augment(AugmentConfig(**change), 0).active


def test_the_canonical_text_tells_apart_all_that_changes_a_view_and_nothing_else() -> None:
    plain = AugmentConfig()
    variants = [plain.model_copy(update=c) for c in [*CHANGES, {"magnitude": 3}]]  # type: ignore[arg-type]
    texts = [_augment(settings, 0).canonical for settings in (plain, *variants)]
    # One for the plain settings, and one for each key that says what is done to an image.
    named = AugmentConfig.model_fields.keys() - {"views", "image_size"}
    assert len({*texts, _augment(plain, 1).canonical}) == 1 + len(named)
    assert _augment(plain.model_copy(update={"views": 7}), 0).canonical == texts[0]


@pytest.mark.parametrize(
    ("pixels", "count"),
    [
        (torch.zeros(2, 3, 8, 8), 2),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), 2),
        (torch.zeros(2, 3, 8, 9, dtype=torch.uint8), 2),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), 3),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), 1),
    ],
)
def test_other_than_square_images_of_bytes_with_an_index_each_are_refused(
    pixels: Tensor, count: int
) -> None:
    with pytest.raises(DataError, match=r"uint8 \[batch, 3, size, size\]"):
        _augment(AugmentConfig(flip=True), 0).augment(pixels, torch.arange(count), 0)
