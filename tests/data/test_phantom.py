"""Phantoms are the same for the same seed, with exact masks and distinguishable classes."""

import hashlib

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dermgen.config import InputError
from dermgen.data.phantom import PhantomConfig, draw_lesion, write_phantoms
from dermgen.labels import HAM10000


def digest(folder):
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != "config.yaml"
    }


def test_the_same_seed_draws_the_same_files(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_phantoms(PhantomConfig(output_dir=str(tmp_path / name), num_lesions=7, seed=seed, height=64))
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert digest(tmp_path / "a") != digest(tmp_path / "c")


def test_lesions_have_one_to_four_views_of_one_class_and_all_classes_occur(phantoms):
    table = pd.read_csv(phantoms / "HAM10000_metadata.csv")
    views = table.groupby("lesion_id").size()
    assert set(views) <= {1, 2, 3, 4}
    assert len(set(views)) > 2
    assert set(table["dx"]) == set(HAM10000.codes)
    assert (table.groupby("lesion_id")["dx"].nunique() == 1).all()


def test_the_mask_is_where_the_lesion_differs_from_the_skin():
    for lesion, code in enumerate(HAM10000.codes):
        image, mask, _ = draw_lesion(code, 0, lesion, 128)[0]
        inside = mask > 127
        assert 0.03 < inside.mean() < 0.6
        skin = np.median(image[~inside], axis=0)
        difference = np.abs(image.astype(float) - skin).sum(2)
        assert np.median(difference[inside]) > 2.5 * np.median(difference[~inside]), code


@pytest.mark.slow
def test_classes_can_be_distinguished_by_their_colours():
    # Nearest class mean of colour histograms on lesions not used for the means.
    def features(code, lesion):
        image, mask, _ = draw_lesion(code, 3, lesion, 96)[0]
        pixels = image[mask > 127] // 43
        return np.bincount(pixels @ [36, 6, 1], minlength=216) ** 0.5 / len(pixels) ** 0.5

    means = {c: np.mean([features(c, n) for n in range(8)], axis=0) for c in HAM10000.codes}
    hits = [
        min(means, key=lambda c: np.linalg.norm(means[c] - features(code, n))) == code
        for code in HAM10000.codes
        for n in range(100, 104)
    ]
    assert np.mean(hits) > 0.8


def test_a_folder_of_something_else_and_an_unknown_class_are_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="not dermgen's"):
        write_phantoms(PhantomConfig(output_dir=str(tmp_path), num_lesions=7))
    with pytest.raises(InputError, match="unknown class 'wart'"):
        PhantomConfig(output_dir="x", classes=["wart"])


def test_every_image_has_a_mask_of_its_size_in_a_folder_of_its_own(phantoms):
    images = sorted((phantoms / "HAM10000_images_part_1").iterdir())
    masks = [phantoms / "HAM10000_segmentations_lesion_tschandl" / f"{i.stem}_segmentation.png" for i in images]
    assert sorted(masks[0].parent.iterdir()) == sorted(masks)
    for image, mask in zip(images, masks, strict=True):
        assert Image.open(image).size == Image.open(mask).size == (128, 96)
