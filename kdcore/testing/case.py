"""What a strategy is tried on: models, samples, and a distiller that looks on."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from kdcore.catalog import Catalog
from kdcore.contract import AuxiliaryLoss, Features, Setup, State
from kdcore.distiller import Distiller, Losses
from kdcore.execution import PLAIN, Execution
from kdcore.hookspecs import hookimpl
from kdcore.randomness import isolated, stream
from kdcore.selection import load_strategy
from kdcore.strategy import Strategy
from kdcore.tasks import UNLABELLED, Counts
from kdcore.testing.models import CLASSES, small_student, small_teacher

SAMPLES = 24
BATCH = 8
LABEL = "tried"

Tried = type[Strategy] | Strategy | str
"""What names a strategy to the kit: its class, an instance, or the name of an installed one."""


class Batch(NamedTuple):
    """Some of the samples."""

    inputs: Tensor
    targets: Tensor
    indices: Tensor


@dataclass(frozen=True)
class Case:
    """A strategy with its settings, and the models that it is tried on.

    Attributes:
        strategy: the method.
        settings: its settings, as a user writes them.
        teacher: builds the teacher; its logits are of at least five classes.
        student: builds the student, of as many classes; its dropout is switched off.
        input_shape: shape of one sample that both take, without the batch.
        classes: how many classes the samples are of.
    """

    strategy: type[Strategy]
    settings: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    teacher: Callable[[], nn.Module] = small_teacher
    student: Callable[[], nn.Module] = small_student
    input_shape: tuple[int, ...] = (3, 16, 16)
    classes: int = CLASSES

    @property
    def has_own_models(self) -> bool:
        """Whether it is tried on other models than the kit's."""
        kits = small_teacher, small_student, (3, 16, 16)
        return (self.teacher, self.student, self.input_shape) != kits

    def models(self, seed: int = 0) -> tuple[nn.Module, nn.Module]:
        """Build the student of a seed, and the teacher, whose weights are always the same."""
        with isolated(seed, "student"):
            student = self.student()
        with isolated(0, "teacher"):
            teacher = self.teacher()
        for module in student.modules():
            if isinstance(module, _DropoutNd):  # or no two passes could be compared
                module.p = 0.0
        return student, teacher

    def entry(self, label: str, weight: float = 1.0) -> dict[str, Any]:
        """Return the strategy as an entry of a list of strategies."""
        return {"name": self.strategy, "label": label, "weight": weight, **self.settings}

    def samples(self, dtype: torch.dtype = torch.float32) -> Batch:
        """Return all samples, of standard normal values and all classes."""
        images = torch.randn(SAMPLES, *self.input_shape, generator=stream(0, "samples"))
        indices = torch.arange(SAMPLES)
        return Batch(images.to(dtype), indices % self.classes, indices)


def case_of(strategy: Tried, settings: Mapping[str, object], **models: Any) -> Case:
    """Return the case of a strategy, which is found by name where it is one.

    Raises:
        CatalogError: no strategy of that name is installed, or it cannot be imported.
        ConfigError: the settings are not the strategy's.
    """
    if isinstance(strategy, Strategy):
        settings = {**strategy.settings.model_dump(), **settings}
        strategy = type(strategy)
    cls = load_strategy(strategy, Catalog())[0] if isinstance(strategy, str) else strategy
    cls(**settings)
    return Case(cls, settings, **models)


class Onlooker:
    """A hook wrapper that keeps what losses were returned.

    Attributes:
        returned: the last loss by the strategy's label, as the strategy returned it.
        drew: whether a strategy has drawn from its generator.
        changed: whether a strategy has changed in place what it was shown.
    """

    def __init__(self) -> None:
        self.returned: dict[str, AuxiliaryLoss] = {}
        self.drew = False
        self.changed = False

    @hookimpl(wrapper=True)
    def compute_auxiliary_loss(
        self,
        label: str,
        student: Features,
        teacher: Features,
        state: State,
        targets: Tensor,
        indices: Tensor,
        generator: torch.Generator,
    ) -> Generator[None, list[AuxiliaryLoss], list[AuxiliaryLoss]]:
        """Look on."""
        shown = [*student.tensors(), *teacher.tensors(), *state.values(), targets, indices]
        versions, stream_before = [t._version for t in shown], generator.get_state()
        answers = yield
        self.changed = self.changed or versions != [t._version for t in shown]
        self.drew = self.drew or not torch.equal(stream_before, generator.get_state())
        for answer in answers:
            self.returned[label] = answer
        return answers

    def values(self) -> list[Tensor]:
        """Return every value of every loss that was returned."""
        return [
            value
            for loss in self.returned.values()
            for value in (loss.values() if isinstance(loss, Mapping) else (loss,))
        ]


class Trial:
    """A distiller over fresh models, in training mode. Close it, or use it in ``with``.

    Args:
        case: the strategy and its models.
        entries: the strategies of the run; if none is given, the case's alone.
        task_weight: weight of the task's loss.
        seed: of the models, adapters and streams.
        dtype: precision of both models and of the samples.
        labelled: whether the samples have labels.
        execution: how both models' layers are computed.
        laid_out: what is done to both models when they are built.
    """

    def __init__(
        self,
        case: Case,
        *entries: dict[str, Any],
        task_weight: float = 1.0,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        labelled: bool = True,
        execution: Execution = PLAIN,
        laid_out: Callable[[nn.Module], nn.Module] = lambda model: model,
    ) -> None:
        self.samples = case.samples(dtype)
        if not labelled:
            nothing = torch.full_like(self.samples.targets, UNLABELLED)
            self.samples = self.samples._replace(targets=nothing)
        self.student, self.teacher = (laid_out(model.to(dtype)) for model in case.models(seed))
        self.onlooker = Onlooker()
        self.distiller = Distiller(
            self.teacher,
            self.student,
            entries or (case.entry(LABEL),),
            task_weight=task_weight,
            sample_input=self.samples.inputs,
            setup=Setup(targets=self.samples.targets),
            seed=seed,
            wrappers={"onlooker": self.onlooker},
            execution=execution,
        )
        self.distiller.train()
        self.optimizer = torch.optim.Adam(self.distiller.parameters(), lr=1e-2)

    def batch(self, count: int = BATCH, start: int = 0) -> Batch:
        """Return some samples in their order, beginning anew where they end."""
        rows = (torch.arange(count) + start) % SAMPLES
        return Batch(*(part[rows] for part in self.samples))

    def losses(self, batch: Batch | None = None, counts: Counts | None = None) -> Losses:
        """Compute all losses of a batch, by default of the first samples."""
        inputs, targets, indices = self.batch() if batch is None else batch
        losses: Losses = self.distiller(inputs, targets, indices=indices, counts=counts)
        return losses

    def auxiliary(self, batch: Batch | None = None, counts: Counts | None = None) -> Tensor:
        """Compute the sum of the auxiliary losses of a batch."""
        return torch.stack(list(self.losses(batch, counts).auxiliary.values())).sum()

    def learn(self, steps: int) -> list[list[float]]:
        """Take optimizer steps over successive batches and return the losses of each."""
        return [self._step() for _ in range(steps)]

    def _step(self) -> list[float]:
        self.optimizer.zero_grad()
        losses = self.losses(self.batch(start=5 * self.distiller.step))
        torch.autograd.backward(losses.total)
        self.optimizer.step()
        self.distiller.advance()
        return [value.item() for value in (losses.total, *losses.auxiliary.values())]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.distiller.close()
