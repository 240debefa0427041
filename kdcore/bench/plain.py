"""The loops of PyTorch's knowledge distillation tutorial, as a reader of it would write them.

One image at a time through torchvision's transforms, models changed so that they return what is
compared, and the teacher at every step. Nothing of kdcore is used but the layers of the two models.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor, nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from kdcore.bench.work import (
    DISTILLATIONS,
    LOSS_WEIGHT,
    LR,
    MEAN,
    STD,
    TASK_WEIGHT,
    TEMPERATURE,
    Method,
    Work,
    new_regressor,
)
from kdcore.models.tutorial import DeepNN, LightNN

LossOf = Callable[[Tensor, Tensor], Tensor]


class Batches(Protocol):
    """What a loop goes through, epoch after epoch: batches of images and labels."""

    def __iter__(self) -> Any: ...

    def __len__(self) -> int: ...


class ArrayDataset(Dataset[tuple[Tensor, int]]):
    """Images in one array, each transformed when it is asked for, as torchvision's CIFAR-10 has it.

    Args:
        work: the images.
    """

    def __init__(self, work: Work) -> None:
        self.data = work.images
        self.targets = work.targets.tolist()
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize(mean=MEAN, std=STD)]
        )

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.data[index])), self.targets[index]


def new_loader(work: Work) -> DataLoader[tuple[Tensor, int]]:
    """Return the tutorial's loader: shuffled, with two workers that start anew each epoch."""
    return DataLoader(ArrayDataset(work), batch_size=work.batch_size, shuffle=True, num_workers=2)


class DeepNNWithHidden(nn.Module):
    """The teacher; returns its flattened features too, averaged in pairs, ``[batch, 1024]``."""

    def __init__(self) -> None:
        super().__init__()
        whole = DeepNN()
        self.features, self.classifier = whole.features, whole.classifier

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and hidden representation."""
        flat = torch.flatten(self.features(x), 1)
        return self.classifier(flat), F.avg_pool1d(flat, 2)


class LightNNWithHidden(nn.Module):
    """The student; returns its flattened features too, ``[batch, 1024]``."""

    def __init__(self) -> None:
        super().__init__()
        whole = LightNN()
        self.features, self.classifier = whole.features, whole.classifier

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and hidden representation."""
        flat = torch.flatten(self.features(x), 1)
        return self.classifier(flat), flat


class DeepNNWithMap(nn.Module):
    """The teacher; returns its last feature map too, ``[batch, 32, 8, 8]``."""

    def __init__(self) -> None:
        super().__init__()
        whole = DeepNN()
        self.features, self.classifier = whole.features, whole.classifier

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and hint."""
        feature_map = self.features(x)
        return self.classifier(torch.flatten(feature_map, 1)), feature_map


class LightNNWithRegressor(nn.Module):
    """The student; returns its last feature map too, behind a regressor, ``[batch, 32, 8, 8]``."""

    def __init__(self) -> None:
        super().__init__()
        whole = LightNN()
        self.features, self.classifier = whole.features, whole.classifier
        self.regressor = new_regressor()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and what the regressor makes of the hint."""
        feature_map = self.features(x)
        return self.classifier(torch.flatten(feature_map, 1)), self.regressor(feature_map)


def task_loss(student: nn.Module) -> LossOf:
    """Return the loss of a model that learns alone: cross-entropy."""

    def loss(inputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(student(inputs), labels)

    return loss


def soft_targets_loss(teacher: nn.Module, student: nn.Module) -> LossOf:
    """Return the loss of soft targets: ``T² · KL`` on softened outputs, and cross-entropy."""

    def loss(inputs: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            teacher_logits = teacher(inputs)
        logits = student(inputs)
        targets = F.softmax(teacher_logits / TEMPERATURE, dim=-1)
        log_probabilities = F.log_softmax(logits / TEMPERATURE, dim=-1)
        divergence = torch.sum(targets * (targets.log() - log_probabilities)) / len(inputs)
        soft = divergence * TEMPERATURE**2
        return LOSS_WEIGHT * soft + TASK_WEIGHT * F.cross_entropy(logits, labels)

    return loss


def hidden_loss(teacher: nn.Module, student: nn.Module) -> LossOf:
    """Return the loss of hidden representations: ``1 - cos``, and cross-entropy."""
    cosine_loss = nn.CosineEmbeddingLoss()

    def loss(inputs: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            _, theirs = teacher(inputs)
        logits, own = student(inputs)
        alike = torch.ones(len(inputs)).to(inputs.device)
        distance: Tensor = cosine_loss(own, theirs, target=alike)
        return LOSS_WEIGHT * distance + TASK_WEIGHT * F.cross_entropy(logits, labels)

    return loss


def regressor_loss(teacher: nn.Module, student: nn.Module) -> LossOf:
    """Return the loss of hints: the squared error behind the regressor, and cross-entropy."""

    def loss(inputs: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            _, theirs = teacher(inputs)
        logits, own = student(inputs)
        return LOSS_WEIGHT * F.mse_loss(own, theirs) + TASK_WEIGHT * F.cross_entropy(logits, labels)

    return loss


_Kinds = tuple[type[nn.Module], type[nn.Module], Callable[[nn.Module, nn.Module], LossOf]]
_KINDS: dict[Method, _Kinds] = {
    Method.SOFT_TARGETS: (DeepNN, LightNN, soft_targets_loss),
    Method.HIDDEN: (DeepNNWithHidden, LightNNWithHidden, hidden_loss),
    Method.REGRESSOR: (DeepNNWithMap, LightNNWithRegressor, regressor_loss),
}


def set_up(work: Work, method: Method, given: nn.Module) -> tuple[nn.Module, LossOf]:
    """Build the student of a method, and its loss.

    Args:
        work: what all runs share.
        method: how the student learns.
        given: the teacher, whose weights the changed teacher is given.
    """
    if method is Method.ALONE:
        student: nn.Module = work.new_student().to(work.device)
        return student, task_loss(student)
    teacher_kind, student_kind, loss_of = _KINDS[method]
    teacher = teacher_kind().to(work.device)
    teacher.load_state_dict(given.state_dict())
    teacher.eval()
    torch.manual_seed(work.seed)
    student = student_kind().to(work.device)
    return student, loss_of(teacher, student)


def train(model: nn.Module, loss_of: LossOf, batches: Batches, work: Work) -> list[float]:
    """Train a model; return the mean loss of each epoch."""
    optimizer = optim.Adam(model.parameters(), lr=LR)
    model.train()
    means = []
    for _ in range(work.epochs):
        running = 0.0
        for inputs, labels in batches:
            inputs, labels = inputs.to(work.device), labels.to(work.device)
            optimizer.zero_grad()
            loss = loss_of(inputs, labels)
            loss.backward()  # type: ignore[no-untyped-call]  # as PyTorch has it
            optimizer.step()
            running += loss.item()
        means.append(running / len(batches))
    return means


def run_methods(work: Work, teacher: nn.Module, methods: Iterable[Method]) -> None:
    """Train a student by each method, on one loader."""
    loader = new_loader(work)
    for method in methods:
        train(*set_up(work, method, teacher), loader, work)


def distil(work: Work, methods: Sequence[Method] = DISTILLATIONS) -> None:
    """Do the distillations from the given teacher."""
    run_methods(work, work.teacher, methods)


def compare(work: Work) -> None:
    """Train a teacher, a student alone, and a student by each method."""
    torch.manual_seed(work.seed)
    teacher = DeepNN().to(work.device)
    train(teacher, task_loss(teacher), new_loader(work), work)
    run_methods(work, teacher, Method)
