"""A set is published as Parquet or tar shards that `datasets` loads with one line, real images only if licensed."""

import json
import re
import shutil
from dataclasses import replace

import pytest
from huggingface_hub import DatasetCard
from PIL import Image
from world import change, changed, draw, judge

from dermgen.config import InputError
from dermgen.data import manifest
from dermgen.data.cache import hash_file
from dermgen.publish import gates
from dermgen.publish.dataset import PublishDatasetConfig, publish_dataset
from dermgen.publish.evidence import Evidence
from dermgen.results.audit import Audit
from dermgen.results.common import ImageSet, read


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Publications are put together under the working folder, and `datasets` caches nothing of other tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)


def publish(folder, *evidence, repo_id="me/set", **settings):
    return publish_dataset(
        PublishDatasetConfig(
            data_dir=str(folder), repo_id=repo_id, evidence=[str(e) for e in evidence] or None, **settings
        )
    )


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("shards", ["parquet", "webdataset"])
def test_every_image_is_loaded_with_its_bytes_and_columns(shards, streaming, world, hub, monkeypatch):
    import datasets

    publish(world.drawn, world.results, format=shards)
    rows = datasets.load_dataset("me/set", split="train", streaming=streaming)
    table = manifest.read(world.drawn)
    name = "image" if shards == "parquet" else "png"
    rows = rows.cast_column(name, datasets.Image(decode=False))
    loaded = {}
    for row in rows:
        facts = row if shards == "parquet" else row["json"]
        loaded[facts["image_id"]] = (row[name]["bytes"], facts)
    assert set(loaded) == set(table["image_id"])
    for row in table.to_dict("records"):
        content, facts = loaded[row["image_id"]]
        assert content == (world.drawn / row["file_name"]).read_bytes()
        assert (facts["seed"], facts["synthetic"], facts["caption"]) == (int(row["seed"]), True, row["caption"])
        dx = rows.features["dx"].int2str(facts["dx"]) if shards == "parquet" else facts["dx"]
        assert dx == row["dx"]


def test_the_snippet_of_the_card_runs(world, hub):
    publish(world.drawn, world.results)
    text = hub.repos["dataset", "me/set"].files["README.md"].decode()
    namespace = {}
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], namespace)
    assert namespace["dataset"]["train"].num_rows == 100
    assert isinstance(namespace["first"]["image"], Image.Image)


def test_shards_stay_under_their_size_and_hold_each_image_once(world, hub, tmp_path):
    from dermgen.publish.shards import write_parquet

    table = manifest.read_synthetic(world.drawn)
    sizes = [(world.drawn / name).stat().st_size for name in table["file_name"]]
    write_parquet(table, ["mel", "nv"], tmp_path / "data", "train", 3 * max(sizes))
    import pyarrow.parquet as pq

    shards = sorted((tmp_path / "data").glob("*.parquet"))
    assert [p.name for p in shards] == [f"train-{i:05d}-of-{len(shards):05d}.parquet" for i in range(len(shards))]
    assert len(shards) >= 100 / 3
    ids = [i for p in shards for i in pq.read_table(p, columns=["image_id"])["image_id"].to_pylist()]
    assert ids == list(table["image_id"])
    for path in shards:
        images = pq.read_table(path, columns=["image"])["image"].to_pylist()
        assert sum(len(i["bytes"]) for i in images) <= 3 * max(sizes)


def test_max_shard_size_is_in_mebibytes(world, hub, monkeypatch):
    written = []
    monkeypatch.setattr("dermgen.publish.shards.write_parquet", lambda *args: written.append(args[-1]))
    publish(world.drawn, world.results, max_shard_size=3)
    assert written == [3 * 2**20]


def test_a_large_set_becomes_tar_shards_by_itself(world, hub, monkeypatch):
    monkeypatch.setattr("dermgen.publish.shards.TAR_FROM", 1000)
    publish(world.drawn, world.results)
    names = set(hub.repos["dataset", "me/set"].files)
    assert "data/train-00000.tar" in names
    assert not any(name.endswith(".parquet") for name in names)


