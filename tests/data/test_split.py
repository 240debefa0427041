"""Splits and choices of labels: properties that hold for any data, and what is refused."""

import random
from collections import Counter
from collections.abc import Sequence

import pytest

from kdcore.data.split import shuffled, stratified_split, stratified_subset
from kdcore.errors import DataError
from kdcore.randomness import stream
from kdcore.tasks import UNLABELLED


def _many(seed: int, samples: int = 600, groups: int = 90) -> tuple[list[int], list[str]]:
    """Return targets of three unequal classes, and groups that span classes."""
    source = random.Random(seed)
    targets = source.choices([0, 1, 2], weights=[6, 3, 1], k=samples)
    return targets, [f"patient {source.randrange(groups)}" for _ in range(samples)]


def _groups_of(indices: Sequence[int], groups: Sequence[str]) -> set[str]:
    return {groups[index] for index in indices}


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_every_class_gives_the_same_share(share: float) -> None:
    targets = [0] * 100 + [1] * 50 + [2] * 10
    kept, held = stratified_split(targets, share, seed=0)
    assert Counter(targets[i] for i in held) == {0: 100 * share, 1: 50 * share, 2: 10 * share}
    assert sorted(kept + held) == list(range(160))


def test_both_sides_are_ascending() -> None:
    kept, held = stratified_split([0, 1] * 50, 0.3, seed=1)
    assert kept == sorted(kept)
    assert held == sorted(held)


def test_a_class_of_two_has_one_sample_on_each_side_whatever_the_share() -> None:
    targets = [0] * 50 + [1] * 2
    for share in (0.01, 0.99):
        kept, held = stratified_split(targets, share, seed=0)
        assert len({50, 51} & set(kept)) == len({50, 51} & set(held)) == 1


def test_a_class_of_one_is_kept() -> None:
    kept, _ = stratified_split([0, 0, 0, 1], 0.5, seed=0)
    assert 3 in kept


def test_unlabelled_samples_are_kept() -> None:
    targets = [UNLABELLED, 0, 0, 1, 1, UNLABELLED]
    kept, held = stratified_split(targets, 0.5, seed=0)
    assert {0, 5} <= set(kept)
    assert len(held) == 2


def test_a_split_depends_on_nothing_but_its_arguments() -> None:
    targets, groups = _many(0)
    assert stratified_split(targets, 0.2, 3) == stratified_split(targets, 0.2, 3)
    assert stratified_split(targets, 0.2, 3, groups) == stratified_split(targets, 0.2, 3, groups)


def test_another_seed_gives_another_split() -> None:
    targets, groups = _many(0)
    assert stratified_split(targets, 0.2, 3) != stratified_split(targets, 0.2, 4)
    assert stratified_split(targets, 0.2, 3, groups) != stratified_split(targets, 0.2, 4, groups)


@pytest.mark.parametrize("seed", range(5))
def test_a_group_never_lies_on_both_sides(seed: int) -> None:
    targets, groups = _many(seed)
    kept, held = stratified_split(targets, 0.2, seed, groups)
    assert not _groups_of(kept, groups) & _groups_of(held, groups)
    # The control: a split that does not know of the groups parts them.
    kept, held = stratified_split(targets, 0.2, seed)
    assert _groups_of(kept, groups) & _groups_of(held, groups)


@pytest.mark.parametrize("seed", range(5))
def test_groups_that_span_classes_still_keep_the_shares(seed: int) -> None:
    targets, groups = _many(seed)
    _, held = stratified_split(targets, 0.2, seed, groups)
    sizes = Counter(targets)
    for target, count in Counter(targets[i] for i in held).items():
        assert count / sizes[target] == pytest.approx(0.2, abs=0.03)


def test_groups_of_unequal_sizes_are_put_together_to_the_share() -> None:
    sizes = [50, 30, 20]
    groups = [f"group {size}" for size in sizes for _ in range(size)]
    _, held = stratified_split([0] * 100, 0.2, 0, groups)
    assert _groups_of(held, groups) == {"group 20"}


def test_groups_of_one_sample_split_as_exactly_as_no_groups() -> None:
    targets, _ = _many(0)
    groups = [str(index) for index in range(len(targets))]
    _, alone = stratified_split(targets, 0.2, 0, groups)
    _, plain = stratified_split(targets, 0.2, 0)
    assert Counter(targets[i] for i in alone) == Counter(targets[i] for i in plain)


