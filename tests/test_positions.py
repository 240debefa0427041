"""Sequences and segmentation: losses against float64, what is a row, and scores by hand."""

import math
from collections.abc import Iterator, Sequence
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from kdcore import Distiller, Strategy, hookimpl
from kdcore.auxiliary import AuxiliaryLosses
from kdcore.contract import Features
from kdcore.errors import DataError
from kdcore.positions import Positions, Segmentation, Sequences
from kdcore.tasks import PADDING, UNLABELLED, Counts, without_targets

VOID = UNLABELLED
CLASSES = 3


def _logits(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


TOKENS = torch.tensor([[0, 2, VOID, 1], [1, VOID, VOID, VOID], [VOID] * 4])
PIXELS = TOKENS.view(3, 2, 2)


def _entropy(row: Sequence[float], target: int, smoothing: float = 0.0) -> float:
    total = math.log(math.fsum(map(math.exp, row)))
    log_q = [value - total for value in row]
    uniform = -math.fsum(log_q) / len(row)
    return -(1 - smoothing) * log_q[target] + smoothing * uniform


def _cells(task: Positions, logits: Tensor, targets: Tensor) -> Iterator[tuple[list[float], int]]:
    """Go through positions in the order of the targets."""
    last = logits if task.kind == "sequences" else logits.permute(0, 2, 3, 1)
    rows = last.reshape(targets.numel(), -1).tolist()
    yield from zip(rows, targets.flatten().tolist(), strict=True)


CASES = [
    (Sequences(), _logits(3, 4, CLASSES), TOKENS),
    (Sequences(0.2), _logits(3, 4, CLASSES), TOKENS),
    (Segmentation(), _logits(3, CLASSES, 2, 2), PIXELS),
    (Segmentation(0.1), _logits(3, CLASSES, 2, 2), PIXELS),
]
each_case = pytest.mark.parametrize(("task", "logits", "targets"), CASES)


@each_case
def test_the_loss_is_the_cross_entropy_at_each_position(
    task: Positions, logits: Tensor, targets: Tensor
) -> None:
    expected = [
        0.0 if target == VOID else _entropy(row, target, task.label_smoothing)
        for row, target in _cells(task, logits, targets)
    ]
    loss = task.loss(logits, targets)
    assert loss.shape == targets.shape
    assert loss.flatten().tolist() == pytest.approx(expected, rel=1e-13)


@each_case
def test_a_position_without_a_target_has_no_gradient(
    task: Positions, logits: Tensor, targets: Tensor
) -> None:
    logits = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(task.loss(logits, targets).sum(), logits)
    for row, target in _cells(task, gradient, targets):
        assert any(row) == (target != VOID)


@each_case
def test_rows_are_positions_with_a_target_and_all_of_a_sample_without_any(
    task: Positions, logits: Tensor, targets: Tensor
) -> None:
    cells = [row for row, _ in _cells(task, logits, targets)]
    expected = [cells[place] for place in (0, 1, 3, 4, 8, 9, 10, 11)]
    assert task.rows(logits, targets).tolist() == expected
    assert task.count(3, targets) == Counts(3, 8, torch.tensor(4))
    assert list(task.row_shape(logits.shape)) == [12, CLASSES]


@each_case
def test_targets_of_a_batch_that_has_none_make_every_position_a_row(
    task: Positions, logits: Tensor, targets: Tensor
) -> None:
    none = task.unlabelled(logits)
    assert none.shape == targets.shape
    assert task.count(3, none) == Counts(3, 12, torch.tensor(0))
    assert len(task.rows(logits, none)) == 12
    assert not task.loss(logits, none).any()


@pytest.mark.parametrize(
    ("task", "logits", "targets"),
    [
        (Sequences(), (3, 4, 5), (3,)),
        (Sequences(), (3, 4, 5), (3, 5)),
        (Sequences(), (3, 5), (3, 5)),
        (Segmentation(), (3, 5, 2, 2), (3, 2, 3)),
        (Segmentation(), (3, 5, 2, 2), (3, 4)),
        (Segmentation(), (3, 5), (3,)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    task: Positions, logits: tuple[int, ...], targets: tuple[int, ...]
) -> None:
    outputs, given = torch.zeros(logits), torch.zeros(targets, dtype=torch.int64)
    for use in (task.loss, task.rows, task.tally):
        with pytest.raises(DataError, match=rf"{task.kind} takes logits \[batch, .*, got \["):
            use(outputs, given)
    with pytest.raises(DataError, match=r"and float32 \["):
        task.loss(outputs, given.float())


def test_mixed_samples_are_refused_where_targets_are_positions() -> None:
    from kdcore.tasks import Mixed

    mixed = Mixed(TOKENS, torch.ones(3))
    with pytest.raises(DataError, match="mixup and CutMix mix the labels of whole images"):
        Sequences().mixed_loss(_logits(3, 4, CLASSES), TOKENS, mixed)


def test_token_accuracy_and_perplexity_are_those_of_the_tokens_that_have_a_target() -> None:
    task, logits = Sequences(), _logits(3, 4, CLASSES)
    cells = [(row, t) for row, t in _cells(task, logits, TOKENS) if t != VOID]
    right = sum(row.index(max(row)) == target for row, target in cells)
    entropy = math.fsum(_entropy(row, target) for row, target in cells) / len(cells)
    scores = task.scores(task.tally(logits, TOKENS))
    assert list(scores) == ["token accuracy", "perplexity"]
    assert scores["token accuracy"] == 100 * right / 4
    assert scores["perplexity"] == pytest.approx(math.exp(entropy), rel=1e-12)
    assert task.scores(task.tally(logits, task.unlabelled(logits))) == {}


def test_a_perplexity_that_no_float_holds_is_a_large_number() -> None:
    task = Sequences()
    logits = torch.tensor([[[0.0, 1e6]]])
    assert task.scores(task.tally(logits, torch.tensor([[0]])))["perplexity"] > 1e300


def test_mean_iou_is_that_of_the_classes_that_occur() -> None:
    # Class 3 neither occurs nor is predicted; the confusion of the others by hand:
    # of class 0 two of three, of class 1 one of two, of class 2 one of one.
    targets = torch.tensor([[[0, 0, 0], [1, 1, 2], [VOID, VOID, VOID]]])
    predicted = torch.tensor([[[0, 0, 1], [1, 2, 2], [0, 1, 2]]])
    logits = nn.functional.one_hot(predicted, 4).movedim(-1, 1).double()
    task = Segmentation()
    scores = task.scores(task.tally(logits, targets))
    assert list(scores) == ["mean IoU", "pixel accuracy"]
    assert scores["pixel accuracy"] == pytest.approx(100 * 4 / 6)
    assert scores["mean IoU"] == pytest.approx(100 * (2 / 3 + 1 / 3 + 1 / 2) / 3)


def test_mean_iou_is_that_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(1)
    targets = torch.randint(4, (5, 6, 7), generator=generator)
    logits = torch.randn(5, 4, 6, 7, generator=generator)
    task = Segmentation()
    scores = task.scores(task.tally(logits, targets))
    given, predicted = targets.flatten(), logits.argmax(1).flatten()
    expected = metrics.jaccard_score(given, predicted, average="macro")
    assert scores["mean IoU"] == pytest.approx(100 * expected, rel=1e-12)


@pytest.mark.parametrize(("task", "logits", "targets"), [CASES[0], CASES[2]])
def test_what_is_counted_adds_up_to_the_same_bits_however_samples_are_split(
    task: Positions, logits: Tensor, targets: Tensor
) -> None:
    counts = 2 if task.kind == "sequences" else None  # its cross-entropy is no count
    whole = task.tally(logits, targets)[:counts]
    for sizes in ([1, 2], [2, 1], [1, 1, 1]):
        parts = zip(torch.split(logits, sizes), torch.split(targets, sizes), strict=True)
        tallies = torch.stack([task.tally(*part) for part in parts])
        assert torch.equal(tallies.sum(0)[:counts], whole)


# In a distiller


class Match(Strategy):
    """One value a row."""

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        return (student.logits - teacher.logits).square().mean(1)


class PerSample(Strategy):
    """One value a sample, whatever rows there are."""

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, targets: Tensor) -> Tensor:
        weights = torch.arange(1.0, len(targets) + 1, dtype=student.logits.dtype)
        return student.logits.square().mean() * weights


class Net(nn.Module):
    """Tokens or pixels to classes, position by position."""

    def __init__(self, pixels: bool, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        layer = nn.Conv2d(2, CLASSES, 1) if pixels else nn.Linear(2, CLASSES)
        self.layer: nn.Module = layer.double()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


def _batch(pixels: bool) -> tuple[Tensor, Tensor]:
    """Six samples of four positions: some masked, one with none."""
    generator = torch.Generator().manual_seed(3)
    targets = torch.randint(CLASSES, (6, 2, 2), generator=generator)
    targets[torch.rand(6, 2, 2, generator=generator) < 0.4] = VOID
    targets[4] = VOID
    inputs = torch.randn(6, 2, 2, 2, generator=generator, dtype=torch.float64)
    if pixels:
        return inputs, targets
    return inputs.flatten(2).movedim(1, 2).contiguous(), targets.flatten(1)


def _accumulated(
    pixels: bool, sizes: list[int], *, counted: bool = True
) -> tuple[list[Tensor], dict[str, float]]:
    task = Segmentation() if pixels else Sequences()
    inputs, targets = _batch(pixels)
    with Distiller(
        Net(pixels, 1), Net(pixels, 2), [Match, "logits"], sample_input=inputs, task=task
    ) as distiller:
        counts, sums = task.count(6, targets), dict[str, float]()
        for x, y in zip(torch.split(inputs, sizes), torch.split(targets, sizes), strict=True):
            losses = distiller(x, y, counts=counts if counted else None)
            torch.autograd.backward(losses.total if counted else losses.total / len(sizes))
            for label, value in {"task": losses.task, **losses.auxiliary}.items():
                sums[label] = sums.get(label, 0.0) + float(value.detach())
        return [p.grad for p in distiller.parameters() if p.grad is not None], sums


@pytest.mark.parametrize("pixels", [False, True])
def test_uneven_micro_batches_add_up_to_the_whole_step(pixels: bool) -> None:
    whole, sums = _accumulated(pixels, [6])
    for sizes in ([2, 2, 2], [1, 4, 1], [4, 1, 1]):
        parts, summed = _accumulated(pixels, sizes)
        for one, other in zip(whole, parts, strict=True):
            assert (one - other).abs().max() < 1e-12
        assert summed == pytest.approx(sums, abs=1e-12)
    wrong, _ = _accumulated(pixels, [1, 4, 1], counted=False)  # the control: means of means
    assert max(float((a - b).abs().max()) for a, b in zip(whole, wrong, strict=True)) > 1e-2


@pytest.mark.parametrize("pixels", [False, True])
def test_methods_hear_the_rows_of_the_teacher_too(pixels: bool) -> None:
    task = Segmentation() if pixels else Sequences()
    inputs, targets = _batch(pixels)
    teacher, student = Net(pixels, 1), Net(pixels, 2)
    with Distiller(teacher, student, [Match], sample_input=inputs, task=task) as distiller:
        found = distiller(inputs, targets).auxiliary[Match.__name__.lower()]
    rows = [task.rows(model(inputs), targets) for model in (student, teacher)]
    expected = (rows[0] - rows[1]).square().mean().item()
    assert found.item() == pytest.approx(expected, rel=1e-13)


def test_a_loss_by_sample_stays_one_in_a_batch_of_as_many_rows() -> None:
    inputs, targets = _batch(pixels=False)
    few = torch.full_like(targets[:2], VOID)
    few[:, 0] = 1  # two samples, two rows
    whole = Counts(10, 40, torch.tensor(2))
    with Distiller(
        Net(False, 1), Net(False, 2), [PerSample], sample_input=inputs, task=Sequences()
    ) as distiller:

        def asked() -> float:
            (value,) = distiller(inputs[:2], few, counts=whole).auxiliary.values()
            return float(value.detach())

        found = asked()
        saved = distiller.get_extra_state()
        distiller._auxiliary.per.known.clear()
        with patch.object(AuxiliaryLosses, "_unsure", lambda *_: False):  # the control
            assert asked() == pytest.approx(found / 4)  # over 40 rows, not over 10 samples
        distiller._auxiliary.per.known.clear()
        distiller(inputs, targets)
        assert asked() == found
        distiller.set_extra_state(saved)
        assert asked() == found


def test_labels_that_are_taken_away_leave_padding_what_it_was() -> None:
    targets = torch.tensor([[1, 2, UNLABELLED], [UNLABELLED] * 3])
    bare = without_targets(targets)
    assert bare.tolist() == [[UNLABELLED, UNLABELLED, PADDING], [UNLABELLED] * 3]
    assert without_targets(bare).tolist() == bare.tolist()
    assert Sequences().count(2, bare).rows == 5
    logits = torch.randn(2, 3, 4)
    assert Sequences().rows(logits, bare).shape == (5, 4)
    assert Sequences().loss(logits, bare).tolist() == [[0.0] * 3] * 2
    assert Sequences().scores(Sequences().tally(logits, bare)) == {}
