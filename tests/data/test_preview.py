"""`dermgen prepare --preview` shows what the manifest would hold, and writes nothing but a sheet."""

import cv2
import numpy as np
import pytest
from PIL import Image

from dermgen.config import InputError
from dermgen.data import sources
from dermgen.data.prepare import PrepareConfig, prepare
from dermgen.data.preview import OUTLINE, SIDE
from dermgen.data.subsets import choose

MARGIN = 4


def run(data_dir, folder, **changes):
    settings = {"source": "ham10000", "resolution": 32, "num_workers": 1, "find_duplicates": False}
    return prepare(PrepareConfig(data_dir=str(data_dir), output_dir=str(folder), **settings | changes))


def first_picture(sheet):
    return np.asarray(Image.open(sheet))[MARGIN : MARGIN + SIDE, MARGIN : MARGIN + SIDE].astype(int)


def enlarged(path):
    return np.asarray(Image.open(path).resize((SIDE, SIDE), Image.Resampling.NEAREST)).astype(int)


def photographs(folder, **classes):
    """Noise, in a folder per class."""
    rng = np.random.default_rng(0)
    for dx, number in classes.items():
        (folder / dx).mkdir(parents=True)
        for i in range(number):
            pixels = rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / dx / f"{dx}{i}.png")
    return folder


def test_the_sheet_shows_the_prepared_image_with_the_outline_of_its_mask_and_nothing_else_is_written(
    phantoms, tmp_path, capsys
):
    sheet = run(phantoms, tmp_path / "out" / "m", preview=1, crop="lesion")
    assert sheet == tmp_path / "out" / "m_preview.png"
    assert list((tmp_path / "out").iterdir()) == [sheet]
    assert str(sheet) in capsys.readouterr().out
    table = sources.ham10000(phantoms).table
    shown = table["image_id"][choose(table["image_id"], 1, 0, table["lesion_id"], table["dx"], "turns")[0]]
    folder = run(phantoms, tmp_path / "out" / "m", crop="lesion")
    image, mask = enlarged(folder / "images" / f"{shown}.png"), enlarged(folder / "masks" / f"{shown}.png")
    picture = first_picture(sheet)
    line = (picture == OUTLINE).all(axis=2)
    near_edge = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((9, 9))) > 0
    assert line.sum() > 100
    assert not (line & ~near_edge).any()
    np.testing.assert_array_equal(picture[~near_edge], image[~near_edge])


def test_the_images_are_of_as_many_classes_as_possible_and_the_same_for_a_seed(phantoms, tmp_path, capsys):
    table = sources.ham10000(phantoms).table
    first = run(phantoms, tmp_path / "a", preview=7).read_bytes()
    out = capsys.readouterr().out
    assert f"7 images of {len(table)} at 32 px" in out
    assert all(f"{dx}: 1" in out for dx in set(table["dx"]))
    assert run(phantoms, tmp_path / "b", preview=7).read_bytes() == first
    assert run(phantoms, tmp_path / "b", preview=7, seed=1).read_bytes() != first


def test_images_of_a_folder_have_no_outline_and_one_that_cannot_be_used_is_named(tmp_path, capsys):
    raw = photographs(tmp_path / "raw", mel=1, nv=2)
    Image.new("RGB", (40, 40), "pink").save(raw / "nv" / "blank.png")
    settings = {"source": "imagefolder", "no_groups": True}
    sheet = run(raw, tmp_path / "m", preview=4, **settings)
    out = capsys.readouterr().out
    assert "blank.png cannot be used: featureless: one colour" in out
    assert "3 images of 4 at 32 px (mel: 1, nv: 2)" in out
    assert not (tmp_path / "m").exists()
    (raw / "nv" / "blank.png").unlink()
    folder = run(raw, tmp_path / "m", split=[1.0, 0.0, 0.0], **settings)
    np.testing.assert_array_equal(first_picture(sheet), enlarged(folder / "images" / "mel_mel0.png"))


def test_a_preview_of_images_that_cannot_be_used_is_one_sentence(tmp_path):
    (tmp_path / "raw" / "nv").mkdir(parents=True)
    Image.new("RGB", (40, 40), "pink").save(tmp_path / "raw" / "nv" / "blank.png")
    with pytest.raises(InputError, match="nothing to show: .*blank.png cannot be used: featureless"):
        run(tmp_path / "raw", tmp_path / "m", preview=2, source="imagefolder")
    assert not list(tmp_path.glob("m*"))
