import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from kdcore import Features, Strategy, Taps, hookimpl
from kdcore.cache import build_cache, bytes_needed
from kdcore.data.source import DatasetSource
from kdcore.distiller import Distiller
from kdcore.taps import TapAddress


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
    distiller = Distiller(teacher, nn.Linear(3, 2), [_Tapping()], sample_input=sample)
    distiller.teacher_batch = 4
    return distiller, source


def test_what_is_read_is_what_the_teacher_says_of_these_samples() -> None:
    distiller, source = _distiller()
    cache = build_cache(distiller, source)
    indices = torch.tensor([9, 2, 10])
    read = cache.gather(indices)["teacher"]
    live = distiller.teacher_signals(source.batch(indices).inputs)["teacher"]
    assert read.logits is not None
    assert live.logits is not None
    assert torch.equal(read.logits, live.logits)
    tap = TapAddress.parse("0")
    assert torch.equal(read.activations[tap], live.activations[tap])


def test_other_samples_read_other_signals() -> None:
    distiller, source = _distiller()
    cache = build_cache(distiller, source)
    one, other = (cache.gather(torch.tensor([i]))["teacher"].logits for i in (0, 1))
    assert one is not None
    assert other is not None
    assert not torch.equal(one, other)


def test_the_size_is_known_before_anything_is_kept() -> None:
    distiller, source = _distiller()
    # 11 samples of 2 logits and 5 activations, 4 bytes each.
    assert bytes_needed(distiller, source) == 11 * (2 + 5) * 4


def test_the_teacher_runs_once_a_sample() -> None:
    distiller, source = _distiller()
    teacher = distiller._assembly.teachers["teacher"].model
    seen: list[int] = []
    teacher.register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
    cache = build_cache(distiller, source)
    assert seen == [4, 4, 4]
    cache.gather(torch.arange(11))
    assert seen == [4, 4, 4]
