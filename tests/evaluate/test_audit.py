"""The audit finds planted copies of training images, and calls hardly any honest image a copy."""

import io
import json
import os
import shutil
import sys
import types
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ham10000, needs_ham10000
from datasets import load_dataset
from PIL import Image, ImageOps

from dermgen import cli
from dermgen.blocks import for_terminal
from dermgen.config import InputError
from dermgen.data import cache, manifest
from dermgen.data.phantom import PhantomConfig, write_phantoms
from dermgen.data.prepare import PrepareConfig, prepare
from dermgen.evaluate import audit as audit_module
from dermgen.evaluate import images, neighbours, products
from dermgen.evaluate.audit import AuditConfig, audit
from dermgen.evaluate.verdict import chance_of_alarms, judge


def crop(image, share):
    edge = round(image.width * share / 2)
    return image.crop((edge, edge, image.width - edge, image.height - edge)).resize(
        image.size, Image.Resampling.BICUBIC
    )


def recompress(image):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=40)
    return Image.open(file).convert("RGB")


def shift_colors(image):
    values = np.asarray(image).astype(float) * [1.15, 0.9, 0.95] + [8, -6, 10]
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


PLANTED = {
    "exact": lambda i: i,
    "mirrored": ImageOps.mirror,
    "turned": lambda i: i.transpose(Image.Transpose.ROTATE_90),
    "cropped": lambda i: crop(i, 0.1),
    "cropped more and mirrored": lambda i: ImageOps.flip(crop(i, 0.18)),
    "recompressed": recompress,
    "colour-shifted": shift_colors,
    "blurred, as by an autoencoder": lambda i: i.resize((32, 32), Image.Resampling.BOX).resize(
        i.size, Image.Resampling.BICUBIC
    ),
}


