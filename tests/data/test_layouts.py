"""The layout decides which mask belongs to which photograph, and an output is made again if its inputs changed."""

import json
import os
import unicodedata

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dermgen.config import InputError
from dermgen.data import manifest, sources
from dermgen.data.prepare import PrepareConfig, prepare


def picture(path, seed=0, size=(24, 20), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def mask(path, low=0, high=255, size=(24, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0]), low, np.uint8)
    pixels[5:12, 6:16] = high
    Image.fromarray(pixels).save(path)


def ham(folder, ids=("A", "B", "C")):
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"L{i},{i},{dx},40,male,back" for i, dx in zip(ids, ["mel", "nv"] * len(ids), strict=False)]
    (folder / "HAM10000_metadata.csv").write_text("\n".join(["lesion_id,image_id,dx,age,sex,localization", *rows]))
    for n, i in enumerate(ids):
        picture(folder / "HAM10000_images_part_1" / f"{i}.png", n)
    return folder


def run(data_dir, folder, **changes):
    settings = {
        "source": "ham10000", "resolution": 16, "num_workers": 1, "find_duplicates": False, "split": [1.0, 0.0, 0.0],
    }  # fmt: skip
    return prepare(PrepareConfig(data_dir=str(data_dir), output_dir=str(folder), **{**settings, **changes}))


def facts(folder):
    return json.loads((folder / "prepare.json").read_text())


def test_masks_and_copies_of_the_same_name_never_become_the_photographs(tmp_path):
    raw = ham(tmp_path)
    for n, i in enumerate("ABC"):
        mask(raw / "zz_masks" / f"{i}.png")
        picture(raw / "resized" / f"{i}.png", 50 + n)
    table = sources.ham10000(raw).table
    assert all("HAM10000_images_part_1" in p for p in table["path"])
    assert all("zz_masks" in p for p in table["mask_path"])
    rejected = sources.ham10000(raw).rejected
    assert list(rejected["reason"]) == ["another file of its id is used"] * 3


def test_two_pictures_of_one_id_outside_the_collections_folders_are_an_error_that_names_both(tmp_path):
    raw = ham(tmp_path)
    (raw / "HAM10000_images_part_1").rename(raw / "mine")
    picture(raw / "other" / "A.png", 7)
    with pytest.raises(InputError, match=r"two files may be the image of 'A', .*mine/A.png and .*other/A.png"):
        sources.ham10000(raw)
    (raw / "other" / "A.png").write_bytes((raw / "mine" / "A.png").read_bytes())
    assert len(sources.ham10000(raw).table) == 3


def test_a_folder_whose_name_holds_segmentation_may_hold_the_photographs(tmp_path):
    raw = ham(tmp_path)
    (raw / "HAM10000_images_part_1").rename(raw / "skin_segmentation_project")
    assert list(sources.ham10000(raw).table["image_id"]) == ["A", "B", "C"]


def test_links_are_followed_and_a_broken_one_is_rejected_with_that_reason(tmp_path):
    raw = ham(tmp_path / "raw")
    (raw / "HAM10000_images_part_1").rename(tmp_path / "elsewhere")
    (raw / "images").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(raw)
    (tmp_path / "elsewhere" / "B.png").unlink()
    (tmp_path / "elsewhere" / "B.png").symlink_to(tmp_path / "nowhere.png")
    source = sources.ham10000(raw)
    assert list(source.table["image_id"]) == ["A", "C"]
    assert list(source.rejected["reason"]) == ["broken link"]


def test_images_without_a_row_never_stop_a_run_and_rows_without_an_image_need_the_partial_flag(tmp_path):
    raw = ham(tmp_path / "raw", tuple("ABCDEFGH"))
    for n in range(20):
        picture(raw / "ISIC2018_Task3_Test_Images" / f"T{n}.png", 90 + n)
    folder = run(raw, tmp_path / "whole")
    assert facts(folder)["rejected"] == {"missing from the table": 20}
    (raw / "HAM10000_images_part_1" / "B.png").unlink()
    with pytest.raises(InputError, match="1 of the 8 images in the table is missing .*such as B.*--partial"):
        run(raw, tmp_path / "part")
    assert "B," in (tmp_path / "part" / "rejected.csv").read_text()
    assert len(manifest.read(run(raw, tmp_path / "part", partial=True))) == 7


