"""The work that contenders do: the same images, models and budget for each of them."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdcore.devices import find_device
from kdcore.models.tutorial import DeepNN, LightNN

CLASSES = 10
SIDE = 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Method(StrEnum):
    """How a student learns in the tutorial, in its order."""

    ALONE = "alone"
    SOFT_TARGETS = "soft targets"
    HIDDEN = "hidden representation"
    REGRESSOR = "regressor"


DISTILLATIONS = (Method.SOFT_TARGETS, Method.HIDDEN, Method.REGRESSOR)

TASK_WEIGHT, LOSS_WEIGHT, TEMPERATURE = 0.75, 0.25, 2.0
LR = 1e-3


@dataclass(frozen=True)
class Settings:
    """How much is measured, and on what.

    Attributes:
        size: training images.
        epochs: passes over them.
        repeats: rounds that are counted.
        precision: number format of kdcore's runs and of the bound; the tutorial's has 32 bits.
        device: where all is computed.
    """

    size: int = 2000
    epochs: int = 10
    repeats: int = 3
    precision: str = "32"
    device: str = "cpu"


@dataclass(frozen=True)
class Work:
    """Images to learn from, a teacher to learn from, and a budget.

    Attributes:
        images: ``uint8 [images, 32, 32, 3]``, as torchvision keeps CIFAR-10.
        targets: ``int64 [images]``.
        teacher: the given teacher; whoever wants another layout or mode takes a copy.
        epochs: passes over the images.
        device: where it is computed.
        precision: ``"32"``, ``"bf16-mixed"`` or ``"fp16-mixed"``; the tutorial's has 32 bits.
        batch_size: images an optimizer step.
        seed: of weights and order.
    """

    images: np.ndarray[Any, np.dtype[np.uint8]]
    targets: Tensor
    teacher: DeepNN
    epochs: int
    device: torch.device
    precision: str = "32"
    batch_size: int = 128
    seed: int = 42

    @classmethod
    def of(cls, settings: Settings) -> "Work":
        """Make the work of a size, on images of noise: what they show changes no time.

        Raises:
            UserError: there is no such device here.
        """
        device = find_device(settings.device)
        chance = np.random.default_rng(0)
        images = chance.integers(0, 256, (settings.size, SIDE, SIDE, 3), dtype=np.uint8)
        targets = torch.from_numpy(chance.integers(0, CLASSES, settings.size))
        torch.manual_seed(0)
        teacher = DeepNN().to(device)
        return cls(images, targets, teacher, settings.epochs, device, settings.precision)

    def __len__(self) -> int:
        return len(self.targets)

    def new_student(self) -> LightNN:
        """Build the student with the initial weights that all runs begin from."""
        torch.manual_seed(self.seed)
        return LightNN()

    def new_teacher(self) -> DeepNN:
        """Build the teacher with the weights of the given one."""
        teacher = DeepNN().to(self.device)
        teacher.load_state_dict(self.teacher.state_dict())
        return teacher

    def wait(self) -> None:
        """Return when the device has done what it was told."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)


def new_regressor() -> nn.Conv2d:
    """Build the tutorial's regressor, from the student's feature maps to the teacher's."""
    return nn.Conv2d(16, 32, kernel_size=3, padding=1)
