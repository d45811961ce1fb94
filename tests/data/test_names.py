"""A user's ids and classes become file names that stay in their folder, in every stage that writes."""

import io
import tarfile
import unicodedata

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image
from small import colours, train

from dermgen.config import InputError
from dermgen.data import manifest
from dermgen.data.names import MAX_BYTES, file_stem, file_stems, image_ids, leaves_folder
from dermgen.data.prepare import PrepareConfig, prepare
from dermgen.data.sheets import contact_sheet
from dermgen.generation.generate import generate
from dermgen.publish.shards import write_parquet, write_webdataset
from dermgen.settings.generate import GenerateConfig

COMPOSED = unicodedata.normalize("NFC", "Müller_é")
HOSTILE = [
    "../x", "../../escaped", "/etc/x", "a/b", "a_b", "a\\b", "C:x", "", ".", "..", ".hidden", "x" * 300, "new\nline", "nul",
    "COM1.txt", COMPOSED, unicodedata.normalize("NFD", COMPOSED), "Case", "case", "dot.", "odd\udcfc", 'a"b', "a:b", "ü" * 100,
]  # fmt: skip


def everything(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (24, 24, 3), dtype=np.uint8))


def test_every_text_gets_its_own_file_in_the_folder_even_if_case_is_ignored(tmp_path):
    stems = file_stems(HOSTILE)
    assert len({unicodedata.normalize("NFC", s).casefold() for s in stems}) == len(HOSTILE)
    for stem in stems:
        (tmp_path / f".{stem}.png.partial").write_text("x")
        assert (tmp_path / f".{stem}.png.partial").parent.resolve() == tmp_path.resolve()
        assert len(stem.encode()) <= MAX_BYTES
    assert len(list(tmp_path.iterdir())) == len(HOSTILE)


def test_usual_ids_keep_their_names_and_a_changed_one_does_not_depend_on_the_others():
    usual = ["ISIC_0024306", "mel_a b", "IMD003", "a.b.c", COMPOSED, "photo (1)"]
    assert file_stems(usual) == usual
    assert file_stem("../x") == file_stems([*HOSTILE, "../x"])[-1]
    assert file_stems(["a", "a"]) == ["a", "a"]


def test_files_in_different_folders_or_of_different_kinds_never_share_an_id():
    assert image_ids(["a/x.jpg", "b/x.jpg", "c\\y.png"]) == ["a_x", "b_x", "c_y"]
    assert image_ids(["a/x.jpg", "a_x.jpg"]) == ["a/x.jpg", "a_x.jpg"]
    odd = ["x.jpg", "x.png", "x.jpg.png", "y.png", "y.png.jpg", "z/y.jpg"]
    assert len(set(image_ids(odd))) == len(odd)


@pytest.mark.parametrize("name", ["../x.png", "images/../../x.png", "/etc/x.png", "C:\\x.png", "..\\x.png", "\\x.png"])
def test_a_manifest_whose_file_names_leave_its_folder_is_neither_read_nor_written(tmp_path, name):
    assert leaves_folder(name)
    row = dict.fromkeys(manifest.COLUMNS, "") | {"file_name": name, "image_id": "a", "synthetic": "false"}
    pd.DataFrame([row]).to_csv(tmp_path / "metadata.csv", index=False)
    with pytest.raises(InputError, match="is not a file in this folder"):
        manifest.read(tmp_path)
    with pytest.raises(ValueError, match="must stay in the folder"):
        manifest.write(pd.DataFrame([row]), tmp_path)


def test_prepare_writes_hostile_ids_inside_its_folder_alone(tmp_path):
    raw, outside = tmp_path / "raw", tmp_path / "escaped.png"
    raw.mkdir()
    outside.write_text("a user's own file")
    ids = [i for i in HOSTILE if i and "\udcfc" not in i]
    for i, _ in enumerate(ids):
        noise(i).save(raw / f"{i}.png")
    table = pd.DataFrame({"file_name": [f"{i}.png" for i in range(len(ids))], "image_id": ids, "dx": "../mel"})
    table.to_csv(raw / "metadata.csv", index=False)
    before = everything(tmp_path)
    folder = prepare(
        PrepareConfig(
            source="imagefolder", data_dir=str(raw), output_dir=str(tmp_path / "deep" / "m"), resolution=16,
            num_workers=1, find_duplicates=False, no_groups=True,
        )
    )  # fmt: skip
    written = manifest.read(folder)
    assert len(written) == len(ids)
    for row in written.to_dict("records"):
        assert (folder / row["file_name"]).parent == folder / "images"
        assert (folder / row["file_name"]).exists()
    after = everything(tmp_path)
    assert {p: after[p] for p in before} == before
    assert all(p.is_relative_to(folder) for p in after.keys() - before.keys())


def test_generate_writes_a_class_that_is_a_path_inside_its_folder_alone(tmp_path):
    data = colours(tmp_path / "data")
    up = {"red": "../../up", "blue": "a/b"}
    table = manifest.read(data)
    manifest.write(table.assign(dx=table["dx"].map(up)), data)
    run = tmp_path / "run"
    train("vae", data, run, max_train_steps=1, num_sample_images=2)
    before = everything(tmp_path)
    folder = generate(
        GenerateConfig(model=str(run), classes="../../up:2,a/b:1", output_dir=str(tmp_path / "deep" / "out"))
    )
    assert sorted(manifest.read(folder)["dx"]) == ["../../up", "../../up", "a/b"]
    assert len(list((folder / "images").iterdir())) == 3
    assert len(list((folder / "sheets").iterdir())) == 2
    after = everything(tmp_path)
    assert all(p.is_relative_to(folder) for p in after.keys() - before.keys())


def test_shards_hold_hostile_ids_as_names_that_unpack_into_their_folder(tmp_path):
    rows = []
    for i, image_id in enumerate(["../x", "a/b", "a_b", "a.b", "/etc/x"]):
        noise(i).save(tmp_path / f"{i}.png")
        rows.append({"image_id": image_id, "dx": "mel", "synthetic": "true", "path": str(tmp_path / f"{i}.png")})
    rows = pd.DataFrame(rows)
    write_webdataset(rows, ["mel"], tmp_path / "tar", "train", 2**20)
    with tarfile.open(tmp_path / "tar" / "train-00000.tar") as tar:
        names = tar.getnames()
        assert len(set(names)) == 2 * len(rows)
        assert all("/" not in n and n.count(".") == 1 for n in names)
        first = Image.open(io.BytesIO(tar.extractfile(names[0]).read()))
    assert np.array_equal(np.asarray(first), np.asarray(noise(0)))
    write_parquet(rows, ["mel"], tmp_path / "parquet", "train", 2**20)
    stored = pq.read_table(next((tmp_path / "parquet").iterdir())).to_pylist()
    assert not any("/" in row["image"]["path"] for row in stored)
    assert [row["image_id"] for row in stored] == list(rows["image_id"])


def test_a_contact_sheet_takes_any_id_as_its_caption(tmp_path):
    contact_sheet([noise(0)] * len(HOSTILE), tmp_path / "sheet.png", 8, HOSTILE)
    assert Image.open(tmp_path / "sheet.png").width > 8 * 24
