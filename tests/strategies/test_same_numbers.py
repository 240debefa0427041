"""The hard methods and the shipped, live and kept, from memory and decoded: the same bits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from kdcore import Distiller, Setup, Strategy
from kdcore.asking import Request
from kdcore.cache import SignalCache
from kdcore.data.augment import Augment
from kdcore.data.images import ArrayImages, LabelledImages
from kdcore.data.pixels import PixelPool
from kdcore.data.preprocess import Preprocess
from kdcore.data.source import ImageSource
from kdcore.execution import Execution, in_best_layout
from kdcore.sections import AugmentConfig, CacheConfig, TrainConfig
from kdcore.testing import small_student, small_teacher
from kdcore.trainer import train
from tests import shipped

CPU = torch.device("cpu")
SAMPLES = 22
EVERYTHING: list[Any] = [*shipped.SHIPPED]
ACTIONS = AugmentConfig(crop=2, flip=True, views=2)
PLAIN = AugmentConfig()

Numbers = tuple[list[Mapping[str, float]], list[torch.Tensor]]


def _run(
    folder: Path,
    mode: str,
    augment: AugmentConfig = PLAIN,
    budget: int = 10**9,
    workers: int = 0,
    entries: list[Any] = EVERYTHING,
    execution: Execution = Execution(),  # noqa: B008
    dtype: str = "float32",
) -> Numbers:
    """Train two epochs in two micro-batches a step; return all losses and weights."""
    torch.manual_seed(0)
    images = ArrayImages(torch.randint(256, (SAMPLES, 3, 16, 16), dtype=torch.uint8))
    data = LabelledImages(images, torch.arange(SAMPLES) % 5, tuple("abcde"))
    pool = PixelPool(CPU, budget)
    preprocess = Preprocess(16, (0.5,) * 3, (0.25,) * 3)
    source = ImageSource(data, preprocess, None, pool, Augment(augment))
    pool.keep()
    torch.manual_seed(1)
    student, teacher = in_best_layout(small_student()), in_best_layout(small_teacher())
    config = TrainConfig(epochs=2, batch_size=8, accumulate=2)
    records = []

    class Listener:
        def on_step(self, record: Any) -> None:
            records.append(record.losses)

        def on_epoch(self, record: Any) -> None: ...

    with Distiller(
        teacher,
        student,
        entries,
        sample_input=source.batch(torch.arange(2)).inputs,
        setup=Setup(targets=source.targets),
        execution=execution,
    ) as distiller:
        kept = CacheConfig.model_validate({"mode": mode, "folder": folder, "dtype": dtype})
        request = Request(distiller.teachers, source, config.micro_batch, CPU, {"teacher": "one"})
        signals = SignalCache(kept, lambda _: None).source(request)
        assert signals.needs_inputs == (mode == "off")
        train(
            distiller, source, config, 3, signals=signals, workers=workers, observers=[Listener()]
        )
        weights = [*student.state_dict().values(), *distiller.strategies.state_dict().values()]
        assert len(records) == 2 * 3
        return records, [weight.clone() for weight in weights if isinstance(weight, torch.Tensor)]


def _same(one: Numbers, other: Numbers) -> bool:
    return one[0] == other[0] and all(map(torch.equal, one[1], other[1]))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Numbers]:
    folder = tmp_path_factory.mktemp("unused")
    return {"plain": _run(folder, "off"), "views": _run(folder, "off", ACTIONS)}


@pytest.mark.parametrize("views", ["plain", "views"])
@pytest.mark.parametrize("mode", ["memory", "disk"])
def test_live_and_kept_give_the_same_history_and_weights(
    tmp_path: Path, reference: dict[str, Numbers], mode: str, views: str
) -> None:
    augment = ACTIONS if views == "views" else PLAIN
    assert _same(_run(tmp_path, mode, augment), reference[views])
    assert _same(_run(tmp_path, mode, augment), reference[views])  # on disk, now read


def test_another_view_gives_another_history(reference: dict[str, Numbers]) -> None:  # the control
    assert not _same(reference["plain"], reference["views"])


@pytest.mark.parametrize(("budget", "workers"), [(0, 0), (0, 2), (10**9, 2)])
@pytest.mark.parametrize("mode", ["off", "memory"])
def test_either_way_of_making_batches_gives_the_same_history(
    tmp_path: Path, reference: dict[str, Numbers], budget: int, workers: int, mode: str
) -> None:
    assert _same(_run(tmp_path, mode, ACTIONS, budget, workers), reference["views"])


@pytest.mark.parametrize("entry", EVERYTHING, ids=str)
def test_each_alone_gives_the_same_kept_and_live(tmp_path: Path, entry: Strategy | str) -> None:
    alone = [_run(tmp_path, mode, ACTIONS, entries=[entry]) for mode in ("off", "disk")]
    assert _same(*alone)


def test_in_bfloat16_live_and_kept_are_the_same_too_and_not_those_of_float32(
    tmp_path: Path, reference: dict[str, Numbers]
) -> None:
    mixed = Execution(torch.bfloat16)
    live, kept = (_run(tmp_path, mode, execution=mixed) for mode in ("off", "memory"))
    assert _same(live, kept)
    assert not _same(live, reference["plain"])


def test_a_shorter_number_format_changes_the_numbers_and_not_by_much(
    tmp_path: Path, reference: dict[str, Numbers]
) -> None:
    short = _run(tmp_path, "memory", dtype="float16")
    exact = reference["plain"]
    assert not _same(short, exact)
    for one, other in zip(short[0], exact[0], strict=True):
        assert one["total"] == pytest.approx(other["total"], rel=1e-2)