@pytest.mark.parametrize("out", ["raw/out", "raw", "raw/HAM10000_images_part_1/x"])
def test_an_output_folder_inside_the_data_folder_is_refused(tmp_path, out):
    raw = ham(tmp_path / "raw")
    with pytest.raises(InputError, match="is inside --data_dir"):
        run(raw, tmp_path / out)


def test_an_earlier_output_among_the_data_is_ignored(tmp_path):
    for n in range(3):
        picture(tmp_path / "raw" / "mel" / f"{n}.png", n)
        picture(tmp_path / "raw" / "nv" / f"{n}.png", 10 + n)
    folder = run(tmp_path / "raw", tmp_path / "m", source="imagefolder", no_groups=True)
    folder.rename(tmp_path / "raw" / "mel" / "prepared")
    assert len(sources.imagefolder(tmp_path / "raw").table) == 6


def test_photographs_that_share_a_stem_are_two_images(tmp_path):
    for n, name in enumerate(["a.png", "a.bmp", "b/c.png", "b_c.png", "d.png"]):
        picture(tmp_path / "mel" / name, n)
    picture(tmp_path / "nv" / "a.png")
    source = sources.imagefolder(tmp_path)
    assert len(source.rejected) == 0
    assert sorted(source.table["image_id"]) == ["mel/a.bmp", "mel/a.png", "mel/b/c.png", "mel/b_c.png", "mel_d", "nv_a"]


def test_ph2_as_downloaded_keeps_its_masks(tmp_path):
    for n, i in enumerate(["IMD002", "IMD003"]):
        case = tmp_path / "nevus" / i
        picture(case / f"{i}_Dermoscopic_Image" / f"{i}.bmp", n)
        mask(case / f"{i}_lesion" / f"{i}_lesion.bmp")
        mask(case / f"{i}_roi" / f"{i}_R1_Label4.bmp")
    picture(tmp_path / "melanoma" / "x.bmp")
    mask(tmp_path / "melanoma" / "x_lesion.bmp")
    picture(tmp_path / "melanoma" / "his_lesion.bmp")  # a photograph called so
    table = sources.imagefolder(tmp_path).table
    assert sorted(os.path.basename(p) for p in table["path"]) == ["IMD002.bmp", "IMD003.bmp", "his_lesion.bmp", "x.bmp"]
    assert sorted(filter(None, map(os.path.basename, table["mask_path"]))) == [
        "IMD002_lesion.bmp", "IMD003_lesion.bmp", "x_lesion.bmp",
    ]  # fmt: skip


def test_a_mask_folder_beside_the_classes_is_not_a_class(tmp_path):
    for n, name in enumerate(["mel/a", "mel/b", "nv/c"]):
        picture(tmp_path / f"{name}.png", n)
        mask(tmp_path / "masks" / f"{name[-1]}_mask.png")
    table = sources.imagefolder(tmp_path).table
    assert sorted(set(table["dx"])) == ["mel", "nv"]
    assert all(m.endswith(f"masks/{p[-5]}_mask.png") for p, m in zip(table["path"], table["mask_path"], strict=True))


@pytest.mark.parametrize("wrap", ["", "data/archive/"])
def test_train_and_test_folders_are_splits_and_a_folder_around_the_classes_is_not_a_class(tmp_path, wrap):
    for n in range(12):
        part = "test" if n % 4 == 0 else "train"
        picture(tmp_path / "kaggle" / wrap / part / ("malignant" if n % 2 else "benign") / f"{n}.png", n)
        picture(tmp_path / "plain" / wrap / ("malignant" if n % 2 else "benign") / f"{n}.png", n)
    source = sources.imagefolder(tmp_path / "kaggle")
    assert source.taxonomy.codes == ("benign", "malignant")
    assert sum(source.table["split"] == "test") == 3
    assert "--keep_split true keeps that split" in source.notes[0]
    folder = run(
        tmp_path / "kaggle",
        tmp_path / "m",
        source="imagefolder",
        keep_split=True,
        no_groups=True,
        split=[0.6, 0.2, 0.2],
    )
    table = manifest.read(folder)
    assert {i for i, s in zip(table["image_id"], table["split"], strict=True) if s == "test"} == {
        i for i in table["image_id"] if i.startswith("test_")
    }
    assert set(table["split"]) == {"train", "val", "test"}
    plain = sources.imagefolder(tmp_path / "plain")
    assert plain.taxonomy.codes == ("benign", "malignant")
    with pytest.raises(InputError, match="no train and test folders"):
        run(tmp_path / "plain", tmp_path / "m2", source="imagefolder", keep_split=True)


