"""`dermgen prepare` from folder to manifest: audit, rejects, resuming, copies, and datasets reading the result."""

import errno
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ham10000, needs_ham10000
from PIL import Image

from dermgen.config import InputError
from dermgen.data import duplicates, manifest, splits
from dermgen.data.phantom import draw_lesion
from dermgen.data.prepare import PrepareConfig, prepare
from dermgen.data.prepared import BY_GROUPS, BY_IMAGE, NO_GROUPS, Split
from dermgen.data.set_facts import SetFacts
from dermgen.labels import HAM10000


def run(data_dir, output_dir, **changes):
    settings = {"source": "ham10000", "resolution": 32, "num_workers": 1, **changes}
    return prepare(PrepareConfig(data_dir=str(data_dir), output_dir=str(output_dir), **settings))


def facts(folder) -> dict:
    return json.loads((Path(folder) / "prepare.json").read_text())


def test_the_manifest_folder_is_a_hugging_face_imagefolder(manifest_dir):
    data = datasets.load_dataset("imagefolder", data_dir=str(manifest_dir), split="train")
    table = manifest.read(manifest_dir)
    assert len(data) == len(table)
    by_id = {row["image_id"]: row for row in data}
    for row in table.head(3).to_dict("records"):
        loaded = by_id[row["image_id"]]
        assert loaded["dx"] == row["dx"]
        assert np.array_equal(np.asarray(loaded["image"]), np.asarray(Image.open(manifest_dir / row["file_name"])))
    assert list(pd.read_csv(manifest_dir / "metadata.csv").columns)[: len(manifest.COLUMNS)] == manifest.COLUMNS


def test_images_and_masks_have_the_requested_size_and_no_metadata(manifest_dir):
    for row in manifest.read(manifest_dir).to_dict("records"):
        image, mask = (Image.open(manifest_dir / row[c]) for c in ("file_name", "mask_file_name"))
        assert (image.size, image.mode, mask.size, mask.mode) == ((32, 32), "RGB", (32, 32), "L")
        assert not image.info
        assert not image.getexif()
        assert set(np.unique(np.asarray(mask))) <= {0, 255}


def test_lesions_stay_together_and_the_audit_says_so(manifest_dir):
    table = manifest.read(manifest_dir)
    assert splits.crossing_groups(table["split"], table["lesion_id"]) == 0
    audit = facts(manifest_dir)["audit"]
    assert (audit["images"], audit["groups"], audit["groups_crossing_splits"]) == (len(table), 28, 0)
    assert set(table["split"]) == {"train", "val", "test"}


def test_a_split_by_image_on_request_is_marked_as_leaky(phantoms, tmp_path, capsys):
    run(phantoms, tmp_path / "m", allow_leaky_split=True)
    assert Split.of(tmp_path / "m") == Split(leaky=True, split_method=BY_IMAGE)
    assert facts(tmp_path / "m")["audit"]["groups_crossing_splits"] > 0
    assert "LEAKY" in capsys.readouterr().out


def test_the_audit_records_the_differences_between_splits(manifest_dir):
    written = facts(manifest_dir)
    assert written["split_method"] == BY_GROUPS == SetFacts.of(manifest_dir).split_method
    columns = {d["column"]: d for d in written["audit"]["differences"]}
    assert set(columns) == {"images a group", "localization", "sex", "age"}  # all are drawn, from one source
    table = manifest.read(manifest_dir)
    by_hand = table.groupby("split").agg(images=("dx", "size"), lesions=("lesion_id", "nunique"))
    for name, mean in (by_hand["images"] / by_hand["lesions"]).items():
        assert columns["images a group"]["splits"][name] == pytest.approx(mean)
    of_class = pd.crosstab(table["dx"], table["split"], normalize="index").loc["mel", ["train", "val", "test"]]
    assert written["audit"]["class_off_by"]["mel"] == pytest.approx(abs(of_class - [0.7, 0.15, 0.15]).max(), abs=1e-6)


