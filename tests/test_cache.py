import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from kdcore import Features, Strategy, Taps, hookimpl
from kdcore.cache import (
    CachedSignals,
    LiveSignals,
    SignalSource,
    bytes_needed,
    keep_signals,
)
from kdcore.data.source import Batch, DatasetSource
from kdcore.distiller import Distiller

CPU = torch.device("cpu")


class _Tapping(Strategy):
    @hookimpl
    def extract_features(self) -> Taps:
        return Taps(teacher={"hidden": "0"})

    @hookimpl
    def compute_auxiliary_loss(self, student: Features) -> Tensor:
        return student.logits.mean(1)


def _distiller() -> tuple[Distiller, DatasetSource]:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    source = DatasetSource(
        TensorDataset(torch.randn(11, 3), torch.zeros(11, dtype=torch.int64)), "train_data"
    )
    sample = source.batch(torch.arange(2)).inputs
    return Distiller(teacher, nn.Linear(3, 2), [_Tapping()], sample_input=sample), source


def _kept(distiller: Distiller, source: DatasetSource) -> CachedSignals:
    return keep_signals(LiveSignals(distiller.teachers, 4), source, 4, CPU)


def _logits(source: SignalSource, batch: Batch) -> Tensor:
    logits = source.signals(batch)["teacher"].logits
    assert logits is not None
    return logits


def test_what_is_read_is_what_the_teacher_says_of_these_samples() -> None:
    distiller, source = _distiller()
    batch = source.batch(torch.tensor([9, 2, 10]))
    read = _kept(distiller, source).signals(batch)["teacher"]
    live = LiveSignals(distiller.teachers, 4).signals(batch)["teacher"]
    assert [name for name, _ in read.named()] == ["logits", "tap 0"]
    for (_, one), (_, other) in zip(read.named(), live.named(), strict=True):
        assert torch.equal(one, other)


def test_other_samples_read_other_signals() -> None:
    distiller, source = _distiller()
    kept = _kept(distiller, source)
    one, other = (_logits(kept, source.batch(torch.tensor([i]))) for i in (0, 1))
    assert not torch.equal(one, other)


def test_the_size_is_known_before_anything_is_kept() -> None:
    distiller, source = _distiller()
    # 11 samples of 2 logits and 5 activations, 4 bytes each.
    live = LiveSignals(distiller.teachers, 4)
    assert bytes_needed(live, source, CPU) == 11 * (2 + 5) * 4


def test_the_teacher_runs_once_a_sample() -> None:
    distiller, source = _distiller()
    seen: list[int] = []
    teacher = distiller.teachers["teacher"].model
    teacher.register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
    kept = _kept(distiller, source)
    assert seen == [4, 4, 4]
    kept.signals(source.batch(torch.arange(11)))
    assert seen == [4, 4, 4]