def test_the_card_states_licence_counts_copies_source_and_scores(world, hub):
    publish(world.drawn, world.results)
    text = hub.repos["dataset", "me/set"].files["README.md"].decode()
    card = DatasetCard(text)
    assert card.data.license == "cc-by-nc-4.0"
    assert card.data.size_categories == ["n<1K"]
    assert "| mel | melanoma | 50 | 0 |" in text
    assert "0 of 100 synthetic images are copies" in text
    assert "from HAM10000" in text
    scores = text.partition("## Scores\n")[2].partition("\n## ")[0]
    assert "100 synthetic images against" in scores


@pytest.mark.parametrize("shards", ["parquet", "webdataset"])
def test_a_5050_set_has_all_real_images_in_their_splits(shards, world, hub):
    """The synthetic images are of two classes, the real ones of seven."""
    from datasets import load_dataset

    real = manifest.read(world.real)
    publish(world.drawn, world.results, include_real=str(world.real), format=shards)
    loaded = load_dataset("me/set")
    names = real["split"].replace({"val": "validation"})
    assert set(loaded) == set(names)
    for name, part in loaded.items():
        rows = [row["json"] for row in part] if shards == "webdataset" else part.remove_columns("image").to_list()
        ids = {
            synthetic: sorted(r["image_id"] for r in rows if r["synthetic"] == synthetic) for synthetic in (False, True)
        }
        assert ids[False] == sorted(real.loc[names == name, "image_id"])
        of_both = real[(names == "train") & real["dx"].isin(["mel", "nv"])]
        assert len(ids[True]) == (len(of_both) if name == "train" else 0)
        assert not any("patient_id" in row for row in rows)
        assert {row["license"] for row in rows} == {"CC BY-NC 4.0"}


def test_real_images_are_never_published_without_request_and_licence(world, hub, tmp_path):
    with pytest.raises(
        InputError, match=r"real images, which are published only as a folder of their own, by --include_real"
    ):
        publish(world.real, world.results)
    unknown = changed(world.real, tmp_path / "unknown", license="", source="our clinic")
    for force in (None, "we want to"):
        with pytest.raises(InputError, match="the licence of .* real images .* is unknown, so they are not published"):
            publish(world.drawn, world.results, include_real=str(unknown), force=force)
    closed = changed(world.real, tmp_path / "closed", license="CC BY-NC-ND 4.0")
    with pytest.raises(InputError, match="does not let prepared images be passed on"):
        publish(world.drawn, world.results, include_real=str(closed), force="we want to")
    assert hub.repos == {}


def test_a_set_that_was_not_wholly_audited_is_not_published(world, hub, tmp_path, capsys):
    with pytest.raises(InputError, match="memorisation: nobody has looked"):
        publish(world.drawn)
    newer = shutil.copytree(world.drawn, tmp_path / "newer")
    path = next((newer / "images").glob("*.png"))
    Image.new("RGB", (16, 16), "red").save(path)
    with pytest.raises(
        InputError, match=r"1 of the 100 images are not those that were audited \(new, or changed since\)"
    ):
        publish(newer, world.results)
    assert "scores (scores): it covers 99 of the 100 published images" in capsys.readouterr().out


@pytest.mark.slow
def test_a_set_with_copies_is_not_published_unless_they_are_left_out(world, hub, tmp_path):
    copied = changed(world.drawn, tmp_path / "copied")
    real = manifest.read(world.real)
    sources = real[real["split"] == "train"]["file_name"].head(12)
    table = manifest.read(copied)
    for name, source in zip(table["file_name"], sources, strict=False):
        shutil.copy(world.real / source, copied / name)
    results = judge(world.real, copied, tmp_path / "results")
    assert json.loads((results / "audit" / "audit.json").read_text())["copies"] == 12
    with pytest.raises(InputError, match=r"12 of 100 images copy a training image.*--without_copies"):
        publish(copied, results)
    publish(copied, results, without_copies=True)
    text = hub.repos["dataset", "me/set"].files["README.md"].decode()
    assert "12 copies were found and left out of this set" in text
    assert "Measured on 100 images, of which the 88 here are a subset" in text
    assert "88 synthetic images" in text


