"""The bound: one pass of the teacher, and the tightest student steps that plain PyTorch allows.

It checks nothing, logs nothing, and knows its two models and three losses; whatever makes no
number different and takes less time is done. Nothing of kdcore is used but the models' layers.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F

from kdcore.bench.measure import interleave, timed
from kdcore.bench.work import (
    DISTILLATIONS,
    LOSS_WEIGHT,
    LR,
    MEAN,
    SIDE,
    STD,
    TASK_WEIGHT,
    TEMPERATURE,
    Method,
    Work,
    new_regressor,
)

TRIED_STEPS = 12
TRIED_ROUNDS = 3


@dataclass(frozen=True)
class Layout:
    """In what form images are kept and computed.

    Attributes:
        floats: whether they are normalised once, and kept so; else each time they are gathered.
        channels_last: whether images and student are laid out channels last.
    """

    floats: bool
    channels_last: bool

    def place(self, model: nn.Module, work: Work) -> None:
        """Bring a model to the device, in this layout."""
        model.to(work.device)
        if self.channels_last:
            model.to(memory_format=torch.channels_last)


def _casting(work: Work) -> AbstractContextManager[object]:
    dtype = {"bf16-mixed": torch.bfloat16, "fp16-mixed": torch.float16}.get(work.precision)
    return torch.autocast(work.device.type, dtype, enabled=dtype is not None)


class Images:
    """All images on the device, gathered by batch.

    Args:
        work: the images.
        layout: how they are kept.
    """

    def __init__(self, work: Work, layout: Layout) -> None:
        self._layout = layout
        scale = torch.tensor([1 / (255 * std) for std in STD], device=work.device)
        shift = torch.tensor(
            [-mean / std for mean, std in zip(MEAN, STD, strict=True)], device=work.device
        )
        self._scale, self._shift = scale.view(3, 1, 1), shift.view(3, 1, 1)
        self.targets = work.targets.to(work.device)
        pixels = torch.from_numpy(work.images).to(work.device).permute(0, 3, 1, 2)
        kept = self._normalise(pixels) if layout.floats else pixels
        # A row an image: the layout is the order within the row.
        ordered = kept.permute(0, 2, 3, 1) if layout.channels_last else kept
        self._rows = ordered.reshape(len(work), -1)

    def _normalise(self, pixels: Tensor) -> Tensor:
        return torch.addcmul(self._shift, pixels.float(), self._scale)

    def gather(self, indices: Tensor) -> Tensor:
        """Return some images as the student is given them, ``float32 [indices, 3, 32, 32]``."""
        rows = self._rows.index_select(0, indices)
        if self._layout.channels_last:
            images = rows.view(-1, SIDE, SIDE, 3).permute(0, 3, 1, 2)
        else:
            images = rows.view(-1, 3, SIDE, SIDE)
        return images if self._layout.floats else self._normalise(images)


@dataclass(frozen=True)
class Answers:
    """What the teacher said of every image, as far as it can be computed ahead.

    Attributes:
        log_probabilities: its softened output, ``[images, 10]``.
        directions: its hidden representation, of length 1, ``[images, 1024]``.
        maps: its feature map, ``[images, 32 * 8 * 8]``, in the student's layout.
    """

    log_probabilities: Tensor
    directions: Tensor
    maps: Tensor


@torch.no_grad()
def ask(work: Work, images: Images, layout: Layout) -> Answers:
    """Have the teacher say everything once."""
    teacher = work.new_teacher().to(memory_format=torch.channels_last).eval()
    count = len(work)
    answers = Answers(
        *(torch.empty(count, width, device=work.device) for width in (10, 1024, 2048))
    )
    for start in range(0, count, work.batch_size):
        rows = slice(start, min(start + work.batch_size, count))
        inputs = images.gather(torch.arange(rows.start, rows.stop, device=work.device))
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        with _casting(work):
            features = teacher.features(inputs)
            flat = features.flatten(1)
            logits = teacher.classifier(flat)
        answers.log_probabilities[rows] = F.log_softmax(logits.float() / TEMPERATURE, dim=-1)
        answers.directions[rows] = F.normalize(F.avg_pool1d(flat.float(), 2))
        ordered = features.permute(0, 2, 3, 1) if layout.channels_last else features
        answers.maps[rows] = ordered.flatten(1).float()
    return answers


class Training:
    """One student, ready to take its steps.

    Args:
        work: what all runs share.
        method: how the student learns.
        layout: of images and student.
        images: what it learns from.
        answers: what its teacher said of them; not asked of a student alone.
    """

    def __init__(
        self, work: Work, method: Method, layout: Layout, images: Images, answers: Answers | None
    ) -> None:
        self._work = work
        self._method = method
        self._layout = layout
        self._images = images
        self._answers = answers
        self.student = work.new_student()
        layout.place(self.student, work)
        self.regressor = new_regressor()
        parameters = list(self.student.parameters())
        if method is Method.REGRESSOR:
            layout.place(self.regressor, work)
            parameters += self.regressor.parameters()
        self._optimizer = optim.Adam(parameters, lr=LR, fused=True)

    def train(self, batches: Iterable[Tensor] | None = None) -> list[Tensor]:
        """Take a step a batch.

        Args:
            batches: indices of each; all images shuffled, every epoch anew, if not given.

        Returns:
            The loss of each step, on the device.
        """
        losses = []
        for indices in shuffled(self._work) if batches is None else batches:
            loss = self._loss(indices)
            loss.backward()  # type: ignore[no-untyped-call]  # as PyTorch has it
            self._optimizer.step()
            self._optimizer.zero_grad()
            losses.append(loss.detach())
        return losses

    def _loss(self, indices: Tensor) -> Tensor:
        inputs = self._images.gather(indices)
        with _casting(self._work):
            features = self.student.features(inputs)
            flat = features.flatten(1)
            logits = self.student.classifier(flat)
        logits = logits.float()
        task = F.cross_entropy(logits, self._images.targets.index_select(0, indices))
        if self._answers is None:
            return task
        return TASK_WEIGHT * task + LOSS_WEIGHT * self._distance(
            self._answers, logits, features, flat, indices
        )

    def _distance(
        self, answers: Answers, logits: Tensor, features: Tensor, flat: Tensor, indices: Tensor
    ) -> Tensor:
        if self._method is Method.SOFT_TARGETS:
            own = F.log_softmax(logits / TEMPERATURE, dim=-1)
            theirs = answers.log_probabilities.index_select(0, indices)
            divergence = F.kl_div(own, theirs, reduction="batchmean", log_target=True)
            return divergence * TEMPERATURE**2
        if self._method is Method.HIDDEN:
            theirs = answers.directions.index_select(0, indices)
            return 1 - (F.normalize(flat.float()) * theirs).sum(1).mean()
        own = self.regressor(features.float())
        rows = answers.maps.index_select(0, indices)
        _, channels, height, width = own.shape
        if self._layout.channels_last:
            theirs = rows.view(-1, height, width, channels).permute(0, 3, 1, 2)
        else:
            theirs = rows.view(own.shape)
        return F.mse_loss(own, theirs)


def shuffled(work: Work) -> Iterator[Tensor]:
    """Go through the batches of all epochs, each epoch in an order of its own."""
    for _ in range(work.epochs):
        yield from torch.split(torch.randperm(len(work), device=work.device), work.batch_size)


def distil(work: Work, layout: Layout, methods: Sequence[Method] = DISTILLATIONS) -> None:
    """Do the distillations from the given teacher, who is asked once."""
    images = Images(work, layout)
    answers = ask(work, images, layout)
    for method in methods:
        Training(work, method, layout, images, answers).train()


def fastest_layout(work: Work) -> Layout:
    """Try on this machine in which form a few steps take the least time."""
    layouts = [Layout(*choice) for choice in product((True, False), repeat=2)]
    trainings = {
        layout: Training(work, Method.ALONE, layout, Images(work, layout), None)
        for layout in layouts
    }
    batches = list(torch.split(torch.arange(len(work), device=work.device), work.batch_size))
    batches = (batches * TRIED_STEPS)[:TRIED_STEPS]
    took = interleave(
        {
            str(layout): lambda training=training: timed(  # type: ignore[misc]
                lambda: training.train(batches), work.wait
            )
            for layout, training in trainings.items()
        },
        TRIED_ROUNDS,
    )
    return min(layouts, key=lambda layout: min(took[str(layout)]))