def test_a_manifest_of_an_earlier_version_says_that_its_split_is_the_old_one(manifest_dir, tmp_path):
    folder = shutil.copytree(manifest_dir, tmp_path / "old")
    assert SetFacts.of(folder).split.warnings() == Split.of(folder).warnings() == []
    of_old = facts(folder)
    del of_old["split_method"]
    (folder / "prepare.json").write_text(json.dumps(of_old))
    of_older = {k: v for k, v in SetFacts.of(folder).to_json().items() if k != "split_method"}
    for split in (SetFacts.of(folder).split, Split.of(folder), SetFacts.from_json(of_older).split):
        assert "OLD SPLIT" in split.warnings()[0]
    with pytest.raises(InputError, match="was split by an earlier version"):
        prepare(PrepareConfig(**yaml.safe_load((folder / "config.yaml").read_text()) | {"output_dir": str(folder)}))
    (folder / "prepare.json").unlink()  # split by other hands
    assert SetFacts.of(folder).split.warnings() == []
    manifest.write(manifest.read(folder).assign(lesion_id="NA", patient_id=""), folder)
    assert "NO GROUPS" in Split.of(folder).warnings()[0]


def test_a_second_run_redoes_only_missing_images_and_refuses_another_setting(phantoms, tmp_path):
    folder = run(phantoms, tmp_path / "m")
    before = {p.name: p.stat().st_mtime_ns for p in (folder / "images").iterdir()}
    table = (folder / "metadata.csv").read_text()
    lost = next((folder / "images").iterdir())
    lost.unlink()
    run(phantoms, tmp_path / "m")
    after = {p.name: p.stat().st_mtime_ns for p in (folder / "images").iterdir()}
    assert {name for name in before if before[name] != after[name]} == {lost.name}
    assert (folder / "metadata.csv").read_text() == table
    with pytest.raises(InputError, match="resolution was 32 and is 64"):
        run(phantoms, tmp_path / "m", resolution=64)


def test_a_source_image_that_changed_is_prepared_again(phantoms, tmp_path):
    shutil.copytree(phantoms, tmp_path / "raw")
    folder = run(tmp_path / "raw", tmp_path / "m")
    source = sorted((tmp_path / "raw" / "HAM10000_images_part_1").iterdir())[0]
    kept_time = source.stat()
    dark = np.random.default_rng(0).integers(0, 9, Image.open(source).size[::-1], dtype=np.uint8)
    Image.fromarray(dark).convert("RGB").save(source, quality=100)
    os.utime(source, ns=(kept_time.st_atime_ns, kept_time.st_mtime_ns))
    run(tmp_path / "raw", tmp_path / "m")
    assert np.asarray(Image.open(folder / "images" / f"{source.stem}.png")).max() < 10


def test_bad_files_are_listed_and_unchanged_and_too_many_stop_the_run(phantoms, tmp_path):
    raw = tmp_path / "raw"
    shutil.copytree(phantoms, raw)
    images = sorted((raw / "HAM10000_images_part_1").iterdir())
    images[0].write_bytes(images[0].read_bytes()[:500])
    images[1].write_bytes(b"")
    contents = {p: p.read_bytes() for p in images}
    folder = run(raw, tmp_path / "m")
    rejected = pd.read_csv(folder / "rejected.csv").set_index("image_id")["reason"]
    assert rejected[images[0].stem].startswith("truncated")
    assert rejected[images[1].stem] == "zero bytes"
    assert len(rejected) == 2
    assert {p: p.read_bytes() for p in images} == contents
    assert not set(rejected.index) & set(manifest.read(folder)["image_id"])
    for path in images[2:6]:
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"6 of \d+ files are bad .more than 5%., most often: zero bytes"):
        run(raw, tmp_path / "m2")
    assert not (tmp_path / "m2" / "metadata.csv").exists()


def test_cropping_to_the_lesion_makes_it_larger(phantoms, tmp_path):
    share = {}
    for crop in ("center", "lesion"):
        folder = run(phantoms, tmp_path / crop, crop=crop, crop_margin=0.1)
        names = manifest.read(folder)["mask_file_name"]
        share[crop] = np.mean([(np.asarray(Image.open(folder / n)) > 127).mean() for n in names])
    assert share["lesion"] > 1.4 * share["center"]
    assert facts(tmp_path / "lesion")["crops"] == {"mask": len(names)}


def test_without_masks_the_lesion_is_found_by_segmentation(phantoms, tmp_path):
    shutil.copytree(phantoms, tmp_path / "raw", ignore=shutil.ignore_patterns("*segmentation*"))
    folder = run(tmp_path / "raw", tmp_path / "m", crop="lesion")
    assert facts(folder)["crops"]["segmentation"] > 0.8 * len(manifest.read(folder))
    assert set(manifest.read(folder)["mask_file_name"]) == {""}


