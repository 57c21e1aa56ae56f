from collections import Counter

import datasets
import pytest
import torch

from hub_models.dataset.augmentation import STRENGTHS, draw
from hub_models.dataset.batches import Arrays, EpochOrder, MaskedArrays, example_seed, training_loader
from hub_models.dataset.preprocessing import prepare
from hub_models.dataset.sources import load_splits


@pytest.fixture(scope="module")
def prepared(phantoms) -> datasets.Dataset:
    return prepare(load_splits(phantoms)["train"], 32)


def test_order_is_a_pure_function_of_seed_and_epoch() -> None:
    order = EpochOrder(20, seed=3)
    first = list(order)
    assert sorted(first) == list(range(20)) and first == list(EpochOrder(20, seed=3))
    order.set_epoch(1)
    assert list(order) != first
    assert list(EpochOrder(20, seed=4)) != first
    order.set_epoch(0)
    assert list(order) == first


def test_loader_leaves_out_the_incomplete_batch_unless_it_is_the_only_one(prepared) -> None:
    arrays = Arrays(prepared, 32)
    count = len(arrays)
    loader = training_loader(arrays, 8, seed=0)
    batches = list(loader)
    assert len(batches) == len(loader) == count // 8
    assert all(batch["pixels"].shape == (8, 32, 32) and batch["pixels"].dtype == torch.uint8 for batch in batches)
    (only,) = training_loader(arrays, count + 5, seed=0)
    assert len(only["pixels"]) == count


def test_draws_are_of_the_x_ray_the_seed_and_the_epoch(prepared) -> None:
    ranges = STRENGTHS["light"]
    arrays = Arrays(prepared, 32, ranges, seed=5)
    seeds = [example_seed(id) for id in prepared["id"]]
    assert torch.equal(arrays.__getitems__([3, 1])["drawn"], draw([seeds[3], seeds[1]], 5, 0, ranges))
    arrays.epoch = 2
    alone = arrays.__getitems__([1])["drawn"]
    assert torch.equal(alone, draw([seeds[1]], 5, 2, ranges))
    assert torch.equal(arrays.__getitems__([3, 1])["drawn"][1:], alone)  # whatever else is in the batch
    assert not torch.equal(Arrays(prepared, 32, ranges, seed=6).__getitems__([1])["drawn"], alone)


def test_hidden_patches_are_of_the_x_ray_the_seed_and_the_epoch(prepared) -> None:
    arrays = MaskedArrays(prepared, 32, STRENGTHS["crops"], seed=5, patches=16)
    both = arrays.__getitems__([3, 1])
    assert both["noise"].shape == (2, 16) and both["noise"].dtype == torch.float32 and "drawn" in both
    assert torch.equal(arrays.__getitems__([1])["noise"], both["noise"][1:])  # whatever else is in the batch
    arrays.epoch = 1
    assert not torch.equal(arrays.__getitems__([1])["noise"], both["noise"][1:])
    assert not torch.equal(both["noise"][0], both["noise"][1])


def test_what_stays_of_a_mixed_x_ray_is_of_the_x_ray_the_seed_and_the_epoch(prepared) -> None:
    arrays = Arrays(prepared, 32, seed=5, mixup=0.4)
    indices = list(range(len(arrays)))
    own = arrays.__getitems__(indices)["own"]
    assert torch.equal(arrays.__getitems__([3, 1])["own"], own[[3, 1]]) and "own" not in Arrays(
        prepared, 32
    ).__getitems__([1])
    arrays.epoch = 1
    assert not torch.equal(arrays.__getitems__([1])["own"], own[1:2])
    drawn = torch.cat([own, *(arrays.__getitems__(indices)["own"] for arrays.epoch in range(1, 40))])
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.03)
    assert drawn.var().item() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), rel=0.05)  # of Beta(A, A): 1 / (4 (2 A + 1))


def test_balanced_order_takes_each_group_equally_often() -> None:
    groups = [0] * 14 + [1] * 4 + [2] * 2  # of 20, so 6 or 7 each
    order = EpochOrder(20, seed=3, groups=groups)
    more, seen = Counter(), set()
    for epoch in range(30):
        order.set_epoch(epoch)
        taken = list(order)
        assert taken == list(order) and len(taken) == len(order) == 20
        counts = Counter(groups[index] for index in taken)
        assert set(counts.values()) <= {6, 7} and len(counts) == 3
        more.update(group for group in counts if counts[group] == 7)
        times = Counter(taken)
        assert max(times[index] for index in range(14)) == 1  # some of one shuffle
        assert {times[index] for index in range(14, 18)} <= {1, 2}  # two shuffles of 4, cut off
        assert {times[index] for index in range(18, 20)} <= {3, 4}
        seen.update(taken)
    assert min(more.values()) > 5  # 20 = 6 + 7 + 7: two of three groups, 20 times of 30 on average
    assert seen == set(range(20))


def test_balanced_order_needs_a_group_for_each() -> None:
    with pytest.raises(ValueError, match="3 X-rays.*groups of 2"):
        EpochOrder(3, seed=0, groups=[0, 1])
    assert list(EpochOrder(0, seed=0, groups=[])) == []
    assert sorted(EpochOrder(3, seed=0, groups=[1, 1, 1])) == [0, 1, 2]  # one group: as without


def test_balanced_loader_shows_both_labels_alike(prepared) -> None:
    arrays = Arrays(prepared, 32)
    (batch,) = training_loader(arrays, len(arrays), seed=0, balanced=True)
    assert abs(len(arrays) - 2 * int(batch["label"].sum())) <= 1
    (plain,) = training_loader(arrays, len(arrays), seed=0)
    assert int(plain["label"].sum()) == sum(arrays.prepared["label"]) != int(batch["label"].sum())
