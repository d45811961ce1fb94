"""Each public layout is read as downloaded; unusable rows and files are reported, not dropped."""

import datasets
import pandas as pd
import pytest
from PIL import Image

from dermgen.config import InputError
from dermgen.data import groups, sources


def image(path, size=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (120, 80, 60)).save(path)


def rows(source):
    return source.table.set_index("image_id")


@pytest.mark.parametrize(
    ("name", "separator"),
    [("HAM10000_metadata.csv", ","), ("HAM10000_metadata.tab", "\t"), ("HAM10000_metadata", "\t")],
)
def test_ham10000_is_read_with_commas_or_tabs_and_from_both_image_folders(tmp_path, name, separator):
    lines = [
        "lesion_id,image_id,dx,dx_type,age,sex,localization",
        "HAM_1,ISIC_1,mel,histo,55.0,male,back",
        "HAM_2,ISIC_2,nv,follow_up,,unknown,unknown",
    ]
    (tmp_path / name).write_text("\n".join(line.replace(",", separator) for line in lines))
    image(tmp_path / "HAM10000_images_part_1" / "ISIC_1.jpg")
    image(tmp_path / "ham10000_images_part_2" / "ISIC_2.jpg")
    image(tmp_path / "HAM10000_segmentations_lesion_tschandl" / "ISIC_1_segmentation.png")
    table = rows(sources.ham10000(tmp_path))
    assert list(table["dx"]) == ["mel", "nv"]
    assert table.loc["ISIC_1", "mask_path"].endswith("ISIC_1_segmentation.png")
    assert (table.loc["ISIC_2", "mask_path"], table.loc["ISIC_2", "sex"], table.loc["ISIC_2", "localization"]) == (
        "",
        "",
        "",
    )
    assert table.loc["ISIC_1", "age"] == 55
    assert pd.isna(table.loc["ISIC_2", "age"])
    assert table.loc["ISIC_2", "dx_type"] == "follow_up"


def test_isic2018_joins_one_hot_labels_with_lesion_groups(tmp_path):
    (tmp_path / "ISIC2018_Task3_Training_GroundTruth.csv").write_text(
        "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\nISIC_1,0.0,1.0,0.0,0.0,0.0,0.0,0.0\nISIC_2,0.0,0.0,0.0,1.0,0.0,0.0,0.0\n"
    )
    (tmp_path / "ISIC2018_Task3_Training_LesionGroupings.csv").write_text(
        "image,lesion_id,diagnosis_confirm_type\nISIC_1,HAM_7,histo\nISIC_2,HAM_8,histo\n"
    )
    for name in ("ISIC_1", "ISIC_2"):
        image(tmp_path / "ISIC2018_Task3_Training_Input" / f"{name}.jpg")
    table = rows(sources.isic2018(tmp_path))
    assert dict(table["dx"]) == {"ISIC_1": "nv", "ISIC_2": "akiec"}
    assert dict(table["lesion_id"]) == {"ISIC_1": "HAM_7", "ISIC_2": "HAM_8"}


def test_isic2019_is_read_with_its_classes_downsampled_files_and_unknown_class(tmp_path):
    (tmp_path / "ISIC_2019_Training_GroundTruth.csv").write_text(
        "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK\nISIC_1_downsampled,0,0,0,1,0,0,0,0,0\nISIC_2,0,0,0,0,0,0,0,1,0\nISIC_3,0,0,0,0,0,0,0,0,1\n"
    )
    (tmp_path / "ISIC_2019_Training_Metadata.csv").write_text(
        "image,age_approx,anatom_site_general,lesion_id,sex\nISIC_1_downsampled,60.0,anterior torso,MSK_1,female\nISIC_2,,,,male\nISIC_3,5,palms,X,male\n"
    )
    for name in ("ISIC_1_downsampled", "ISIC_2", "ISIC_3"):
        image(tmp_path / "ISIC_2019_Training_Input" / f"{name}.jpg")
    source = sources.isic2019(tmp_path)
    table = rows(source)
    assert dict(table["dx"]) == {"ISIC_1": "ak", "ISIC_2": "scc"}
    assert (table.loc["ISIC_1", "lesion_id"], table.loc["ISIC_1", "localization"]) == ("MSK_1", "anterior torso")
    assert table.loc["ISIC_1", "age"] == 60
    assert list(source.rejected["reason"]) == ["none of the classes (UNK)"]


@pytest.mark.parametrize("name", ["train.csv", "ISIC_2020_Training_GroundTruth_v2.csv"])
def test_isic2020_gives_patients_and_malignancy(tmp_path, name):
    (tmp_path / name).write_text(
        "image_name,patient_id,lesion_id,sex,age_approx,anatom_site_general_challenge,diagnosis,benign_malignant,target\nISIC_1,IP_1,IL_1,male,45.0,torso,unknown,benign,0\nISIC_2,IP_1,IL_2,male,45.0,torso,melanoma,malignant,1\n"
    )
    for i in (1, 2):
        image(tmp_path / "train" / f"ISIC_{i}.jpg")
    table = rows(sources.isic2020(tmp_path))
    assert list(table["dx"]) == ["benign", "malignant"]
    assert list(table["patient_id"]) == ["IP_1", "IP_1"]
    assert list(table["localization"]) == ["torso", "torso"]


