"""Random subsets are the same for a seed, take one image per lesion first, and do not depend on the table's order."""

import numpy as np
import pandas as pd
import pytest

from dermgen.data.subsets import choose, subset


def sorted_table() -> pd.DataFrame:
    """40 images of 20 lesions with two views each, sorted by class and kind: 28 nv, 8 mel, 4 bkl."""
    dx = ["nv"] * 28 + ["mel"] * 8 + ["bkl"] * 4
    lesions = [f"L{i // 2:02d}" for i in range(40)]
    table = pd.DataFrame({"image_id": [f"i{i:02d}" for i in range(40)], "lesion_id": lesions, "dx": dx})
    return table.assign(kind=["follow_up"] * 14 + ["histo"] * 14 + ["histo"] * 12)


@pytest.mark.parametrize("seed", range(5))
def test_a_subset_of_a_sorted_table_holds_both_kinds_and_one_image_per_lesion_first(seed):
    nevi = sorted_table()[:28]
    few = subset(nevi, 10, seed)
    assert few["lesion_id"].nunique() == 10
    assert few["kind"].nunique() == 2
    most = subset(nevi, 20, seed)
    assert most["lesion_id"].nunique() == 14


def test_the_same_seed_gives_the_same_subset_whatever_the_order_of_the_rows():
    table = sorted_table()
    first = subset(table, 15, 3)
    assert set(subset(table.sample(frac=1, random_state=0), 15, 3)["image_id"]) == set(first["image_id"])
    assert list(first.index) == sorted(first.index)
    assert set(subset(table, 15, 4)["image_id"]) != set(first["image_id"])
    assert set(first["image_id"]) <= set(subset(table, 16, 3)["image_id"])


@pytest.mark.parametrize("number", [10, 20, 33])
def test_classes_keep_their_shares_to_within_one_image(number):
    counts = subset(sorted_table(), number, 0)["dx"].value_counts()
    for dx, n in {"nv": 28, "mel": 8, "bkl": 4}.items():
        assert abs(counts[dx] - number * n / 40) <= 1
    assert counts.sum() == number


def test_classes_take_turns_or_have_the_same_number_each():
    table = sorted_table()
    assert subset(table, 15, 0, "turns")["dx"].value_counts().to_dict() == {"nv": 6, "mel": 5, "bkl": 4}
    assert subset(table, 5, 0, "each")["dx"].value_counts().to_dict() == {"nv": 5, "mel": 5, "bkl": 4}


def test_every_image_of_a_class_is_equally_likely():
    table = sorted_table()
    times = np.zeros(40)
    for seed in range(2000):
        times[choose(table["image_id"], 10, seed, table["lesion_id"], table["dx"])] += 1
    assert np.abs(times[:28] / 2000 - 0.25).max() < 0.05


def test_images_of_unknown_lesion_are_separate_lesions_and_too_large_a_number_means_all():
    assert list(choose(["a", "b", "c"], 2, 0, ["", "", "a"])) in ([0, 1], [0, 2], [1, 2])
    assert list(choose(["a", "b", "c"], 9, 0)) == [0, 1, 2]
    assert len(choose([], 4, 0)) == 0
