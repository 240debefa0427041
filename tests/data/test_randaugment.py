import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import RandAugment

from kdcore.data.randaugment import BINS, OPERATIONS, randaugment

NUMBERS = range(len(OPERATIONS))


def _images(count: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(size)
    # Not all of the range, or stretching the contrast would change nothing.
    return torch.randint(20, 200, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def _by_torchvision(image: Tensor, number: int, opposite: bool, magnitude: int) -> Tensor:
    transform = RandAugment()
    name = list(transform._AUGMENTATION_SPACE)[number]
    strengths, signed = transform._AUGMENTATION_SPACE[name]
    given = strengths(BINS, *image.shape[-2:])
    strength = 0.0 if given is None else float(given[magnitude])
    strength = -strength if signed and opposite else strength
    result: Tensor = transform._apply_image_or_video_transform(
        image, name, strength, InterpolationMode.NEAREST, transform._fill
    )
    return result


def test_operations_are_those_of_torchvision_in_its_order() -> None:
    space = RandAugment._AUGMENTATION_SPACE
    assert [(o.name, o.signed) for o in OPERATIONS] == [(n, s) for n, (_, s) in space.items()]


@pytest.mark.parametrize("magnitude", [0, 9, 30])
@pytest.mark.parametrize("size", [9, 32])
def test_each_image_gets_what_torchvision_makes_of_it_alone(size: int, magnitude: int) -> None:
    operations = [*NUMBERS, *NUMBERS, *NUMBERS]
    negative = [place % 2 == place // len(NUMBERS) % 2 for place in range(len(operations))]
    images = _images(len(operations), size)
    given = randaugment(images, operations, negative, magnitude)
    for place, image in enumerate(images):
        expected = _by_torchvision(image, operations[place], negative[place], magnitude)
        assert torch.equal(given[place], expected), OPERATIONS[operations[place]].name


def test_every_operation_but_the_identity_changes_an_image() -> None:
    images = _images(len(NUMBERS), 32)
    given = randaugment(images, NUMBERS, [False] * len(NUMBERS), 12)
    changed = [not torch.equal(one, other) for one, other in zip(given, images, strict=True)]
    assert changed == [operation.name != "Identity" for operation in OPERATIONS]


def test_the_opposite_differs_where_an_operation_has_one() -> None:
    images = _images(1, 32).expand(len(NUMBERS), -1, -1, -1)
    one = randaugment(images, NUMBERS, [False] * len(NUMBERS), 9)
    other = randaugment(images, NUMBERS, [True] * len(NUMBERS), 9)
    differs = [not torch.equal(*pair) for pair in zip(one, other, strict=True)]
    assert differs == [operation.signed for operation in OPERATIONS]


@pytest.mark.parametrize("size", [9, 300])
def test_the_bits_depend_neither_on_the_batch_nor_on_threads(size: int) -> None:
    images = _images(2, size)
    threads = torch.get_num_threads()
    try:
        for number in NUMBERS:
            torch.set_num_threads(2)
            together = randaugment(images, [number] * 2, [False] * 2, 9)
            torch.set_num_threads(1)
            alone = [randaugment(image[None], [number], [False], 9) for image in images]
            assert torch.equal(together, torch.cat(alone)), OPERATIONS[number].name
    finally:
        torch.set_num_threads(threads)


def test_the_images_that_are_given_stay_as_they_were() -> None:
    images = _images(len(NUMBERS), 9)
    before = images.clone()
    randaugment(images, NUMBERS, [False] * len(NUMBERS), 9)
    assert torch.equal(images, before)
