import torch

from kdcore.data.order import Order
from kdcore.tasks import UNLABELLED


def _mixed(labelled: int, others: int) -> torch.Tensor:
    return torch.cat([torch.arange(labelled) % 3, torch.full((others,), UNLABELLED)])


def test_an_epoch_of_labelled_samples_shows_each_once_and_keeps_the_last_batch() -> None:
    batches = Order(torch.zeros(10, dtype=torch.int64), 4, 0.5, seed=1).epoch(0)
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert sorted(torch.cat(batches).tolist()) == list(range(10))


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    targets = torch.zeros(50, dtype=torch.int64)
    first = [batch.tolist() for batch in Order(targets, 8, 0.5, seed=1).epoch(3)]
    torch.manual_seed(99)
    assert [batch.tolist() for batch in Order(targets, 8, 0.5, seed=1).epoch(3)] == first
    assert [batch.tolist() for batch in Order(targets, 8, 0.5, seed=2).epoch(3)] != first
    assert [batch.tolist() for batch in Order(targets, 8, 0.5, seed=1).epoch(4)] != first


def test_each_mixed_batch_holds_the_labelled_share() -> None:
    targets = _mixed(5, 30)
    for batch in Order(targets, 8, 0.25, seed=1).epoch(0):
        assert int((targets[batch] != UNLABELLED).sum()) == 2


def test_a_mixed_epoch_shows_each_unlabelled_sample_once() -> None:
    targets = _mixed(5, 31)
    order = Order(targets, 8, 0.25, seed=1)
    batches = order.epoch(0)
    others = [index for index in torch.cat(batches).tolist() if index >= 5]
    assert sorted(others) == list(range(5, 36))
    assert len(batches) == order.steps == 6


def test_labelled_samples_are_drawn_in_rounds_so_that_none_is_left_behind() -> None:
    targets = _mixed(5, 30)
    drawn = [i for batch in Order(targets, 8, 0.25, seed=1).epoch(0) for i in batch if i < 5]
    counts = [sum(int(i) == label for i in drawn) for label in range(5)]
    assert max(counts) - min(counts) <= 1


def test_every_batch_has_a_labelled_sample_however_small_the_share() -> None:
    targets = _mixed(2, 20)
    for batch in Order(targets, 4, 0.01, seed=1).epoch(0):
        assert bool((targets[batch] != UNLABELLED).any())


def test_samples_without_any_label_are_shuffled_like_others() -> None:
    order = Order(torch.full((7,), UNLABELLED), 3, 0.5, seed=1)
    assert not order.mixes
    assert sorted(torch.cat(order.epoch(0)).tolist()) == list(range(7))


def test_a_sample_with_any_target_is_labelled_whatever_targets_are() -> None:
    tokens = torch.tensor([[UNLABELLED, 3], [UNLABELLED, UNLABELLED], [1, 2]])
    numbers = torch.tensor([[torch.nan, 3.0], [torch.nan, torch.nan], [1.0, 2.0]])
    for targets, labelled in ((tokens, {0, 2}), (numbers, {0, 2}), (numbers[:, 0], {2})):
        order = Order(targets, 2, 0.5, seed=0)
        assert order.mixes
        batches = [set(batch.tolist()) for batch in order.epoch(0)]
        # One labelled sample stands beside each of the others, which are seen once.
        assert [len(batch & labelled) for batch in batches] == [1] * (3 - len(labelled))
        assert set().union(*batches) - labelled == {0, 1, 2} - labelled
    assert not Order(numbers[::2], 2, 0.5, seed=0).mixes