def test_a_single_class_and_captions_beside_images_are_noted(tmp_path):
    for n in range(3):
        picture(tmp_path / "10_sks melanoma" / f"{n}.png", n)
        (tmp_path / "10_sks melanoma" / f"{n}.txt").write_text("a lesion")
    notes = sources.imagefolder(tmp_path).notes
    assert notes[0] == "one class only: '10_sks melanoma'"
    assert notes[1].startswith("3 .txt files beside the images are not read")


def test_file_names_in_a_table_may_have_backslashes_and_another_form_of_unicode(tmp_path):
    composed = unicodedata.normalize("NFC", "Übersicht")
    picture(tmp_path / "img" / f"{unicodedata.normalize('NFD', composed)}.png", 1)
    picture(tmp_path / "img" / "b.PNG", 2)
    (tmp_path / "metadata.csv").write_text(f"file_name,dx\nimg\\{composed}.png,mel\nimg/b.png,nv\n", encoding="utf-8")
    source = sources.imagefolder(tmp_path)
    assert list(source.table["image_id"]) == [f"img_{composed}", "img_b"]


def test_a_file_whose_name_is_not_utf8_is_rejected_with_that_reason(tmp_path):
    picture(tmp_path / "mel" / "a.png")
    picture(tmp_path / "nv" / "b.png")
    with open(os.fsencode(str(tmp_path / "nv")) + b"/odd\xfc.png", "wb") as file:
        file.write((tmp_path / "nv" / "b.png").read_bytes())
    rejected = sources.imagefolder(tmp_path).rejected
    assert list(rejected["reason"]) == ["file name is not UTF-8"]


@pytest.mark.parametrize("suffix", ["_segmentation", "_mask", "_SEGMENTATION", ""])
def test_masks_are_read_by_their_two_values_and_odd_ones_are_listed(tmp_path, suffix):
    raw = ham(tmp_path / "raw", tuple("ABCDE"))
    for i, values in {"A": (0, 1), "B": (0, 255), "C": (0, 0), "D": (255, 255)}.items():
        mask(raw / "masks" / f"{i}{suffix}.png", *values)
    mask(raw / "masks" / f"E{suffix}.png", 0, 2)
    pixels = np.array(Image.open(raw / "masks" / f"E{suffix}.png"))
    pixels[0, 0] = 1
    Image.fromarray(pixels).save(raw / "masks" / f"E{suffix}.png")
    folder = run(raw, tmp_path / "m")
    table = manifest.read(folder).set_index("image_id")["mask_file_name"]
    assert (table == "").to_dict() == {"A": False, "B": False, "C": True, "D": False, "E": True}
    masks = {i: np.asarray(Image.open(folder / name)) for i, name in table.items() if name}
    assert np.array_equal(masks["A"], masks["B"])
    assert 0.1 < (masks["A"] == 255).mean() < 0.5
    assert (masks["D"] == 255).all()
    assert facts(folder)["masks"] == {"used": 2, "empty": 1, "full": 1, "unclear": 1}
    assert facts(folder)["odd_masks"] == ["C", "D", "E"]