def test_an_image_folder_takes_its_classes_from_folders_or_from_a_table(tmp_path):
    for name in ("melanoma/a.png", "melanoma/b.jpg", "nv/deep/c.png", "nv/.DS_Store.png", "nv/Thumbs.db"):
        image(tmp_path / "folders" / name) if name[-3:] != ".db" else (tmp_path / "folders" / name).write_text("x")
    table = rows(sources.imagefolder(tmp_path / "folders"))
    assert dict(table["dx"]) == {"melanoma_a": "mel", "melanoma_b": "mel", "nv_deep_c": "nv"}
    for name in ("x.png", "sub/y.png"):
        image(tmp_path / "table" / name)
    (tmp_path / "table" / "metadata.csv").write_text("file_name,label,lesion_id\nx.png,wart,L1\nsub/y.png,cyst,\n")
    table = rows(sources.imagefolder(tmp_path / "table"))
    assert dict(table["dx"]) == {"x": "wart", "sub_y": "cyst"}
    assert table.loc["x", "lesion_id"] == "L1"


def test_a_hub_data_set_is_read_with_its_columns_and_label_names(tmp_path):
    files = []
    for i in range(4):
        image(tmp_path / f"{i}.png", (10 + i, 10))
        files.append(str(tmp_path / f"{i}.png"))
    features = datasets.Features(
        {
            "photo": datasets.Image(),
            "diagnosis": datasets.ClassLabel(names=["nv", "mel"]),
            "case": datasets.Value("string"),
        }
    )
    data = datasets.Dataset.from_dict(
        {"photo": files, "diagnosis": [0, 1, 1, 0], "case": ["a", "b", "b", "c"]}, features=features
    )
    data.to_parquet(tmp_path / "hub" / "data" / "train-00000.parquet")
    source = sources.hub_dataset(str(tmp_path / "hub"), tmp_path / "down", "photo", "diagnosis", "case", "train")
    assert list(source.table["dx"]) == ["nv", "mel", "mel", "nv"]
    table, _ = groups.find_groups(source.table, "case", "hub")
    assert list(table["patient_id"]) == ["a", "b", "b", "c"]
    assert set(table["lesion_id"]) == {""}  # a case is a patient, not a lesion besides
    assert [Image.open(p).width for p in source.table["path"]] == [10, 11, 12, 13]
    with pytest.raises(InputError, match="no column 'image': it has photo, diagnosis, case"):
        sources.hub_dataset(str(tmp_path / "hub"), tmp_path / "down", "image", "diagnosis", None, "train")
    with pytest.raises(InputError, match="cannot load the data set"):
        sources.hub_dataset("nobody/nothing", tmp_path / "down", "image", "label", None, "train")


def test_rows_without_files_files_without_rows_unknown_labels_and_repeated_ids_are_rejected_with_a_reason(tmp_path):
    lines = ["lesion_id,image_id,dx", "L1,A,mel", "L2,B,mel", "L3,C,wart", "L1,A,nv", "L5,E,nv"]
    (tmp_path / "HAM10000_metadata.csv").write_text("\n".join(lines))
    for name in ("A", "C", "E", "stray"):
        image(tmp_path / "HAM10000_images_part_1" / f"{name}.jpg")
    source = sources.ham10000(tmp_path)
    assert list(source.table["image_id"]) == ["A", "E"]
    reasons = sorted(zip(source.rejected["image_id"], source.rejected["reason"], strict=True))
    assert reasons == [
        ("A", "duplicate id"),
        ("B", "missing from disk"),
        ("C", "unknown label 'wart'"),
        ("stray", "missing from the table"),
    ]


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        (sources.ham10000, "has no HAM10000_metadata.csv"),
        (sources.isic2018, "has no ISIC2018_Task3_"),
        (sources.isic2020, "neither ISIC_2020_Training_GroundTruth.csv nor train.csv"),
        (sources.imagefolder, "no folder per class and no metadata.csv"),
    ],
)
def test_a_folder_of_another_layout_is_an_error_that_says_what_is_missing(tmp_path, reader, message):
    with pytest.raises(InputError, match=message):
        reader(tmp_path)


def test_an_empty_class_folder_is_an_error(tmp_path):
    image(tmp_path / "mel" / "a.png")
    (tmp_path / "nv").mkdir()
    with pytest.raises(InputError, match="class folder 'nv' .* is empty"):
        sources.imagefolder(tmp_path)


def test_one_hot_labels_with_blanks_and_additional_columns_are_read(tmp_path):
    (tmp_path / "ISIC2018_Task3_Training_GroundTruth.csv").write_text(
        "Unnamed: 0,image,MEL,NV,BCC,AKIEC,BKL,DF,VASC,comment\n0,A,1,,,,,,,sure\n7,B,,1,,,,,,\n9,C,,,,,,,,none\n"
    )
    for name in "ABC":
        image(tmp_path / "ISIC2018_Task3_Training_Input" / f"{name}.jpg")
    source = sources.isic2018(tmp_path)
    assert dict(rows(source)["dx"]) == {"A": "mel", "B": "nv"}
    assert list(source.rejected["reason"]) == ["no label"]