def test_images_of_a_leaky_run_are_not_published(world, hub, tmp_path):
    leaky = changed(world.drawn, tmp_path / "leaky", source="dermgen 0.1.0, LEAKY", model="gone")
    with pytest.raises(InputError, match="split: LEAKY"):
        publish(leaky, world.results)


def test_a_set_with_exif_or_a_training_patients_id_is_not_published(world, hub, tmp_path):
    patient = manifest.read(world.real)["patient_id"][0]
    folder = changed(world.drawn, tmp_path / "exif", caption=f"nevus of {patient}")
    path = folder / manifest.read(folder)["file_name"][0]
    exif = Image.Exif()
    exif[0x010F] = "camera"
    with Image.open(path) as image:
        image.save(path, exif=exif)
    with pytest.raises(InputError, match=r"(?s)privacy: .*EXIF in data/train.*patient id in data/train"):
        publish(folder, dry_run=True)


@pytest.mark.slow
def test_ids_and_file_names_of_a_clinics_photographs_are_not_published(world, hub, tmp_path):
    from datasets import load_dataset

    named = [f"Smith_John_{i}" for i in range(len(manifest.read(world.real)))]
    clinic = changed(world.real, tmp_path / "clinic", image_id=named, source="our clinic", patient_id="")
    revealing = changed(world.drawn, tmp_path / "revealing", nearest_train_id="Smith_John_3")
    publish(revealing, world.results, include_real=str(clinic))
    for content in hub.repos["dataset", "me/set"].files.values():
        assert b"Smith" not in content
    rows = load_dataset("me/set", split="test")
    assert rows["image_id"][0].startswith("real_")
    public = changed(world.drawn, tmp_path / "public", nearest_train_id="ISIC_1")
    publish(public, world.results, repo_id="me/other")
    assert load_dataset("me/other", split="train")["nearest_train_id"][0] == "ISIC_1"


@pytest.mark.slow
def test_images_made_from_photographs_need_an_audit_against_those(world, hub, tmp_path):
    from datasets import load_dataset

    known = manifest.read(world.real)["image_id"][0]
    for source, audited in (("Smith_John_1962", False), (known, True)):
        drawn = changed(world.drawn, tmp_path / source, source_image_id=source)
        results = judge(world.real, drawn, tmp_path / f"r_{source}", scores=False)
        if not audited:
            with pytest.raises(InputError, match="images were drawn over 1 photographs that the audit does not know"):
                publish(drawn, results)
            publish(drawn, results, force="to see the columns")
            assert "source_image_id" not in load_dataset("me/set", split="train").column_names
        else:
            publish(drawn, results, repo_id="me/known")
            assert load_dataset("me/known", split="train")["source_image_id"][0] == known


def test_images_made_from_held_out_ones_do_not_join_the_training_split(world, tmp_path):
    real = manifest.read(world.real)
    drawn = changed(world.drawn, tmp_path / "d", source_image_id=real.loc[real["split"] == "test", "image_id"].iloc[0])
    with pytest.raises(InputError, match="were drawn over held-out images"):
        publish(drawn, include_real=str(world.real), dry_run=True)


def test_a_run_trained_again_does_not_vouch_for_images_of_its_older_weights(world, hub, tmp_path):
    """Otherwise its licence would be stated for images that other weights generated."""
    drawn = changed(world.drawn, tmp_path / "drawn", model=str(world.run), model_sha256="ab" * 32)
    publish(drawn, world.results, force="to see the licence")
    card = hub.repos["dataset", "me/set"].files["README.md"].decode()
    assert "does not record which images its model was trained on" in card
    assert DatasetCard(card).data.license == "cc-by-nc-4.0"  # of the images' own column


