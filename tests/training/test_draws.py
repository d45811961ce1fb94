"""What happens to the k-th image of a run depends on the seed and k alone."""

from itertools import islice

import torch

from dermgen.training.draws import DrawnItems, Draws, Order, Positions, derive_seed


def test_every_stretch_of_the_order_holds_each_index_once_and_epochs_differ():
    order = Order(7, 3)
    epochs = [[order[k] for k in range(7 * e, 7 * e + 7)] for e in range(4)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert [Order(7, 3)[k] for k in (20, 0, 13)] == [order[20], order[0], order[13]]
    assert [Order(7, 4)[k] for k in range(7)] != epochs[0]


def test_the_positions_of_all_ranks_together_are_those_of_one_process():
    one = list(islice(Positions(5, 0, 1), 12))
    ranks = [list(islice(Positions(5, r, 3), 4)) for r in range(3)]
    assert one == list(range(5, 17))
    assert [k for together in zip(*ranks, strict=True) for k in together] == one


def test_two_data_sets_are_shuffled_independently():
    items = DrawnItems([list("abcdefgh"), list(range(8))], seed=0)
    drawn = [items[k] for k in range(8)]
    assert sorted(x for _, x, _ in drawn) == list("abcdefgh")
    assert sorted(y for _, _, y in drawn) == list(range(8))
    assert ["abcdefgh"[y] for _, _, y in drawn] != [x for _, x, _ in drawn]


def test_the_random_numbers_of_an_image_do_not_depend_on_its_neighbours():
    together, alone = Draws([11, 12, 13]), Draws([12])
    for name, arguments in (("normal", (2, 3)), ("uniform", ()), ("integers", (1000,))):
        a, b = getattr(together, name)(*arguments), getattr(alone, name)(*arguments)
        assert torch.equal(a[1], b[0])
        assert not torch.equal(a[0], a[1])


def test_draws_have_the_distributions_they_are_named_for():
    draws = Draws([derive_seed(0, k) for k in range(4000)])
    normal, uniform, integers = draws.normal(), draws.uniform(), draws.integers(4)
    assert abs(normal.mean()) < 0.06
    assert abs(normal.std() - 1) < 0.05
    assert abs(uniform.mean() - 0.5) < 0.02
    assert 0 <= uniform.min() < 0.01
    assert 0.99 < uniform.max() < 1
    assert (torch.bincount(integers, minlength=4) / 4000 - 0.25).abs().max() < 0.03


def test_derived_seeds_depend_on_every_part_of_the_key():
    keys = [(0, 0), (0, 1), (1, 0), (0, 0, 1), (1, 1)]
    assert len({derive_seed(*key) for key in keys}) == len(keys)