def plant(honest, train, folder):
    """`honest` rows as a synthetic manifest in `folder`, with 8 copies of each kind among them."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for _, row in honest.iterrows():
        name = f"images/honest_{row['image_id']}.png"
        Image.open(row["path"]).convert("RGB").resize((128, 128), Image.Resampling.LANCZOS).save(folder / name)
        rows.append({**row, "file_name": name, "kind": "honest", "source_id": ""})
    for n, (kind, change) in enumerate(PLANTED.items()):
        for _, row in train.drop_duplicates("lesion_id").iloc[n * 8 : n * 8 + 8].iterrows():
            name = f"images/copy_{n}_{row['image_id']}.png"
            whole = Image.open(row["path"]).convert("RGB").resize((128, 128), Image.Resampling.LANCZOS)
            change(whole).save(folder / name)
            rows.append({**row, "file_name": name, "kind": kind, "source_id": row["image_id"]})
    table = pd.DataFrame(rows).assign(synthetic="true", split="", mask_file_name="").drop(columns="path")
    manifest.write(table.assign(image_id=[n[7:-4] for n in table["file_name"]]), folder)
    return folder


def phantom_rows(folder, seed, lesions, **settings):
    # Without nevi: drawn ones are plain ellipses, of which two lesions look as alike as a crop and its source.
    classes = ["akiec", "bcc", "bkl", "df", "mel", "vasc"]
    raw = write_phantoms(
        PhantomConfig(output_dir=str(folder / "raw"), num_lesions=lesions, height=128, seed=seed, classes=classes)
    )
    made = prepare(
        PrepareConfig(source="ham10000", data_dir=str(raw), output_dir=str(folder / "m"), resolution=96, **settings)
    )
    return made, images.read(made, False)


@pytest.fixture(scope="module")
def real_dir(tmp_path_factory):
    return phantom_rows(tmp_path_factory.mktemp("real"), 0, 160, split=[0.5, 0.25, 0.25])[0]


@pytest.fixture(scope="module")
def planted(real_dir, tmp_path_factory):
    """Honest phantoms of another seed, and copies of training ones."""
    honest = phantom_rows(tmp_path_factory.mktemp("honest"), 5, 120)[1]
    train = images.read(real_dir, False)
    return plant(honest, train[train["split"] == "train"], tmp_path_factory.mktemp("planted") / "m")


def photographs(folder):
    """HAM10000 by lesion: 900 images to train on, 700 held out; 400 more are honest images of other patients."""
    source = ham10000()
    table = (
        pd.read_csv(next(Path(source).glob("*metadata*")), dtype=str)
        .drop_duplicates("lesion_id")
        .sample(2000, random_state=0)
    )
    paths = {p.stem: p for p in Path(source).rglob("*.jpg")} | {
        p.stem: p for p in Path(source).rglob("ISIC_*.png") if "segm" not in str(p)
    }
    table = table[table["image_id"].isin(paths)].assign(path=lambda t: [str(paths[i]) for i in t["image_id"]])
    (folder / "images").mkdir(parents=True)
    real = table.iloc[:1600].copy()
    real["split"] = ["train"] * 900 + ["test"] * 700
    real["file_name"] = [f"images/{Path(p).name}" for p in real["path"]]
    for path, name in zip(real["path"], real["file_name"], strict=True):
        os.symlink(path, folder / name)
    columns = {c: "" for c in manifest.COLUMNS if c not in real.columns} | {"synthetic": "false"}
    manifest.write(real.assign(**columns).drop(columns="path"), folder)
    return table.iloc[1600:].assign(**columns), real


@pytest.mark.slow
@needs_ham10000
def test_on_photographs_95_percent_of_copies_are_found_with_1_percent_false_alarms(tmp_path):
    honest, real = photographs(tmp_path / "real")
    plant(honest, real[real["split"] == "train"], tmp_path / "planted")
    audit(AuditConfig(real=str(tmp_path / "real"), synthetic=str(tmp_path / "planted"), output_dir=str(tmp_path / "a")))
    table = manifest.read(tmp_path / "a")
    copies, rest = table[table["kind"] != "honest"], table[table["kind"] == "honest"]
    hit = (copies["copy"] == "true") & (copies["nearest_train_id"] == copies["source_id"])
    assert (len(copies), len(rest)) == (64, 400)
    assert hit.mean() >= 0.95, copies.loc[~hit, ["kind", "nearest_train_distance"]]
    assert (rest["copy"] == "true").mean() <= 0.01


@pytest.fixture(scope="module")
def audited(real_dir, planted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit") / "a"
    result = audit(AuditConfig(real=str(real_dir), synthetic=str(planted), output_dir=str(folder)))
    return folder, result, manifest.read(folder)


def test_an_audit_hashes_each_file_once(real_dir, planted, tmp_path, monkeypatch):
    times = Counter()

    def counting(path, hash_file=cache.hash_file):
        times[str(path)] += 1
        return hash_file(path)

    monkeypatch.setattr(cache, "hash_file", counting)
    audit(AuditConfig(real=str(real_dir), synthetic=str(planted), output_dir=str(tmp_path / "a")))
    assert set(times) == {path for folder in (real_dir, planted) for path in manifest.read_images(folder)["path"]}
    assert set(times.values()) == {1}


def test_at_least_95_percent_of_planted_copies_are_found_with_their_source(audited):
    table = audited[2]
    copies = table[table["kind"] != "honest"]
    hit = (copies["copy"] == "true") & (copies["nearest_train_id"] == copies["source_id"])
    assert len(copies) == 64
    assert hit.mean() >= 0.95, copies.loc[~hit, ["kind", "nearest_train_distance"]]


def test_at_most_1_percent_of_honest_images_are_called_copies(audited):
    table = audited[2]
    honest = table[table["kind"] == "honest"]
    assert len(honest) > 200
    assert (honest["copy"] == "true").mean() <= 0.01, honest[honest["copy"] == "true"]


def test_the_tables_and_the_result_agree_and_the_view_loads_as_a_dataset(audited):
    folder, result, table = audited
    csv = pd.read_csv(folder / "audit.csv", dtype=str)
    assert list(csv.columns) == ["image_id", "nearest_train_id", "distance", "copy", "source_distance"]
    assert csv["copy"].tolist() == table["copy"].tolist()
    assert result.copies == (csv["copy"] == "true").sum()
    assert sum(c.copies for c in result.per_class.values()) == result.copies
    assert result.low < result.copy_rate < result.high
    rows = load_dataset("imagefolder", data_dir=str(folder / "images").rsplit("/", 1)[0], split="train")
    assert len(rows) >= len(table)
    assert (folder / "sheets" / "closest.png").exists()


def test_the_report_of_an_audit_states_the_threshold_and_how_it_was_set(audited):
    folder, result, _ = audited
    text = for_terminal(result.blocks(folder))
    assert f"is below {result.threshold:.3f}. This threshold, set with {result.held_out_images} held-out real" in text
    assert f"calls {result.false_alarms:.1%} of honest images copies on average" in text


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.slow
def test_an_audit_changes_no_file_of_the_synthetic_set(real_dir, planted, tmp_path):
    manifest.write_view(manifest.read(planted).head(12), planted, tmp_path / "s")
    before = contents(tmp_path / "s")
    audit(AuditConfig(real=str(real_dir), synthetic=str(tmp_path / "s"), output_dir=str(tmp_path / "a"), candidates=1))
    assert contents(tmp_path / "s") == before


@pytest.mark.slow
@pytest.mark.parametrize(("verdict", "status", "printed"), [("failed", 2, "FAILED"), ("cannot tell", 3, "CANNOT TELL")])
def test_an_audit_that_is_not_passed_ends_the_command_with_its_own_status(
    verdict, status, printed, real_dir, planted, tmp_path, monkeypatch, capsys
):
    manifest.write_view(manifest.read(planted).tail(16), planted, tmp_path / "s")
    monkeypatch.setattr(audit_module, "judge", lambda *_: verdict)
    flags = f"--real {real_dir} --synthetic {tmp_path / 's'} --output_dir {tmp_path / 'a'} --candidates 2"
    with pytest.raises(SystemExit) as ended:
        cli.audit(flags.split())
    assert ended.value.code == status
    assert printed in capsys.readouterr().out
    assert json.loads((tmp_path / "a" / "audit.json").read_text())["verdict"] == verdict


def test_a_set_with_many_copies_fails(audited):
    assert audited[1].verdict == "failed"
    assert not audited[1].passed


@pytest.mark.slow
def test_files_of_held_out_images_are_copies_too_and_are_named(real_dir, planted, tmp_path, capsys):
    manifest.write_view(manifest.read(planted).head(20), planted, tmp_path / "s")
    real, names = images.read(real_dir, False), manifest.read(tmp_path / "s")["file_name"]
    test = real[real["split"] == "test"]
    (tmp_path / "s" / names[3]).unlink()
    (tmp_path / "s" / names[3]).write_bytes(Path(test["path"].iloc[0]).read_bytes())
    result = audit(AuditConfig(real=str(real_dir), synthetic=str(tmp_path / "s"), output_dir=str(tmp_path / "a")))
    assert [(e.real_id, e.split) for e in result.exact_copies] == [(test["image_id"].iloc[0], "test")]
    assert manifest.read(tmp_path / "a")["copy"][3] == "true"
    assert result.verdict == "failed"  # 1 of 20, and nothing that chance explains
    assert f"is {test['image_id'].iloc[0]} (split: test)" in capsys.readouterr().out


def verdicts(held_out, planted, sets=400):
    """Shares of the verdicts on sets of 500 images, of which the first `planted` are copies, by the rule alone."""
    rng, verdicts_of_sets = np.random.default_rng(0), []
    chance = chance_of_alarms(0.002, held_out, held_out)
    for _ in range(sets):
        usual, distance = (rng.lognormal(-0.5, 0.12, size=n) for n in (held_out, 500))
        distance[:planted] = 0.01
        copies = int((distance < np.quantile(usual, 0.002, method="lower")).sum())
        verdicts_of_sets.append(judge(copies, planted, 500, chance, 0.01))
    return {verdict: verdicts_of_sets.count(verdict) / sets for verdict in ("passed", "failed", "cannot tell")}


@pytest.mark.parametrize("held_out", [50, 60, 100, 300, 600, 3000])
def test_honest_sets_hardly_ever_fail_and_copies_always_do(held_out):
    honest = verdicts(held_out, 0)
    assert honest["failed"] <= 0.05
    assert honest["cannot tell"] < 0.05 or held_out < 300
    assert verdicts(held_out, 15)["failed"] == 1


def test_the_distribution_of_the_share_of_false_alarms_is_as_simulated():
    rng = np.random.default_rng(0)
    for lesions, views, wanted in ((60, 1, 0.002), (60, 2, 0.002), (900, 1, 0.002)):
        shares = []
        for _ in range(2000):
            usual = np.repeat(rng.uniform(size=lesions), views)  # the share of new images below x is x
            shares.append(np.quantile(usual, wanted, method="lower"))
        chance = chance_of_alarms(wanted, lesions * views, lesions)
        assert np.mean(shares) == pytest.approx(chance.mean(), rel=0.1)
        assert np.quantile(shares, 0.975) == pytest.approx(chance.ppf(0.975), rel=0.15)


def test_training_images_given_as_synthetic_are_refused(real_dir, tmp_path):
    with pytest.raises(InputError, match="must hold synthetic images only, but .* synthetic = 'false'"):
        audit(AuditConfig(real=str(real_dir), synthetic=str(real_dir), output_dir=str(tmp_path / "a")))


def test_a_real_set_without_held_out_images_is_refused(manifest_dir, synthetic_dir, tmp_path):
    with pytest.raises(InputError, match="needs at least 50"):
        audit(AuditConfig(real=str(manifest_dir), synthetic=str(synthetic_dir), output_dir=str(tmp_path / "a")))
    assert not (tmp_path / "a").exists()


def test_faiss_gives_the_same_answers_on_a_small_set():
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    base, queries = rng.normal(size=(900, 16)).astype(np.float32), rng.normal(size=(50, 16)).astype(np.float32)
    exact, ours = products.nearest(queries, base, 3)
    near, theirs = neighbours.approximate_nearest(queries, base, 3)
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(exact, near, rtol=1e-3)


def test_the_index_is_chosen_by_size(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", types.ModuleType("faiss"))
    assert not neighbours.use_faiss("auto", 100_000)
    assert neighbours.use_faiss("auto", 100_001)
    assert neighbours.use_faiss("faiss", 10)
    assert not neighbours.use_faiss("exact", 10**7)


def test_a_large_set_without_faiss_is_an_error_that_names_the_exact_search(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match="100,001 training images are searched with faiss: .* --index exact"):
        neighbours.use_faiss("auto", 100_001)


def test_orientations_of_features_and_of_thumbnails_are_the_same():
    from dermgen.data.duplicates import orient
    from dermgen.evaluate.features import turned

    image = torch.arange(3 * 16).view(1, 3, 4, 4)
    for k in range(8):
        assert turned(image, k)[0, 0].tolist() == orient(image[0, 0].numpy(), k).tolist()


@pytest.mark.slow
def test_blank_images_are_not_copies_and_are_counted(real_dir, planted, tmp_path):
    manifest.write_view(manifest.read(planted).head(12), planted, tmp_path / "s")
    for path in sorted((tmp_path / "s" / "images").glob("*.png"))[:3]:
        path.unlink()
        Image.new("RGB", (96, 96), "black").save(path)
    result = audit(AuditConfig(real=str(real_dir), synthetic=str(tmp_path / "s"), output_dir=str(tmp_path / "a")))
    assert result.featureless == 3
    assert result.copies <= 1
    assert result.false_alarms >= 1 / (result.held_out_images + 1)


@pytest.mark.slow
def test_held_out_images_that_are_copies_themselves_are_an_error(real_dir, planted, tmp_path):
    table = manifest.read(real_dir)
    train, test = (table.index[table["split"] == name] for name in ("train", "test"))
    manifest.write_view(table, real_dir, tmp_path / "m")
    copy = tmp_path / "m" / table["file_name"][test[0]]
    copy.unlink()
    copy.write_bytes((real_dir / table["file_name"][train[0]]).read_bytes())
    with pytest.raises(InputError, match="are copies of training images themselves"):
        audit(AuditConfig(real=str(tmp_path / "m"), synthetic=str(planted), output_dir=str(tmp_path / "a")))


@pytest.mark.slow
def test_copies_are_found_in_a_set_whose_table_has_only_file_names_and_labels(real_dir, planted, audited, tmp_path):
    shutil.copytree(planted, tmp_path / "theirs")
    table = pd.read_csv(planted / "metadata.csv")[["file_name", "dx"]].rename(columns={"dx": "label"})
    table.to_csv(tmp_path / "theirs" / "metadata.csv", index=False)
    result = audit(AuditConfig(real=str(real_dir), synthetic=str(tmp_path / "theirs"), output_dir=str(tmp_path / "a")))
    assert result.copies == audited[1].copies