def test_a_rare_class_is_on_both_sides_though_its_groups_are_large() -> None:
    targets = [0] * 90 + [1] * 2
    groups = [str(index // 10) for index in range(90)] + ["0", "1"]
    kept, held = stratified_split(targets, 0.1, 0, groups)
    assert 1 in {targets[i] for i in kept}
    assert 1 in {targets[i] for i in held}


def test_both_sides_have_a_class_even_where_that_spoils_the_shares_of_others() -> None:
    one_group = [0] * 50 + [1] + [2] * 50
    groups = ["left"] * 101 + ["right"] * 101
    kept, held = stratified_split(one_group * 2, 0.05, 0, groups)
    assert len(kept) == len(held) == 101


@pytest.mark.parametrize("seed", range(5))
def test_no_group_could_be_moved_to_come_nearer_to_the_shares(seed: int) -> None:
    targets, groups = _many(seed, samples=200, groups=12)
    sizes = Counter(targets)
    _, held = stratified_split(targets, 0.3, seed, groups)
    chosen = _groups_of(held, groups)

    def distance(side: set[str]) -> float:
        counts = Counter(t for t, group in zip(targets, groups, strict=True) if group in side)
        return sum(((counts[t] - round(0.3 * size)) / size) ** 2 for t, size in sizes.items())

    assert all(distance(chosen) <= distance(chosen ^ {group}) + 1e-9 for group in set(groups))


def test_a_group_with_an_unlabelled_sample_is_kept_whole() -> None:
    targets = [0, 0, 0, 0, UNLABELLED]
    groups = ["a", "b", "a", "b", "b"]
    for seed in range(8):
        kept, held = stratified_split(targets, 0.5, seed, groups)
        assert (kept, held) == ([1, 3, 4], [0, 2])


def test_all_samples_in_one_group_cannot_be_split() -> None:
    with pytest.raises(DataError, match=r"class 'cat', in 1 group\(s\).*data\.group_by"):
        stratified_split([0, 0, 1, 1], 0.5, 0, ["all"] * 4, classes=["cat", "dog"])
    kept, held = stratified_split([0, 0, 1, 1], 0.5, 0, ["left", "right"] * 2)
    assert len(kept) == len(held) == 2


def test_a_class_in_one_group_cannot_be_split() -> None:
    targets = [0, 0, 0, 0, 1, 1]
    with pytest.raises(DataError, match="class 'dog'"):
        stratified_split(targets, 0.5, 0, ["a", "b", "c", "d", "e", "e"], classes=["cat", "dog"])
    stratified_split(targets, 0.5, 0, ["a", "b", "c", "d", "e", "f"], classes=["cat", "dog"])


def test_a_message_without_names_has_the_class_by_number() -> None:
    with pytest.raises(DataError, match="class 7,"):
        stratified_split([7, 7], 0.5, 0, ["all", "all"])


@pytest.mark.parametrize("targets", [[], [UNLABELLED] * 3, [0, 1, 2]])
def test_nothing_to_hold_out_is_refused(targets: list[int]) -> None:
    with pytest.raises(DataError, match="no class has two labelled images"):
        stratified_split(targets, 0.5, 0)


def test_a_large_class_is_split_exactly_by_groups_of_one() -> None:
    groups = [str(index) for index in range(20_000)]
    _, held = stratified_split([0] * 20_000, 0.2, 0, groups)
    assert len(held) == 4_000


def test_a_subset_has_classes_as_equal_as_can_be() -> None:
    targets = [0] * 30 + [1] * 20 + [2] * 10
    chosen = stratified_subset(targets, 11, seed=0)
    assert sorted(Counter(targets[i] for i in chosen).values()) == [3, 4, 4]
    assert chosen == sorted(set(chosen))


def test_what_a_small_class_cannot_give_comes_from_the_others() -> None:
    targets = [0] * 30 + [1] * 20 + [2] * 2
    chosen = stratified_subset(targets, 22, seed=0)
    assert Counter(targets[i] for i in chosen) == {0: 10, 1: 10, 2: 2}


@pytest.mark.parametrize("count", range(3, 12))
def test_every_count_from_one_a_class_to_all_can_be_chosen(count: int) -> None:
    targets = [0, 0, 0, 0, 0, 1, 1, UNLABELLED, 2, 2, 2, 2]
    chosen = stratified_subset(targets, count, seed=0)
    assert len(set(chosen)) == count
    assert {targets[i] for i in chosen} == {0, 1, 2}


@pytest.mark.parametrize("count", [1, 2, 12])
def test_too_few_or_too_many_labels_are_refused(count: int) -> None:
    targets = [0, 0, 0, 0, 0, 1, 1, UNLABELLED, 2, 2, 2, 2]
    with pytest.raises(DataError, match=f"cannot keep {count} labels.*from 3 to 11"):
        stratified_subset(targets, count, seed=0)


def test_a_subset_depends_on_its_seed_alone() -> None:
    targets, _ = _many(0)
    assert stratified_subset(targets, 50, 1) == stratified_subset(targets, 50, 1)
    assert stratified_subset(targets, 50, 1) != stratified_subset(targets, 50, 2)


def test_which_class_gets_the_odd_label_depends_on_the_seed() -> None:
    targets = [0] * 10 + [1] * 10
    firsts = [
        Counter(targets[i] for i in stratified_subset(targets, 3, seed))[0] for seed in range(20)
    ]
    assert set(firsts) == {1, 2}


def test_shuffling_keeps_what_is_shuffled() -> None:
    items = [f"item {index}" for index in range(50)]
    result = shuffled(items, stream(0, "test"))
    assert result != items
    assert sorted(result) == sorted(items)
