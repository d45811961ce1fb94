"""Groups stay whole, classes keep their shares, and splits differ by chance only."""

import numpy as np
import pandas as pd
import pytest
from conftest import ham10000, needs_ham10000

from dermgen.config import InputError
from dermgen.data import balance
from dermgen.data.splits import check_shares, crossing_groups, join_groups, split_groups

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


def test_a_split_is_determined_by_its_seed():
    labels, groups = ["nv"] * 60, np.arange(60)
    first = split_groups(labels, groups, FRACTIONS, 0)
    assert np.array_equal(first, split_groups(labels, groups, FRACTIONS, 0))
    assert not np.array_equal(first, split_groups(labels, groups, FRACTIONS, 1))


def test_crossing_groups_are_counted():
    assert crossing_groups(["train", "val", "train", "test"], [0, 0, 1, 2]) == 1


def images_a_group(splits, groups) -> pd.Series:
    return pd.Series(groups).groupby(np.asarray(splits)).agg(lambda g: len(g) / g.nunique())


def skewed(seed: int, lesions: int = 1500) -> pd.DataFrame:
    """Lesions of 1 to 6 images; those with one image are mostly of type "a", those with several of type "b"."""
    rng = np.random.default_rng(seed)
    sizes = rng.choice(6, lesions, p=[0.7, 0.15, 0.06, 0.04, 0.03, 0.02]) + 1
    dx_type = np.where(rng.random(lesions) < np.where(sizes > 1, 0.1, 0.8), "a", "b")
    dx = rng.choice(["nv", "mel", "df"], lesions, p=[0.7, 0.25, 0.05])
    table = pd.DataFrame({"group": np.arange(lesions), "dx": dx, "dx_type": dx_type})
    return table.loc[np.repeat(table.index, sizes)].reset_index(drop=True)


def test_lesions_have_about_the_same_mean_number_of_images_in_every_split_and_class():
    table = skewed(0, 3000)
    table["split"] = split_groups(table["dx"], table["group"], FRACTIONS, seed=0)
    for dx, part in table.groupby("dx"):
        mean = len(part) / part["group"].nunique()
        assert images_a_group(part["split"], part["group"]).between(mean / 1.1, mean * 1.1).all(), dx


def test_patients_with_many_and_with_few_images_are_spread_over_every_split():
    """Sizes as in ISIC 2020: 2,056 patients with 2 to 115 images, some with both classes."""
    rng = np.random.default_rng(0)
    sizes = np.maximum(2, rng.gamma(0.9, 18, 2056)).round().astype(int)
    groups = np.repeat(np.arange(2056), sizes)
    labels = np.where(rng.random(len(groups)) < 0.0176, "malignant", "benign")
    splits = split_groups(labels, groups, FRACTIONS, seed=0)
    means = images_a_group(splits, groups)
    assert means.max() / means.min() < 1.05
    shares = pd.crosstab(labels, splits, normalize="index")
    assert (shares - pd.Series(FRACTIONS)).abs().to_numpy().max() < 0.01


@needs_ham10000
def test_splits_of_ham10000_are_alike():
    table = pd.read_csv(ham10000() / "HAM10000_metadata.csv", dtype=str, keep_default_na=False)
    groups = join_groups(table["lesion_id"])
    table["split"] = split_groups(table["dx"], groups, FRACTIONS, seed=0)
    means = images_a_group(table["split"], groups)
    assert means.max() / means.min() < 1.05
    nevi = table[table["dx"] == "nv"]
    confirmed = nevi["dx_type"].eq("histo").groupby(nevi["split"]).mean()
    assert confirmed.max() - confirmed.min() < 0.06
    shares = pd.crosstab(table["dx"], table["split"], normalize="index")
    assert (shares - pd.Series(FRACTIONS)).abs().to_numpy().max() < 0.01


def test_a_split_that_comes_out_empty_or_far_from_its_share_is_refused():
    one_lesion = np.zeros(56, int)
    with pytest.raises(InputError, match=r"split val would hold 0.0% of 56 images.*they are 1 group of"):
        check_shares(split_groups(["nv"] * 56, one_lesion, FRACTIONS, 0), one_lesion, FRACTIONS)
    nearly = np.array([0] * 50 + [1, 2, 3, 4, 5, 6])
    with pytest.raises(InputError, match=r"of 56 images instead of 15%.*the largest with 50 images"):
        check_shares(split_groups(["nv"] * 56, nearly, FRACTIONS, 0), nearly, FRACTIONS)
    whole = {"train": 1.0, "val": 0.0, "test": 0.0}
    check_shares(split_groups(["nv"] * 56, one_lesion, whole, 0), one_lesion, whole)


def test_a_split_that_favours_some_lesions_gets_a_warning_and_a_fair_one_does_not():
    table = skewed(1)
    table["split"] = split_groups(table["dx"], table["group"], FRACTIONS, seed=1)
    fair = balance.compare(table, table["group"], seed=0)
    assert [d["column"] for d in fair] == ["images a group", "dx_type"]
    assert balance.warning(fair) is None
    sizes = table.groupby("group")["group"].transform("size")
    table["split"] = np.where(sizes > 1, "train", np.where(table["group"] % 2, "test", "train"))
    biased = balance.compare(table, table["group"], seed=0)
    assert "images a group, dx_type" in balance.warning(biased)
    a = table["dx_type"].eq("a").groupby(table["split"]).mean()
    assert biased[1]["difference"] == pytest.approx(abs(a["train"] - a["test"]))


def test_fair_splits_rarely_get_the_warning():
    """At 1 % of 60 random splits of groups; a test that counts images one by one would find differences."""
    warned = 0
    for seed in range(60):
        table = skewed(seed, 150)
        chosen = np.random.default_rng((seed, 1)).choice(list(FRACTIONS), 150, p=list(FRACTIONS.values()))
        differences = balance.compare(table.assign(split=chosen[table["group"]]), table["group"], seed=0)
        warned += balance.warning(differences) is not None
    assert warned <= 3
