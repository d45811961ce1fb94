"""Groups stay whole and classes keep their shares."""

import numpy as np

from dermgen.data.splits import crossing_groups, join_groups, split_groups

FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}


def test_images_that_share_a_lesion_a_patient_or_a_copy_are_one_group():
    lesions = ["a", "a", "b", "", "", "c"]
    patients = ["", "p", "p", "", "q", "q"]
    groups = join_groups(lesions, patients, pairs=[(3, 5)])
    assert groups.tolist() == [0, 0, 0, 1, 1, 1]
    assert join_groups(lesions, patients).tolist() == [0, 0, 0, 1, 2, 2]


def test_no_group_crosses_and_every_class_is_near_its_share():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 5, 900)
    groups = np.repeat(np.arange(900), sizes)
    labels = np.repeat(rng.choice(["nv", "mel", "df"], 900, p=[0.8, 0.17, 0.03]), sizes)
    splits = split_groups(labels, groups, FRACTIONS, seed=1)
    assert crossing_groups(splits, groups) == 0
    for label in ("nv", "mel", "df"):
        mine = splits[labels == label]
        for name, share in FRACTIONS.items():
            assert abs((mine == name).sum() - share * len(mine)) <= 4, (label, name)


def test_a_split_is_the_same_for_the_same_seed_only():
    labels, groups = ["nv"] * 60, np.arange(60)
    first = split_groups(labels, groups, FRACTIONS, 0)
    assert np.array_equal(first, split_groups(labels, groups, FRACTIONS, 0))
    assert not np.array_equal(first, split_groups(labels, groups, FRACTIONS, 1))


def test_crossing_groups_are_counted():
    assert crossing_groups(["train", "val", "train", "test"], [0, 0, 1, 2]) == 1
