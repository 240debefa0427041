"""Augmented views of whole batches: each image a function of seed, view and sample index alone.

Random numbers are in `chance`, the operations of RandAugment in `randaugment`; how a model wants
an image is in `preprocess`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from kdcore.data.chance import below, beta, log_uniform, uniforms
from kdcore.data.randaugment import OPERATIONS, randaugment
from kdcore.errors import DataError
from kdcore.sections import AugmentConfig
from kdcore.tasks import UNLABELLED

# Part of what cached results are known by: raise it when the same settings give other pixels.
ALGORITHM = 1

TRIES = 10
"""Crops that do not fit are drawn again so often, as torchvision does; then it is all the image."""


@dataclass(frozen=True)
class Mix:
    """With what each sample of a batch is mixed, and how much.

    Attributes:
        partners: ``int64 [batch]``, index of the sample that it is mixed with.
        share: ``float32 [batch]``, how much of the sample itself is kept, in ``[0.5, 1]``; the
            partner has the rest.
        boxes: of CutMix, ``int64 [batch, 4]``, the part that is the partner's, as first row,
            first column, and the row and column after the last; None for mixup.
    """

    partners: Tensor
    share: Tensor
    boxes: Tensor | None = None

    def pixels(self, own: Tensor, other: Tensor) -> Tensor:
        """Mix images with their partners', each augmented with its own index.

        Args:
            own: ``uint8 [batch, 3, size, size]``.
            other: those of the partners, the like.

        Returns:
            ``uint8 [batch, 3, size, size]``, in the memory format of `own`.
        """
        if self.boxes is not None:
            top, left, bottom, right = self.boxes.to(own.device, non_blocking=True)[
                :, :, None, None
            ].unbind(1)
            places = torch.arange(own.shape[-1], device=own.device)
            rows, columns = places.view(1, -1, 1), places.view(1, 1, -1)
            pasted = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
            mixed = torch.where(pasted.unsqueeze(1), other, own)
        else:
            share = self.share.to(own.device, non_blocking=True).view(-1, 1, 1, 1)
            mixed = own.float().mul_(share).add_(other.float().mul_(1 - share))
            mixed = mixed.round_().to(torch.uint8)
        return mixed.contiguous(memory_format=_layout(own))


class Augment:
    """Augments batches, so that a view of a sample has the same pixels whenever it is asked for.

    What is random is drawn on the CPU by `chance`. On the CPU the bits are the same in any batch,
    order and process; on another device the same is drawn, and what is computed of it in floating
    point (resized crops, RandAugment) may differ in the last level.

    Args:
        settings: what is done, and the seed of all that is random.
    """

    def __init__(self, settings: AugmentConfig) -> None:
        self.settings = settings
        self.seed = settings.seed

    @property
    def magnitude(self) -> int:
        """How strong the operations of RandAugment are."""
        return 9 if self.settings.magnitude is None else self.settings.magnitude

    @property
    def active(self) -> bool:
        """Whether anything is done."""
        return self.settings.active

    @property
    def mixes(self) -> bool:
        """Whether samples are mixed with others."""
        return self.settings.mixes

    @property
    def canonical(self) -> str:
        """What each view is, as text; equal texts give equal views."""
        s = self.settings
        return (
            f"augment {ALGORITHM} resized_crop={s.resized_crop} crop={s.crop} flip={s.flip} "
            f"randaugment={s.randaugment} magnitude={self.magnitude} mixup={s.mixup} "
            f"cutmix={s.cutmix} seed={self.seed}"
        )

    def augment(self, pixels: Tensor, indices: Tensor, view: int) -> Tensor:
        """Return one view of some samples, before they are mixed.

        Args:
            pixels: ``uint8 [batch, 3, size, size]``.
            indices: ``int64 [batch]``, each sample's index in its source.
            view: which view, from 0.

        Returns:
            ``uint8 [batch, 3, size, size]``, in the memory format of `pixels`.

        Raises:
            DataError: the images are not such, or are not as many as the indices.
        """
        square = pixels.ndim == 4 and pixels.shape[1] == 3 and pixels.shape[2] == pixels.shape[3]
        if pixels.dtype != torch.uint8 or not square or indices.shape != pixels.shape[:1]:
            raise DataError(
                "augmentation takes uint8 [batch, 3, size, size] and an index for each, got "
                f"{pixels.dtype} {list(pixels.shape)} and indices {list(indices.shape)}"
            )
        result, indices = pixels, indices.cpu()
        if self.settings.resized_crop is not None:
            result = self._resized_crop(result, indices, view)
        if self.settings.crop or self.settings.flip:
            result = self._crop_and_flip(result, indices, view)
        if self.settings.randaugment:
            result = self._randaugment(result, indices, view)
        return result.contiguous(memory_format=_layout(pixels))

    def partners(self, indices: Tensor, view: int, targets: Tensor, size: int) -> Mix | None:
        """Return with what some samples are mixed in one view.

        Mixup is of Zhang et al. (2018), CutMix of Yun et al. (2019). Of a share drawn from
        Beta(alpha, alpha) and its rest the sample itself keeps the larger. A sample with a label
        is mixed with one that has a label, and one without with one without; that may be itself.

        Args:
            indices: ``int64 [batch]``, each sample's index in its source.
            view: which view, from 0.
            targets: those of all samples of the source, ``int64 [samples]``, -100 for no label.
            size: side of the images in pixels.

        Returns:
            The mix, on the CPU; None where the settings have none.
        """
        alpha = self.settings.mixup or self.settings.cutmix
        if not alpha:
            return None
        indices, labelled = indices.cpu(), targets.cpu() != UNLABELLED
        draws = ("partner", "box row", "box column")
        which, row, column = uniforms(self.seed, view, indices, *draws)
        partners = torch.empty_like(indices)
        for pool in (labelled, ~labelled):
            mine, choices = pool[indices], pool.nonzero().flatten()
            partners[mine] = choices[below(len(choices), which[mine])]
        share = beta(self.seed, view, indices, "share", alpha)
        share = torch.maximum(share, 1 - share)
        if self.settings.mixup:
            return Mix(partners, share.float())
        boxes = _boxes(share, below(size, row), below(size, column), size)
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        return Mix(partners, (1 - area.double() / size**2).float(), boxes)

    def _crop_and_flip(self, pixels: Tensor, indices: Tensor, view: int) -> Tensor:
        size, padding = pixels.shape[-1], self.settings.crop
        draws = ("crop row", "crop column", "flip")
        row, column, flip = uniforms(self.seed, view, indices, *draws)
        top, left = below(2 * padding + 1, row), below(2 * padding + 1, column)
        flipped = (flip < 0.5) & self.settings.flip
        places = torch.arange(size)
        columns = left[:, None] + torch.where(flipped[:, None], places.flip(0), places)
        padded = F.pad(pixels.permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding))
        side = size + 2 * padding
        rows = (torch.arange(len(pixels)) * side + top)[:, None] + places
        # Looking up whole pixels in one row of them takes half the time of indexing by three.
        flat = ((rows * side)[:, :, None] + columns[:, None]).flatten()
        flat = flat.to(pixels.device, non_blocking=True)
        chosen = padded.reshape(-1, 3).index_select(0, flat)
        return chosen.view(-1, size, size, 3).permute(0, 3, 1, 2)

    def _resized_crop(self, pixels: Tensor, indices: Tensor, view: int) -> Tensor:
        size = pixels.shape[-1]
        top, left, height, width = self._windows(indices, view, size)
        grid = torch.stack(
            [
                _coordinates(left, width, size)[:, None].expand(-1, size, -1),
                _coordinates(top, height, size)[:, :, None].expand(-1, -1, size),
            ],
            dim=-1,
        ).to(pixels.device, non_blocking=True)
        resized = F.grid_sample(
            pixels.float(), grid, mode="bilinear", padding_mode="border", align_corners=False
        )
        return resized.round_().to(torch.uint8)

    def _windows(self, indices: Tensor, view: int, size: int) -> tuple[Tensor, ...]:
        """Return first rows and columns, heights and widths of crops, ``int64 [batch]`` each."""
        assert self.settings.resized_crop is not None
        names = [f"{name} {turn}" for name in ("area", "aspect") for turn in range(TRIES)]
        drawn = uniforms(self.seed, view, indices, *names, "window row", "window column")
        smallest = self.settings.resized_crop
        area = drawn[:TRIES].mul(1 - smallest).add_(smallest).mul_(size**2)
        aspect = log_uniform(3 / 4, 4 / 3, drawn[TRIES : 2 * TRIES])
        widths, heights = (area * aspect).sqrt_().round_(), (area / aspect).sqrt_().round_()
        fits = (widths >= 1) & (widths <= size) & (heights >= 1) & (heights <= size)
        first = fits.int().argmax(0, keepdim=True)
        any_fits = fits.any(0)
        width = torch.where(any_fits, widths.gather(0, first)[0].long(), size)
        height = torch.where(any_fits, heights.gather(0, first)[0].long(), size)
        top, left = below(size - height + 1, drawn[-2]), below(size - width + 1, drawn[-1])
        return top, left, height, width

    def _randaugment(self, pixels: Tensor, indices: Tensor, view: int) -> Tensor:
        for turn in range(self.settings.randaugment):
            draws = (f"operation {turn}", f"sign {turn}")
            operation, sign = uniforms(self.seed, view, indices, *draws)
            operations = below(len(OPERATIONS), operation).tolist()
            negative = (sign < 0.5).tolist()
            pixels = randaugment(pixels, operations, negative, self.magnitude)
        return pixels


def _coordinates(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Return where each pixel of a resized crop lies along one axis, in -1 to 1 of the image.

    Beyond the centres of the crop's outermost pixels it is these that are seen, as if the crop
    were an image of its own.
    """
    start, length = start[:, None].double(), length[:, None].double()
    inner = (torch.arange(size) + 0.5) * length / size - 0.5
    inner = torch.minimum(inner.clamp_(min=0), length - 1)
    return ((2 * (start + inner) + 1) / size - 1).float()


def _boxes(share: Tensor, row: Tensor, column: Tensor, size: int) -> Tensor:
    """Return boxes around centres whose area is the rest of the share, cut off at the borders."""
    side = (1 - share).sqrt().mul(size).long()
    first = torch.stack([row, column], dim=1) - (side // 2)[:, None]
    last = first + side[:, None]
    return torch.cat([first, last], dim=1).clamp_(0, size)


def _layout(pixels: Tensor) -> torch.memory_format:
    last = pixels.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last and not pixels.is_contiguous() else torch.contiguous_format
