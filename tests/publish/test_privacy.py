"""EXIF, patients' ids, paths and tokens are found wherever they hide in files to be published."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.numpy import save_file

from dermgen.publish.privacy import scan, without_paths

TOKEN = "hf_" + "a" * 34


def picture(path, **options):
    Image.new("RGB", (8, 8), "red").save(path, **options)


def kinds(folder, ids=()):
    return [(f.kind, f.file) for f in scan(folder, ids)]


def test_a_clean_folder_has_no_findings(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "README.md").write_text("See https://example.org/home/data/x and data/ham10000, 1/2 and/or 3.")
    (tmp_path / "config.json").write_text('{"model": "org/name", "ratio": "/"}')
    assert kinds(tmp_path, ["P-0042"]) == []


def test_exif_is_found_in_jpeg_and_png(tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "camera"
    for name in ("a.jpg", "b.png"):
        picture(tmp_path / name, exif=exif)
    assert kinds(tmp_path) == [("EXIF", "a.jpg"), ("EXIF", "b.png")]


@pytest.mark.parametrize(
    "path",
    [
        "/lustre/clinic/runs",
        "/content/drive/MyDrive/x",
        "/Volumes/Disk/a",
        "\\\\srv\\share\\x",
        "/home/someone/data",
        "/mnt/clinic/p1",
        "C:\\Users\\me\\data",
        "~/data/x",
        "/data/patients/a.png",
    ],
)
def test_a_path_of_this_machine_is_found_in_text_and_in_a_pngs_text(tmp_path, path):
    (tmp_path / "a.json").write_text(json.dumps({"data_dir": path}))
    (tmp_path / "b.yaml").write_text(f"data_dir: {path}\n")
    info = PngInfo()
    info.add_text("dermgen", f'{{"model": "{path}"}}')
    picture(tmp_path / "c.png", pnginfo=info)
    assert kinds(tmp_path) == [("path of this machine", name) for name in ("a.json", "b.yaml", "c.png")]


def test_a_patients_id_is_found_in_names_texts_and_tables(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    picture(tmp_path / "photo_p_0042_left.png")
    (tmp_path / "notes.md").write_text("as in patient P-0042")
    pq.write_table(pa.table({"caption": ["nevus", "melanoma, P.0042"]}), tmp_path / "t.parquet")
    pq.write_table(pa.table({"patient_id": ["anything"]}), tmp_path / "u.parquet")
    findings = kinds(tmp_path, ["P-0042"])
    assert findings == [
        ("patient id", name) for name in ("notes.md", "photo_p_0042_left.png", "t.parquet", "u.parquet")
    ]
    assert kinds(tmp_path, ["P-004", "42"]) == [("patient id", "u.parquet")]


def test_a_bare_number_counts_as_a_patient_id_only_in_descriptions_of_images(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "README.md").write_text("trained at 512 px for 1024 steps")
    pq.write_table(pa.table({"seed": ["512"], "scheduler": ["512"]}), tmp_path / "a.parquet")
    assert kinds(tmp_path, ["512", "1024"]) == []
    pq.write_table(pa.table({"caption": ["nevus of 512"]}), tmp_path / "b.parquet")
    picture(tmp_path / "mel_01024.png")
    assert kinds(tmp_path, ["512", "1024", "01024"]) == [("patient id", "b.parquet")]


def test_a_jpegs_comment_is_searched_and_a_plain_tiff_has_no_exif(tmp_path):
    picture(tmp_path / "a.jpg", comment=b"P-0042 of /home/me/x")
    picture(tmp_path / "b.tif")
    picture(tmp_path / "c.tif", tiffinfo={271: "camera"})
    findings = kinds(tmp_path, ["P-0042"])
    assert findings == [("path of this machine", "a.jpg"), ("patient id", "a.jpg"), ("EXIF", "c.tif")]


def test_images_inside_shards_are_searched(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    exif = Image.Exif()
    exif[0x010F] = "camera"
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG", exif=exif)
    pq.write_table(pa.table({"image": [{"bytes": file.getvalue(), "path": "a.png"}]}), tmp_path / "t.parquet")
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for name, content in (("a.png", file.getvalue()), ("a.json", b'{"x": "/home/me/y"}')):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert kinds(tmp_path) == [("EXIF", "t.parquet"), ("EXIF", "t.tar"), ("path of this machine", "t.tar")]


def test_a_path_in_the_header_of_weights_is_found(tmp_path):
    save_file({"w": np.zeros(2)}, tmp_path / "m.safetensors", metadata={"base": "/home/me/model"})
    assert kinds(tmp_path) == [("path of this machine", "m.safetensors")]


def test_a_token_is_found_and_never_repeated(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "another-kind-of-token")
    (tmp_path / "a.txt").write_text(f"token {TOKEN}")
    (tmp_path / "b.txt").write_text("another-kind-of-token")
    findings = scan(tmp_path)
    assert [f.kind for f in findings] == ["token", "token"]
    assert not any(TOKEN in str(f) or "another-kind" in str(f) for f in findings)


def test_paths_are_reduced_to_their_last_name_and_hub_ids_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "lora").mkdir(parents=True)
    facts = {
        "a": ["/home/me/data", "--data_dir=/home/me/data", "runs/lora", "C:\\Users\\me\\x"],
        "b": {"c": "org/name", "d": 3, "e": None, "f": "a nevus / mole"},
    }
    assert without_paths(facts) == {
        "a": ["data", "--data_dir=data", "lora", "x"],
        "b": {"c": "org/name", "d": 3, "e": None, "f": "a nevus / mole"},
    }
