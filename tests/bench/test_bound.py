"""The bound's images, answers and layouts; its losses are held in `test_ours`."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from kdcore.bench import bound, plain
from kdcore.bench.bound import Layout
from kdcore.bench.work import Method, Settings, Work


def _work(size: int = 6) -> Work:
    return replace(Work.of(Settings(size=size, epochs=2)), batch_size=4)


@pytest.mark.parametrize("floats", [True, False])
@pytest.mark.parametrize("channels_last", [True, False])
def test_gathered_images_are_the_tutorials(floats: bool, channels_last: bool) -> None:
    work = _work()
    indices = torch.tensor([4, 0, 5])
    images = bound.Images(work, Layout(floats, channels_last)).gather(indices)
    expected = torch.stack([plain.ArrayDataset(work)[int(index)][0] for index in indices])
    torch.testing.assert_close(images, expected, rtol=1e-5, atol=1e-6)
    form = torch.channels_last if channels_last else torch.contiguous_format
    assert images.is_contiguous(memory_format=form)


def test_answers_are_the_teachers_of_every_image() -> None:
    work, layout = _work(), Layout(True, False)
    images = bound.Images(work, layout)
    answers = bound.ask(work, images, layout)
    teacher = work.new_teacher().eval()
    with torch.no_grad():
        features = teacher.features(images.gather(torch.arange(6)))
        logits = teacher.classifier(features.flatten(1))
    torch.testing.assert_close(answers.log_probabilities.exp(), F.softmax(logits / 2, 1))
    torch.testing.assert_close(answers.maps, features.flatten(1))
    torch.testing.assert_close(answers.directions.norm(dim=1), torch.ones(6))


def test_every_epoch_has_all_images_in_another_order() -> None:
    work = _work(50)
    batches = list(bound.shuffled(work))
    assert [len(batch) for batch in batches] == ([4] * 12 + [2]) * 2
    first, second = torch.cat(batches[:13]), torch.cat(batches[13:])
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(50))
    assert first.tolist() != second.tolist()


def test_the_layout_that_took_least_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    fastest = Layout(False, True)

    def took(contenders: dict[str, object], _: int) -> dict[str, list[float]]:
        return {name: [5.0, 1.0 if name == str(fastest) else 2.0] for name in contenders}

    monkeypatch.setattr(bound, "interleave", took)
    assert bound.fastest_layout(_work()) == fastest


def test_mixed_precision_computes_the_layers_in_bfloat16() -> None:
    work, layout = _work(), Layout(True, True)
    seen: list[torch.dtype] = []
    for each in (work, replace(work, precision="bf16-mixed")):
        images = bound.Images(each, layout)
        training = bound.Training(each, Method.ALONE, layout, images, None)
        training.student.features.register_forward_hook(lambda *a: seen.append(a[2].dtype))
        (loss,) = training.train([torch.arange(4)])
        assert loss.dtype == torch.float32
    assert seen == [torch.float32, torch.bfloat16]
