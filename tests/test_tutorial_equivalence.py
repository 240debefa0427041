"""Forty steps of each of the tutorial's methods, beside the same steps written as a plain loop.

The student is in float64, so that no rounding grows into a difference over the steps; the teacher
is asked in float32 by both, as it is slow. Batches are of 16 images, not 128, for the same reason.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdcore import Distiller
from kdcore.models.tutorial import DeepNN, LightNN

STEPS = 40
BATCH = 16
METHODS = ["logits", "cosine", "fitnets"]


@dataclass(frozen=True)
class Lessons:
    """A teacher, images and labels by step, and what the teacher makes of them, in float64."""

    teacher: DeepNN
    images: Tensor
    labels: Tensor
    maps: list[Tensor]
    logits: list[Tensor]


@pytest.fixture(scope="module")
def lessons() -> Lessons:
    torch.manual_seed(1)
    teacher = DeepNN().eval()
    images = torch.randn(STEPS, BATCH, 3, 32, 32)
    labels = torch.randint(10, (STEPS, BATCH))
    with torch.no_grad():
        # Fresh weights give faint maps and even predictions, which would count for little.
        for name in ("features.7.weight", "classifier.3.weight"):
            teacher.get_parameter(name).mul_(10)
        maps = [teacher.features(batch) for batch in images]
        logits = [teacher(batch).double() for batch in images]
    return Lessons(teacher, images, labels, [m.double() for m in maps], logits)


def _student() -> LightNN:
    torch.manual_seed(42)
    return LightNN().double().train()


def _by_hand(method: str, lessons: Lessons, regressor: nn.Module) -> Iterator[float]:
    """Yield each step's total loss, 0.25 of the method's and 0.75 of the cross-entropy."""
    student = _student()
    trained = [*student.parameters(), *regressor.parameters()]
    optimizer = torch.optim.Adam(trained, lr=0.001)
    torch.manual_seed(7)  # of the dropout
    for step in range(STEPS):
        own_map = student.features(lessons.images[step].double())
        own_logits = student.classifier(own_map.reshape(BATCH, 1024))
        if method == "logits":
            soft = F.softmax(lessons.logits[step] / 2, dim=1)
            log_own = F.log_softmax(own_logits / 2, dim=1)
            extra = 2**2 * (soft * (soft.log() - log_own)).sum() / BATCH
        elif method == "cosine":
            # Neighbours in the order channel, row, column.
            pooled = lessons.maps[step].reshape(BATCH, 1024, 2).mean(2)
            together = F.cosine_similarity(own_map.reshape(BATCH, 1024), pooled, dim=1)
            extra = (1 - together).mean()
        else:
            extra = (regressor(own_map) - lessons.maps[step]).pow(2).mean()
        loss = 0.25 * extra + 0.75 * F.cross_entropy(own_logits, lessons.labels[step])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        yield loss.item()


def _distiller(method: str, lessons: Lessons, **settings: float) -> Distiller:
    return Distiller(
        lessons.teacher,
        _student(),
        [{"name": method, "weight": 0.25, **settings}],
        task_weight=0.75,
        sample_input=lessons.images[0].double(),
        teacher_sample_input=lessons.images[0],
    )


def _by_kdcore(distiller: Distiller, lessons: Lessons, dropout_seed: int = 7) -> Iterator[float]:
    optimizer = torch.optim.Adam(distiller.parameters(), lr=0.001)
    distiller.train()
    torch.manual_seed(dropout_seed)
    for images, labels in zip(lessons.images, lessons.labels, strict=True):
        optimizer.zero_grad()
        losses = distiller(images.double(), labels, teacher_inputs=images)
        losses.total.backward()
        optimizer.step()
        distiller.advance()
        yield losses.total.item()


def _regressor(distiller: Distiller) -> nn.Module:
    """Return a copy of the distiller's regressor; an empty module where it has none."""
    weights = [parameter.detach().clone() for parameter in distiller.strategies.parameters()]
    if not weights:
        return nn.Module()
    regressor = nn.Conv2d(16, 32, kernel_size=3, padding=1).double()
    regressor.load_state_dict(dict(zip(("weight", "bias"), weights, strict=True)))
    return regressor


@pytest.mark.parametrize("method", METHODS)
def test_every_step_has_the_loss_of_the_tutorials_loop(method: str, lessons: Lessons) -> None:
    with _distiller(method, lessons) as distiller:
        expected = list(_by_hand(method, lessons, _regressor(distiller)))
        losses = list(_by_kdcore(distiller, lessons))
    assert len(losses) == STEPS
    assert losses == pytest.approx(expected, rel=1e-6)
    assert max(losses) - min(losses) > 0.1


def test_another_temperature_is_noticed_at_the_first_step(lessons: Lessons) -> None:
    expected = next(_by_hand("logits", lessons, nn.Module()))
    with _distiller("logits", lessons, temperature=2.01) as distiller:
        assert next(_by_kdcore(distiller, lessons)) != pytest.approx(expected, rel=1e-6)


def test_another_dropout_is_noticed_at_the_first_step(lessons: Lessons) -> None:
    expected = next(_by_hand("cosine", lessons, nn.Module()))
    with _distiller("cosine", lessons) as distiller:
        other = next(_by_kdcore(distiller, lessons, dropout_seed=8))
    assert other != pytest.approx(expected, rel=1e-6)
