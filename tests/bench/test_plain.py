"""The tutorial's loader and changed models."""

import numpy as np
import torch

from kdcore.bench import plain
from kdcore.bench.work import Settings, Work


def test_the_dataset_gives_what_torchvision_would() -> None:
    work = Work.of(Settings(size=3))
    image, target = plain.ArrayDataset(work)[1]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (work.images[1].astype(np.float64) / 255 - mean) / std
    np.testing.assert_allclose(image.numpy(), expected.transpose(2, 0, 1), rtol=1e-5, atol=1e-6)
    assert target == int(work.targets[1])


def test_the_loader_is_the_tutorials() -> None:
    loader = plain.new_loader(Work.of(Settings(size=130)))
    assert (loader.batch_size, loader.num_workers, len(loader)) == (128, 2, 2)
    assert isinstance(loader.sampler, torch.utils.data.RandomSampler)
    assert not loader.persistent_workers


def test_changed_models_return_what_is_compared() -> None:
    x = torch.randn(2, 3, 32, 32)
    teacher = plain.DeepNNWithHidden().eval()
    logits, hidden = teacher(x)
    flat = teacher.features(x).flatten(1)
    assert torch.equal(logits, teacher.classifier(flat))
    # Neighbours in pairs.
    torch.testing.assert_close(hidden, (flat[:, 0::2] + flat[:, 1::2]) / 2)
    shapes = {
        kind: kind().eval()(x)[1].shape[1:]
        for kind in (plain.LightNNWithHidden, plain.DeepNNWithMap, plain.LightNNWithRegressor)
    }
    assert list(shapes.values()) == [(1024,), (32, 8, 8), (32, 8, 8)]


def test_no_gradient_reaches_the_teacher() -> None:
    work = Work.of(Settings(size=2))
    teacher = plain.DeepNNWithMap().eval()
    student = plain.LightNNWithRegressor()
    loss = plain.regressor_loss(teacher, student)(torch.randn(2, 3, 32, 32), work.targets)
    loss.backward()  # type: ignore[no-untyped-call]  # as PyTorch has it
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is not None for parameter in student.parameters())