def copies(image: Image.Image, rng) -> dict[str, Image.Image]:
    """Changes that people make to a photograph before they file it again."""
    width, height = image.size
    small = io.BytesIO()
    image.save(small, "JPEG", quality=50)
    cut = [int(c) for c in rng.uniform(0, 0.05, 2) * (width, height)]
    return {
        "recompressed": Image.open(small).convert("RGB"),
        "resized": image.resize((width * 2 // 3, height * 2 // 3), Image.Resampling.LANCZOS),
        "brightened": Image.fromarray((np.asarray(image) * 1.15).clip(0, 255).astype(np.uint8)),
        "cropped": image.crop((cut[0], cut[1], int(width * 0.95) + cut[0], int(height * 0.95) + cut[1])),
        "mirrored": image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "turned": image.transpose(Image.Transpose.ROTATE_90),
    }


def assert_copies_are_found(images: list[Image.Image], least: float) -> None:
    rng = np.random.default_rng(0)
    prints = [duplicates.fingerprint(image) for image in images]
    origin = list(range(len(images)))
    changes = ["original"] * len(images)
    for i, image in enumerate(images):
        for change, copy in copies(image, rng).items():
            prints.append(duplicates.fingerprint(copy))
            origin.append(i)
            changes.append(change)
    thumbnails, hashes = (np.stack(column) for column in zip(*prints, strict=True))
    pairs = duplicates.find_pairs(thumbnails, hashes, range(len(prints)))
    assert all(origin[i] == origin[j] for i, j in pairs)
    detected = {j for i, j in pairs if i < len(images) and origin[j] == i}
    for change in set(changes) - {"original"}:
        changed = [n for n, name in enumerate(changes) if name == change]
        assert np.mean([n in detected for n in changed]) >= least, change


@pytest.mark.slow
def test_copies_of_phantoms_are_found_and_nothing_else_is():
    lesions = [draw_lesion(code, 9, n, 256)[0][0] for n in range(6) for code in HAM10000.codes]
    assert_copies_are_found([Image.fromarray(image) for image in lesions], least=0.9)


def test_a_planted_copy_joins_its_groups_in_one_split(phantoms, tmp_path):
    raw = tmp_path / "raw"
    shutil.copytree(phantoms, raw)
    table = pd.read_csv(raw / "HAM10000_metadata.csv")
    new = []
    for i in range(0, 20, 2):
        row = table.iloc[i].to_dict()
        image = Image.open(raw / "HAM10000_images_part_1" / f"{row['image_id']}.jpg")
        image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(
            raw / "HAM10000_images_part_1" / f"COPY_{i}.jpg", quality=70
        )
        new.append({**row, "image_id": f"COPY_{i}", "lesion_id": f"OTHER_{i}"})
    pd.concat([table, pd.DataFrame(new)]).to_csv(raw / "HAM10000_metadata.csv", index=False)
    folder = run(raw, tmp_path / "m")
    split = manifest.read(folder).set_index("image_id")["split"]
    assert all(split[f"COPY_{i}"] == split[table["image_id"][i]] for i in range(0, 20, 2))
    assert facts(folder)["audit"]["groups_joined"] == 10
    loose = run(raw, tmp_path / "loose", find_duplicates=False)
    assert facts(loose)["audit"]["groups_joined"] == 0


@pytest.mark.slow
@needs_ham10000
def test_copies_of_real_photographs_are_found_and_nothing_else_is():
    paths = sorted((ham10000() / "HAM10000_images_part_1").glob("*.jpg"))[::40]
    assert_copies_are_found([Image.open(p).convert("RGB") for p in paths], least=0.95)


@pytest.mark.slow
@needs_ham10000
def test_all_of_ham10000_joins_at_most_five_groups_in_bounded_memory(tmp_path):
    folder = tmp_path / "m"
    # A process of its own, whose children are the workers and nothing that another test has started.
    code = "import resource, sys; from dermgen import cli; cli.prepare(sys.argv[1:]); "
    code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    flags = [
        "ham10000",
        "--data_dir",
        str(ham10000()),
        "--output_dir",
        str(folder),
        "--resolution=64",
        "--num_workers=2",
    ]
    done = subprocess.run([sys.executable, "-c", code, *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    audit = facts(folder)["audit"]
    assert audit["images"] == 10_015
    assert audit["groups_joined"] <= 5
    assert audit["groups"] == 7_470 - audit["groups_joined"]
    assert audit["groups_crossing_splits"] == 0
    for name, share in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
        assert abs(audit["images_per_split"][name] / 10_015 - share) < 0.005
    assert int(done.stdout.split()[-1]) < 2e6  # kilobytes


def photographs(folder: Path, table: str) -> Path:
    """40 small pictures with a table of the user's own."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(40):
        Image.fromarray(rng.integers(0, 255, (24, 24, 3), np.uint8)).save(folder / f"{i:02d}.png")
    (folder / "metadata.csv").write_text(table)
    return folder


def user_table(header: str, cell) -> str:
    return "\n".join([f"file_name,label,{header}", *(f"{i:02d}.png,{'ab'[i % 2]},{cell(i)}" for i in range(40))])


@pytest.mark.parametrize("word", ["NA", "-", "nan", "None", "unknown", "?"])
def test_a_word_for_unknown_is_not_one_large_lesion(word, tmp_path, capsys):
    table = user_table("lesion_id", lambda i: word if i < 30 else f"L{i // 2}")
    folder = run(photographs(tmp_path / "raw", table), tmp_path / "m", source="imagefolder")
    audit = facts(folder)["audit"]
    assert (audit["groups"], audit["images_of_unknown_group"]) == (35, 30)
    assert "30 images of unknown lesion and patient are a group each" in capsys.readouterr().out
    assert manifest.read(folder)["split"].value_counts().to_dict() == {"train": 28, "val": 6, "test": 6}


@pytest.mark.parametrize("name", ["patient", "PatientID", "Lesion ID", "subject_id"])
def test_columns_with_usual_names_are_taken_as_groups_and_reported(name, tmp_path, capsys):
    folder = run(
        photographs(tmp_path / "raw", user_table(name, lambda i: f"P{i // 4}")), tmp_path / "m", source="imagefolder"
    )
    table = manifest.read(folder)
    column = "lesion_id" if "esion" in name else "patient_id"
    assert table[column].nunique() == 10
    assert splits.crossing_groups(table["split"], table[column]) == 0
    assert f"the column {name.lower()!r} is taken as {column}" in capsys.readouterr().err


def test_without_groups_a_column_must_be_named_or_the_split_is_marked(tmp_path, capsys):
    raw = photographs(tmp_path / "raw", user_table("series", lambda i: f"S{i // 4}"))
    with pytest.raises(
        InputError, match=r"no lesion or patient ids.*--group_column \(further columns: series\).*--no_groups"
    ):
        run(raw, tmp_path / "m", source="imagefolder")
    with pytest.raises(InputError, match="no column 'serie' for --group_column"):
        run(raw, tmp_path / "m0", source="imagefolder", group_column="serie")
    named = run(raw, tmp_path / "m1", source="imagefolder", group_column="Series")
    assert manifest.read(named)["lesion_id"].nunique() == 10
    assert facts(named)["audit"]["groups_crossing_splits"] == 0
    with pytest.raises(InputError, match="--no_groups would ignore"):
        run(raw, tmp_path / "m2", source="imagefolder", group_column="series", no_groups=True)
    capsys.readouterr()
    blind = run(raw, tmp_path / "m3", source="imagefolder", no_groups=True)
    assert facts(blind)["audit"]["groups_crossing_splits"] is None
    assert "nobody can tell" in capsys.readouterr().out
    for split in (SetFacts.of(blind).split, Split.of(blind)):
        assert split.warnings()[0].startswith("NO GROUPS")


def test_two_columns_of_groups_are_an_error(tmp_path):
    raw = photographs(tmp_path / "raw", user_table("subject,case", lambda i: f"S{i // 4},C{i}"))
    with pytest.raises(InputError, match="several columns of groups, subject and case"):
        run(raw, tmp_path / "m", source="imagefolder")


def test_how_a_diagnosis_was_confirmed_is_kept_in_the_manifest(tmp_path):
    table = user_table("lesion_id,diagnosis_confirm_type", lambda i: f"L{i},{['histopathology', 'unknown'][i % 3 > 0]}")
    folder = run(photographs(tmp_path / "raw", table), tmp_path / "m", source="imagefolder")
    assert set(manifest.read(folder)["dx_type"]) == {"histopathology", ""}
    assert "dx_type" in {d["column"] for d in facts(folder)["audit"]["differences"]}


def test_a_truncated_line_in_the_log_of_an_interrupted_run_costs_that_image_only(phantoms, tmp_path):
    folder = run(phantoms, tmp_path / "m")
    log = folder / ".finished.jsonl"
    lines = log.read_text().splitlines()
    log.write_text("\n".join([*lines[:-1], lines[-1][:40]]))
    before = {p: p.stat().st_mtime_ns for p in (folder / "images").iterdir()}
    for _ in range(2):
        run(phantoms, tmp_path / "m")
    assert sum(p.stat().st_mtime_ns != time for p, time in before.items()) == 1
    assert json.loads(log.read_text().splitlines()[-1]) == json.loads(lines[-1])


def test_a_file_that_cannot_be_read_now_keeps_its_earlier_output(phantoms, tmp_path, monkeypatch):
    folder = run(phantoms, tmp_path / "m")
    kept = sorted((folder / "images").iterdir())
    read = Path.read_bytes

    def stale(path):
        if path.name == f"{kept[0].stem}.jpg":
            raise OSError(errno.ESTALE, "Stale file handle")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", stale)
    run(phantoms, tmp_path / "m")
    assert facts(folder)["rejected"] == {"cannot be read (Stale file handle)": 1}
    assert sorted((folder / "images").iterdir()) == kept


def test_settings_may_change_until_the_manifest_is_written(tmp_path):
    raw = tmp_path / "raw"
    for name in ("a/1", "a/2", "b/1", "b/2"):
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        deep = np.random.default_rng(len(name)).integers(0, 4096, (24, 24), dtype=np.uint16)
        Image.fromarray(deep).save(raw / f"{name}.png")
        Image.fromarray((deep // 16).astype(np.uint8)).save(raw / f"{name}_plain.png")
    settings = {"source": "imagefolder", "no_groups": True, "find_duplicates": False, "split": [1.0, 0.0, 0.0]}
    with pytest.raises(InputError, match="give --bit_depth"):
        run(raw, tmp_path / "m", **settings)
    assert "--bit_depth" in (tmp_path / "m" / "rejected.csv").read_text()
    folder = run(raw, tmp_path / "m", **settings, bit_depth=12)
    assert len(manifest.read(folder)) == 8
    with pytest.raises(InputError, match="bit_depth was 12 and is 14"):
        run(raw, tmp_path / "m", **settings, bit_depth=14)


def test_near_duplicates_across_a_kept_split_are_reported_with_their_number(tmp_path, capsys):
    for i in range(12):
        class_dir = tmp_path / "raw" / ("test" if i % 3 == 0 else "train") / "ab"[i % 2]
        class_dir.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_lesion("nv", 9, i, 128)[0][0]).save(class_dir / f"{i}.png")
    shutil.copy(tmp_path / "raw" / "test" / "a" / "0.png", tmp_path / "raw" / "train" / "a" / "copy.png")
    settings = {"source": "imagefolder", "keep_split": True, "no_groups": True, "resolution": 128}
    folder = run(tmp_path / "raw", tmp_path / "m", **settings)
    assert facts(folder)["audit"]["groups_crossing_splits"] == 1
    out = capsys.readouterr().out
    assert "NO GROUPS: " in out
    assert "Groups in more than one split: at least 1, of near-duplicates." in out
    assert "join" not in out
    assert "at least 1 group of near-duplicates is in more than one split" in out


def test_a_kept_split_needs_known_words_and_whole_lesions(phantoms, tmp_path):
    raw = shutil.copytree(phantoms, tmp_path / "raw")
    table = pd.read_csv(raw / "HAM10000_metadata.csv")
    of_lesion = table["lesion_id"].rank(method="dense").astype(int)

    def kept(words, name):
        table.assign(split=words).to_csv(raw / "HAM10000_metadata.csv", index=False)
        return run(raw, tmp_path / name, keep_split=True, find_duplicates=False)

    with pytest.raises(InputError, match="must say train, val or test for each image, but holds 'fold1'"):
        kept([["fold1", "train"][i % 2] for i in of_lesion], "a")
    with pytest.raises(InputError, match=r"--keep_split: \d+ lesions or patients are in more than one split"):
        kept([["train", "test"][i % 2] for i in range(len(table))], "b")
    folder = kept([["Training", "testing", "VALID"][i % 3] for i in of_lesion], "c")
    assert set(manifest.read(folder)["split"]) == {"train", "val", "test"}


def test_a_named_column_of_groups_never_replaces_known_ids(tmp_path):
    raw = photographs(tmp_path / "raw", user_table("patient_id,subject", lambda i: f"P{i // 4},S{i}"))
    with pytest.raises(InputError, match="has ids in patient_id, which --group_column subject would replace"):
        run(raw, tmp_path / "m", source="imagefolder", group_column="subject")
    both = photographs(tmp_path / "both", user_table("lesion_id,series", lambda i: f"L{i // 2},S{i // 4}"))
    table = manifest.read(run(both, tmp_path / "m2", source="imagefolder", group_column="series"))
    assert (table["lesion_id"].nunique(), table["patient_id"].nunique()) == (20, 10)


@pytest.mark.parametrize("name", ["group", "lesion", "case"])
def test_a_column_with_an_ambiguous_name_is_taken_only_if_it_looks_like_ids_and_can_be_declined(name, tmp_path, capsys):
    arms = photographs(tmp_path / "arms", user_table(name, lambda i: ["treated", "control"][i % 2]))
    with pytest.raises(InputError, match=rf"no lesion or patient ids.*\(further columns: {name}\)"):
        run(arms, tmp_path / "m", source="imagefolder")
    words = photographs(tmp_path / "words", user_table(name, lambda i: ["nevus", "melanoma", "df", "bcc"][i % 4]))
    with pytest.raises(InputError, match="no lesion or patient ids"):
        run(words, tmp_path / "m", source="imagefolder")
    ids = photographs(tmp_path / "ids", user_table(name, lambda i: f"G{i // 4}"))
    assert facts(run(ids, tmp_path / "m1", source="imagefolder"))["audit"]["groups"] == 10
    capsys.readouterr()
    blind = run(ids, tmp_path / "m2", source="imagefolder", no_groups=True)
    assert f"--no_groups: the column {name!r} is not taken as groups" in capsys.readouterr().err
    assert Split.of(blind).split_method == NO_GROUPS


def test_an_error_about_too_large_groups_names_their_column(tmp_path):
    raw = photographs(tmp_path / "raw", user_table("subject", lambda i: f"S{i // 20}"))
    with pytest.raises(InputError, match=r"check the ids \(the column 'subject' is taken as patient_id\)"):
        run(raw, tmp_path / "m", source="imagefolder")


def test_an_old_manifest_without_ids_warns_of_no_groups_and_is_not_split_again(tmp_path):
    raw = photographs(tmp_path / "raw", user_table("device", lambda i: "x"))
    folder = run(raw, tmp_path / "m", source="imagefolder", no_groups=True)
    of_old = facts(folder)
    del of_old["split_method"]
    (folder / "prepare.json").write_text(json.dumps(of_old))
    assert "NO GROUPS" in Split.of(folder).warnings()[0]
    with pytest.raises(InputError, match="was split by an earlier version"):
        run(raw, tmp_path / "m", source="imagefolder", no_groups=True)


def test_a_hub_data_set_is_prepared_from_the_split_and_columns_that_are_named(tmp_path):
    files = []
    for i in range(12):
        Image.fromarray(draw_lesion("nv", 9, i, 64)[0][0]).save(tmp_path / f"{i}.png")
        files.append(str(tmp_path / f"{i}.png"))
    features = datasets.Features({"photo": datasets.Image(), "finding": datasets.ClassLabel(names=["nv", "mel"])})
    for split, names in (("train", files[:2]), ("validation", files[2:])):
        rows = {"photo": names, "finding": [i % 2 for i in range(len(names))]}
        data = datasets.Dataset.from_dict(rows, features=features)
        data.to_parquet(tmp_path / "hub" / "data" / f"{split}-00000.parquet")
    settings = {"image_column": "photo", "label_column": "finding", "hub_split": "validation"}
    settings |= {"resolution": 32, "num_workers": 1, "no_groups": True, "find_duplicates": False}
    config = PrepareConfig(source=str(tmp_path / "hub"), output_dir=str(tmp_path / "m"), license="CC0-1.0", **settings)
    folder = prepare(config)
    assert manifest.read(folder)["dx"].value_counts().to_dict() == {"nv": 5, "mel": 5}