def test_an_output_is_made_again_when_its_mask_is_added_and_when_it_was_left_empty_or_truncated(tmp_path):
    raw = ham(tmp_path / "raw")
    folder = run(raw, tmp_path / "m", crop="lesion")
    before = {p.name: p.read_bytes() for p in (folder / "images").iterdir()}
    mask(raw / "masks" / "A_segmentation.png")
    for name, keep in (("B.png", 0), ("C.png", 300)):
        (folder / "images" / name).write_bytes(before[name][:keep])
    run(raw, tmp_path / "m", crop="lesion")
    after = {p.name: p.read_bytes() for p in (folder / "images").iterdir()}
    assert after["A.png"] != before["A.png"]
    assert (after["B.png"], after["C.png"]) == (before["B.png"], before["C.png"])
    assert facts(folder)["rejected"] == {}
    assert facts(folder)["crops"]["mask"] == 1
    times = {p: p.stat().st_mtime_ns for p in (folder / "images").iterdir()}
    (folder / "masks" / "A.png").write_bytes(b"")
    run(raw, tmp_path / "m", crop="lesion")
    assert {p.name for p, t in times.items() if p.stat().st_mtime_ns != t} == {"A.png"}
    assert (np.asarray(Image.open(folder / "masks" / "A.png")) == 255).any()


def test_tiny_and_one_coloured_images_are_rejected_and_conversions_are_counted(tmp_path):
    raw = tmp_path / "raw"
    for n in range(60):
        picture(raw / ("mel" if n % 2 else "nv") / f"{n}.png", n)
    Image.new("RGB", (40, 40), "black").save(raw / "mel" / "black.png")
    picture(raw / "mel" / "dot.png", size=(1, 1))
    see_through = Image.new("RGBA", (40, 40), (0, 255, 0, 0))
    see_through.paste((120, 60, 30, 255), (10, 10, 30, 30))
    see_through.save(raw / "mel" / "alpha.png")
    written = facts(run(raw, tmp_path / "m", source="imagefolder", no_groups=True))
    assert written["rejected"] == {"featureless: one colour": 1, "too small: under 16 pixels": 1}
    assert written["converted"] == {"transparent parts put on white": 1}
    refused = facts(run(raw, tmp_path / "m2", source="imagefolder", transparency="refuse", no_groups=True))
    assert refused["rejected"]["transparent parts"] == 1


def test_of_several_challenge_tables_the_training_part_counts_with_its_own_metadata(tmp_path):
    codes = "MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK"
    for part, i in (("Test", "T"), ("Training", "A")):
        (tmp_path / f"ISIC_2019_{part}_GroundTruth.csv").write_text(f"image,{codes}\n{i},1,0,0,0,0,0,0,0,0\n")
        (tmp_path / f"ISIC_2019_{part}_Metadata.csv").write_text(f"image,age_approx,lesion_id,sex\n{i},40,L{i},male\n")
        picture(tmp_path / f"ISIC_2019_{part}_Input" / f"{i}.png")
    source = sources.isic2019(tmp_path)
    assert source.table[["image_id", "lesion_id", "age"]].to_numpy().tolist() == [["A", "LA", 40.0]]
    assert list(source.rejected["reason"]) == ["missing from the table"]
    for path in tmp_path.glob("ISIC_2019_Training*.csv"):
        path.unlink()
    assert list(sources.isic2019(tmp_path).table["image_id"]) == ["T"]


def test_lesion_groups_are_found_under_another_name_and_with_endings_in_their_ids(tmp_path):
    (tmp_path / "ISIC2018_Task3_Training_GroundTruth.csv").write_text("image,MEL,NV\nA,1.0,0.0\nB,0.0,1.0\n")
    (tmp_path / "LesionGroupings.csv").write_text("image,lesion_id\nA.jpg,L1\nB.jpg,L1\n")
    for i in "AB":
        picture(tmp_path / "ISIC2018_Task3_Training_Input" / f"{i}.png")
    assert list(sources.isic2018(tmp_path).table["lesion_id"]) == ["L1", "L1"]


def test_rows_of_a_hub_set_without_image_or_label_are_rejected_and_nameless_jpegs_are_read(tmp_path):
    import datasets

    picture(tmp_path / "a.jpg", 1)
    data = (tmp_path / "a.jpg").read_bytes()
    rows = {"image": [{"bytes": data, "path": None}, None, {"bytes": data, "path": None}], "label": [0, 1, -1]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["nv", "mel"])})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "hub" / "data" / "train-0.parquet")
    source = sources.hub_dataset(str(tmp_path / "hub"), tmp_path / "down", "image", "label", None, "train")
    assert [os.path.basename(p) for p in source.table["path"]] == ["0000000.jpg"]
    assert list(source.rejected["reason"]) == ["missing from disk", "no label"]