@pytest.mark.slow
def test_dropped_images_are_left_out_and_the_card_mentions_the_filter(world, hub, tmp_path):
    from datasets import load_dataset

    from dermgen.filtering import FilterConfig, filter_images

    both = {"real": str(world.real), "synthetic": str(world.drawn)}
    filter_images(FilterConfig(**both, output_dir=str(tmp_path / "f"), extractor="pixels", keep=0.3, scorer="features"))
    publish(tmp_path / "f", world.results)
    assert set(load_dataset("me/set", split="train")["kept"]) == {True}
    card = hub.repos["dataset", "me/set"].files["README.md"].decode()
    assert "Chosen by a quality filter: 30 of 100" in card
    assert "0 of 30 synthetic images are copies" in card
    assert "| command | `" in card
    publish(tmp_path / "f", world.results, dropped_too=True, repo_id="me/all")
    assert load_dataset("me/all", split="train").num_rows == 100
    assert "Chosen by" not in hub.repos["dataset", "me/all"].files["README.md"].decode()


def test_a_set_of_another_program_is_published_and_real_images_without_splits_are_refused(world, hub, tmp_path):
    table = manifest.read(world.drawn)
    other = changed(world.drawn, tmp_path / "other")
    manifest.write(table[[c for c in manifest.COLUMNS if c in table]].assign(license="CC0"), other)
    (other / "provenance.json").unlink()
    publish(other, world.results, force="their program records nothing")
    assert DatasetCard(hub.repos["dataset", "me/set"].files["README.md"].decode()).data.license == "cc0-1.0"
    lost = changed(world.real, tmp_path / "lost", split="")
    with pytest.raises(InputError, match="real images of .* have no split"):
        publish(world.drawn, include_real=str(lost), dry_run=True)


def test_missing_files_and_wrong_folders_are_errors(world, tmp_path):
    broken = shutil.copytree(world.drawn, tmp_path / "broken")
    next((broken / "images").glob("*.png")).unlink()
    with pytest.raises(InputError, match="1 of the 100 images of .* are missing"):
        publish(broken, dry_run=True)
    with pytest.raises(InputError, match="is a run, not a set of images: dermgen publish model"):
        publish(world.run, dry_run=True)


def test_the_same_set_gives_the_same_bytes(world, tmp_path):
    hashes = []
    for _ in range(2):
        publish(world.drawn, world.results, dry_run=True)
        folder = tmp_path / "published/set/repository"
        hashes.append({p.relative_to(folder): hash_file(p) for p in folder.rglob("*") if p.is_file()})
    assert hashes[0] == hashes[1]
    assert len(hashes[0]) == 4


def test_a_set_without_classes_is_published_without_them(base_dir, world, hub, tmp_path):
    from datasets import load_dataset

    folder = draw(base_dir, tmp_path / "d", classes=None, prompt="a lesion", num_images=3, num_inference_steps=1)
    publish(folder, force="to see the set")
    rows = load_dataset("me/set", split="train")
    assert rows.num_rows == 3
    assert set(rows["dx"]) == {None}
    assert rows["prompt"][0] == "a lesion"
    card = hub.repos["dataset", "me/set"].files["README.md"].decode()
    assert "| unknown |  | 3 | 0 |" in card


@pytest.mark.slow
def test_images_of_a_model_with_an_unknown_training_set_are_not_published(base_dir, world, tmp_path):
    folder = draw(base_dir, tmp_path / "d", classes="mel:3", num_inference_steps=1)
    results = judge(world.real, folder, tmp_path / "r", scores=False)
    with pytest.raises(InputError, match="not recorded what the model was trained on"):
        publish(folder, results, dry_run=True, data_license="CC0")


def two_audits(world, tmp_path, **of_each):
    """Two audits with different results."""
    results = tmp_path / "r"
    for name in ("a", "b"):
        shutil.copytree(world.results / "audit", results / name)
        change(results / name / "audit.json", **{key: values["ab".index(name)] for key, values in of_each.items()})
    return results


