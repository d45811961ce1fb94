"""A training set has the requested images, and refuses what would make its scores worthless."""

import pandas as pd
import pytest

from dermgen.classify.mixture import training_rows
from dermgen.config import InputError
from dermgen.data import manifest
from dermgen.data.manifest import read_real, read_synthetic


def rows(synthetic, **counts):
    return pd.DataFrame(
        [
            {"image_id": f"{dx}{i}{synthetic}", "dx": dx, "synthetic": synthetic, "path": "p"}
            for dx, n in counts.items()
            for i in range(n)
        ]
    )


REAL, SYNTHETIC = rows("false", nv=20, mel=4), rows("true", nv=10, mel=8)


def count(table):
    return table.groupby(["dx", "synthetic"]).size().to_dict()


def test_a_ratio_counts_synthetic_images_per_real_one_of_the_class():
    chosen = training_rows(REAL, SYNTHETIC, ratio=0.5)
    assert count(chosen) == {("nv", "false"): 20, ("mel", "false"): 4, ("nv", "true"): 10, ("mel", "true"): 2}
    assert chosen["image_id"].is_unique


def test_without_a_ratio_all_synthetic_images_are_taken():
    assert count(training_rows(REAL, SYNTHETIC, use_real=False)) == {("nv", "true"): 10, ("mel", "true"): 8}


def test_only_the_requested_classes_get_synthetic_images():
    assert count(training_rows(REAL, SYNTHETIC, ratio=2, synthetic_classes=["mel"]))[("mel", "true")] == 8
    assert ("nv", "true") not in count(training_rows(REAL, SYNTHETIC, ratio=2, synthetic_classes=["mel"]))


def test_the_images_of_a_smaller_ratio_are_among_those_of_a_larger_one():
    small, large = (set(training_rows(REAL, SYNTHETIC, ratio=r, seed=3)["image_id"]) for r in (0.25, 0.5))
    assert small < large
    assert small != set(training_rows(REAL, SYNTHETIC, ratio=0.25, seed=4)["image_id"])


def test_oversampling_makes_all_classes_equally_large_and_leaves_no_image_out():
    chosen = training_rows(REAL, None, oversample=True)
    assert chosen["dx"].value_counts().to_dict() == {"nv": 20, "mel": 20}
    assert chosen["image_id"].value_counts()[lambda n: n.index.str.startswith("mel")].tolist() == [5, 5, 5, 5]


def test_too_few_synthetic_images_are_an_error_that_says_how_many_are_needed():
    with pytest.raises(InputError, match=r"nv needs 20 synthetic images \(1 per real one\), but the set has 10"):
        training_rows(REAL, SYNTHETIC, ratio=1)


def test_kept_images_alone_can_be_used_after_the_filter_but_not_before():
    with pytest.raises(InputError, match="dermgen filter"):
        training_rows(REAL, SYNTHETIC, only_kept=True)
    kept = SYNTHETIC.assign(kept=["true", "false"] * 9)
    assert count(training_rows(REAL, kept, only_kept=True))[("nv", "true")] == 5


def test_a_class_without_training_images_or_without_real_ones_is_an_error():
    with pytest.raises(InputError, match="no training image of nv"):
        training_rows(REAL, rows("true", mel=3), use_real=False)
    with pytest.raises(InputError, match="lacks: 'df'"):
        training_rows(REAL, rows("true", df=3))


def test_a_real_manifest_is_refused_as_synthetic_and_a_synthetic_one_as_real(manifest_dir, synthetic_dir):
    with pytest.raises(InputError, match="must hold synthetic images only"):
        read_synthetic(manifest_dir)
    with pytest.raises(InputError, match="must hold real images only"):
        read_real(synthetic_dir)


def test_a_blank_in_the_column_synthetic_is_an_error_on_both_sides(manifest_dir, tmp_path):
    table = manifest.read(manifest_dir)
    table.loc[3, "synthetic"] = ""
    manifest.write(table, tmp_path)
    for read in (read_real, read_synthetic):
        with pytest.raises(InputError, match="synthetic = "):
            read(tmp_path)


def test_a_lesion_in_two_splits_is_refused(manifest_dir, tmp_path):
    table = manifest.read(manifest_dir)
    lesion = table["lesion_id"].value_counts().index[0]
    table.loc[table["lesion_id"] == lesion, "split"] = ["train", "test"] + ["train"] * (
        (table["lesion_id"] == lesion).sum() - 2
    )
    manifest.write(table, tmp_path)
    with pytest.raises(InputError, match="1 lesion or patient is in more than one split"):
        read_real(tmp_path)


def test_a_filter_that_kept_nothing_is_an_error():
    with pytest.raises(InputError, match="the synthetic set: the filter kept none of the 18 images"):
        training_rows(REAL, SYNTHETIC.assign(kept="false"), only_kept=True)