def test_a_prepared_folder_of_an_earlier_version_can_be_prepared_again(tmp_path):
    raw = ham(tmp_path / "raw")
    folder = run(raw, tmp_path / "m")
    before = pd.read_csv(folder / "metadata.csv")
    settings = (folder / "config.yaml").read_text().splitlines()
    young = ("keep_split", "partial", "transparency", "bit_depth")
    (folder / "config.yaml").write_text("\n".join(line for line in settings if not line.startswith(young)))
    (folder / ".finished.jsonl").write_text('{"image_id": "A", "crop": "center", "has_mask": false}\n')
    assert pd.read_csv(run(raw, tmp_path / "m") / "metadata.csv").equals(before)


def test_images_outside_split_and_class_folders_are_not_used_and_are_listed(tmp_path):
    for n, name in enumerate(["train/mel/a", "train/nv/b", "test/mel/c", "test/flat", "sample/d", "above"]):
        picture(tmp_path / f"{name}.png", n)
    source = sources.imagefolder(tmp_path)
    assert source.table[["dx", "split"]].to_numpy().tolist() == [["mel", "test"], ["mel", "train"], ["nv", "train"]]
    assert sorted(os.path.relpath(p, tmp_path) for p in source.rejected["path"]) == [
        "above.png", "sample/d.png", "test/flat.png",
    ]  # fmt: skip
    assert set(source.rejected["reason"]) == {sources.NO_FOLDER}
    assert any("3 images are in no class folder" in note for note in source.notes)


def test_a_colour_photograph_with_the_name_of_a_mask_stays_a_photograph(tmp_path):
    picture(tmp_path / "mel" / "x.png", 1)
    picture(tmp_path / "mel" / "x_lesion.jpg", 2)
    picture(tmp_path / "mel" / "y.png", 3)
    mask(tmp_path / "mel" / "y_lesion.png", size=(48, 40))
    Image.open(tmp_path / "mel" / "y_lesion.png").convert("RGB").save(tmp_path / "mel" / "y_lesion.png")
    table = sources.imagefolder(tmp_path).table
    assert [os.path.basename(p) for p in table["path"]] == ["x.png", "x_lesion.jpg", "y.png"]
    assert [os.path.basename(p) for p in table["mask_path"]] == ["", "", "y_lesion.png"]


def test_a_photograph_in_place_of_a_mask_is_not_used_and_is_listed(tmp_path):
    raw = ham(tmp_path / "raw")
    picture(raw / "masks" / "A_mask.jpg", 9)
    folder = run(raw, tmp_path / "m")
    assert facts(folder)["odd_masks"] == ["A"]
    assert set(manifest.read(folder)["mask_file_name"]) == {""}


def test_files_of_other_kinds_beside_photographs_never_stop_a_run(tmp_path):
    for n in range(4):
        picture(tmp_path / "raw" / "ab"[n % 2] / f"{n}.png", n)
        (tmp_path / "raw" / "ab"[n % 2] / f"{n}.npy").write_bytes(b"x")
    written = facts(run(tmp_path / "raw", tmp_path / "m", source="imagefolder", no_groups=True))
    assert written["rejected"] == {"not an image by its name (.npy)": 4}


def test_tables_are_found_in_linked_folders_and_never_among_the_hidden_files_of_macos(tmp_path):
    ham(tmp_path / "elsewhere")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "linked").symlink_to(tmp_path / "elsewhere")
    assert len(sources.ham10000(tmp_path / "raw").table) == 3
    (tmp_path / "raw" / "._ISIC_2020_Training_GroundTruth.csv").write_bytes(b"\0\5\x16\7")
    (tmp_path / "raw" / "._LesionGroupings.csv").write_bytes(b"\0\5\x16\7")
    assert sources._find(tmp_path / "raw", "*LesionGroupings", ".csv", needed=False) is None
