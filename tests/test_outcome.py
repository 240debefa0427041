"""What is kept of what a model said: all that it says again, and nothing of a damaged file."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kdcore import outcome
from kdcore.data.images import ArrayImages, LabelledImages
from kdcore.data.preprocess import Preprocess
from kdcore.data.source import ImageSource, Source
from kdcore.outcome import Outcome, outcome_of
from kdcore.tasks import UNLABELLED, Classification
from kdcore.values import Regression


def _source(count: int = 30) -> ImageSource:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)
    targets = torch.randint(4, (count,), generator=generator)
    targets[1] = UNLABELLED
    data = LabelledImages(ArrayImages(pixels), targets, ("a", "b", "c", "d"))
    return ImageSource(data, Preprocess(8, (0.5,) * 3, (0.5,) * 3))


def _model() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 4))


def _found(test: Source, validation: Source | None = None) -> Outcome:
    found = outcome_of(_model(), test, validation, ("a", "b", "c", "d"), Classification())
    assert found is not None
    return found


def test_it_holds_what_the_model_says_of_every_sample_in_evaluation_mode() -> None:
    source, model = _source(), _model().eval()
    expected = model(source.batch(torch.arange(30)).inputs)
    found = _found(source)
    assert torch.equal(found.logits, expected)
    assert torch.equal(found.targets, source.targets)


def test_the_worst_samples_are_those_with_the_highest_cross_entropy() -> None:
    found = _found(_source())
    probabilities = found.logits.softmax(1)
    own: dict[int, float] = {
        index: float(probabilities[index, target])
        for index, target in enumerate(found.targets.tolist())
        if target != UNLABELLED
    }
    assert found.worst.tolist() == sorted(own, key=lambda index: own[index])[:12]
    assert 1 not in found.examples.tolist()
    assert len(found.examples) == 10
    assert found.pictures.shape == (22, 3, outcome.SIDE, outcome.SIDE)
    assert found.names[0] == f"image {found.examples[0]}"


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    for validation in (None, _source(5)):
        found = _found(_source(), validation)
        found.save(tmp_path / "outcome.safetensors")
        again = Outcome.load(tmp_path / "outcome.safetensors")
        assert again is not None
        for name, value in vars(found).items():
            same = getattr(again, name)
            assert torch.equal(same, value) if isinstance(value, Tensor) else same == value


def test_a_missing_or_damaged_file_is_none(tmp_path: Path) -> None:
    file = tmp_path / "outcome.safetensors"
    assert Outcome.load(file) is None
    _found(_source()).save(file)
    file.write_bytes(file.read_bytes()[:-5])
    assert Outcome.load(file) is None


def test_other_tasks_and_samples_without_labels_have_none() -> None:
    source = _source()
    assert outcome_of(_model(), source, None, (), Regression()) is None
    source.targets = torch.full_like(source.targets, UNLABELLED)
    assert outcome_of(_model(), source, None, (), Classification()) is None


def test_of_very_many_logits_the_first_samples_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome, "MOST_LOGITS", 1024)
    source = _source(600)
    found = _found(source)
    assert found.logits.shape == (256, 4)
    assert torch.equal(found.targets, source.targets[:256])
    assert int(found.worst.max()) < 256