def test_an_image_is_a_copy_if_any_of_several_audits_says_so(world, hub, tmp_path):
    hashes = sorted(hash_file(p) for p in (world.drawn / "images").glob("*.png"))
    results = two_audits(world, tmp_path, copied=(hashes[:9], hashes[9:18]), copies=(9, 9))
    with pytest.raises(InputError, match="18 of 100 images copy a training image"):
        publish(world.drawn, results)
    publish(world.drawn, results, without_copies=True)
    text = hub.repos["dataset", "me/set"].files["README.md"].decode()
    assert "18 copies were found and left out of this set" in text
    assert "0 of 82 synthetic images are copies" in text


def test_an_audit_of_a_few_images_does_not_complete_one_that_compared_with_too_little(world, hub, tmp_path):
    audit = json.loads((world.results / "audit" / "audit.json").read_text())
    one = {"sha256": audit["images"]["sha256"][:1], "models": audit["images"]["models"]}
    results = two_audits(world, tmp_path, images=(audit["images"], one), train=(["ab"], audit["train"]))
    with pytest.raises(InputError, match="did not compare with .* real training images"):
        publish(world.drawn, results)


def test_two_audits_together_may_cover_the_sources_and_the_training_images(world, hub, tmp_path):
    audit = json.loads((world.results / "audit" / "audit.json").read_text())
    half = len(audit["train"]) // 2
    parts = (audit["train"][:half], audit["train"][half:])
    results = two_audits(world, tmp_path, train=parts, unknown_sources=(["x", "y"], ["y", "z"]))
    with pytest.raises(InputError, match="drawn over 1 photographs that the audit does not know"):
        publish(world.drawn, results)
    for name in "ab":
        change(results / name / "audit.json", unknown_sources=[name])
    assert publish(world.drawn, results)


def test_splits_that_the_model_was_trained_on_are_not_published_as_held_out(world, tmp_path):
    real = manifest.read(world.real)
    swapped = changed(world.real, tmp_path / "t", split=real["split"].replace({"train": "test", "test": "train"}))
    with pytest.raises(InputError, match="the model was trained on .* held-out images"):
        publish(world.drawn, world.results, include_real=str(swapped), dry_run=True)


def test_an_audit_that_cannot_tell_does_not_pass_and_says_what_to_do(world):
    hashes = [f"h{i}" for i in range(100)]
    audit = replace(
        read(Audit, world.results / "audit"), copies=5, n=100, max_copy_rate=0.01, verdict="cannot tell", passed=False,
        images=ImageSet(sha256=hashes, models=[]), train=["t"], copied=hashes[:5], unknown_sources=[],
    )  # fmt: skip
    evidence = Evidence(audit=audit, audits=[audit])
    of_set = gates.memorization(evidence, "it", ["t"], hashes)
    of_model = gates.memorization(evidence, "it", ["t"])
    for (stop,) in (of_set, of_model):
        assert "the audit cannot tell whether 5 of 100 images are copies" in str(stop)
        assert "holds out 300 or more images" in stop.remedy
    assert "--without_copies" in of_set[0].remedy
    assert gates.memorization(evidence, "it", ["t"], hashes[5:]) == []  # as --without_copies leaves the set


def test_a_set_of_copies_alone_cannot_be_published_without_them(world, hub, tmp_path):
    hashes = sorted(hash_file(p) for p in (world.drawn / "images").glob("*.png"))
    results = two_audits(world, tmp_path, copied=(hashes, hashes), copies=(100, 100))
    with pytest.raises(InputError, match="100 of 100 images copy a training image"):
        publish(world.drawn, results, dry_run=True)
    with pytest.raises(InputError, match="all 100 images are copies"):
        publish(world.drawn, results, without_copies=True)


def test_numeric_patient_ids_are_refused_in_captions_and_ignored_elsewhere(world, hub, tmp_path):
    real = manifest.read(world.real)
    numbered = changed(world.real, tmp_path / "n", patient_id=[f"{i:05d}" for i in range(len(real))])
    publish(world.drawn, world.results, include_real=str(numbered))
    revealing = changed(world.drawn, tmp_path / "revealing", caption="nevus of 00003")
    with pytest.raises(InputError, match="privacy: patient id in data/train"):
        publish(revealing, world.results, include_real=str(numbered), dry_run=True)
