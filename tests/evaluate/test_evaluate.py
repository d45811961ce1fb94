"""`dermgen evaluate` from folders to figures: references, floors, subgroups, caches, and what it refuses."""

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from accelerate import Accelerator
from conftest import SMALL_CLASSIFIER
from PIL import Image
from torchmetrics.functional.image import peak_signal_noise_ratio
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from dermgen.blocks import for_terminal
from dermgen.classify import classifier, networks
from dermgen.classify.classifier import ClassifierConfig
from dermgen.config import InputError
from dermgen.data import manifest
from dermgen.data.skin_tone import tone, typology_angle
from dermgen.evaluate import features, images, pairs
from dermgen.evaluate.evaluate import EvaluateConfig, _median, _parts, evaluate
from dermgen.evaluate.features import FeatureSet, of_same_mix
from dermgen.results.common import Estimate, read
from dermgen.results.evaluation import Evaluation


def config(real, synthetic, folder, **changes):
    settings = {
        "real": str(real),
        "synthetic": str(synthetic),
        "output_dir": str(folder),
        "extractor": "pixels",
        "lpips": "none",
    }
    return EvaluateConfig(**settings | changes)


@pytest.fixture(scope="module")
def evaluated(tested_dir, synthetic_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation") / "e"
    return folder, evaluate(config(tested_dir, synthetic_dir, folder, min_images=7))


def test_every_score_has_its_interval_reference_and_floor(evaluated, tested_dir):
    folder, result = evaluated
    overall = result.overall
    held_out = manifest.read(tested_dir)["split"] == "test"
    assert 0.5 * held_out.sum() < overall.n_real <= held_out.sum()
    assert set(overall.scores) == {
        "kid",
        "fid",
        "precision",
        "recall",
        "density",
        "coverage",
        "vendi",
        "mean_cosine",
    }
    for name, s in overall.scores.items():
        assert s.low <= s.value <= s.high, name
        assert s.floor is not None
        assert (s.train is None) == (name in ("vendi", "mean_cosine"))
    assert read(Evaluation, folder) == result
    rows = pd.read_csv(folder / "scores.csv")
    assert {
        "value",
        "low",
        "high",
        "floor",
        "train",
        "extractor",
        "revision",
        "resize",
        "n_real",
        "n_synthetic",
    } <= set(rows)


def test_the_floor_is_of_real_images_outside_the_test_split_in_the_synthetic_sets_class_shares(
    tested_dir, synthetic_dir
):
    plain = features.load("pixels")

    def part(table):
        return features.features(plain, table.reset_index(drop=True), Accelerator())

    real, synthetic = part(images.read(tested_dir, False)), part(images.read(synthetic_dir, True))
    parts = _parts(real, synthetic, plain)
    stand_in = of_same_mix(parts["stand_in"], synthetic, 0, at_most=len(synthetic)).table["dx"].value_counts()
    wanted = synthetic.table["dx"].value_counts()
    assert not set(parts["stand_in"].table["split"]) & {"test"}
    shares = stand_in / stand_in.sum() - wanted / wanted.sum()
    assert shares.abs().max() < 0.05


def test_a_similarity_has_its_unit_and_a_negative_kid_is_explained(evaluated):
    folder, result = evaluated
    text = for_terminal(result.blocks(folder))
    assert "PSNR (dB)" in text
    kid = result.overall.scores["kid"]
    assert ("may be slightly negative" in text) == (min(kid.value, kid.floor, kid.train) < 0)


def test_sets_of_which_no_class_is_large_enough_on_both_sides_are_an_error_that_says_what_to_do(
    tested_dir, synthetic_dir, tmp_path
):
    few = manifest.read(synthetic_dir).groupby("dx").head(2)
    manifest.write_view(few, synthetic_dir, tmp_path / "few")
    with pytest.raises(
        InputError, match=r"no class has 7 images on each side .*: generate more images of fewer classes"
    ):
        evaluate(config(tested_dir, tmp_path / "few", tmp_path / "e"))


def test_fid_of_few_images_is_called_unreliable(evaluated):
    assert not evaluated[1].overall.fid_reliable
    assert any("unreliable" in w and "KID" in w for w in evaluated[1].notes)


def test_a_subgroup_with_a_single_lesion_is_not_scored(tested_dir, synthetic_dir, tmp_path):
    shutil.copytree(tested_dir, tmp_path / "real")
    table = manifest.read(tmp_path / "real")
    only = (table["dx"] == "mel") & (table["split"] == "test")
    assert only.sum() >= 7
    manifest.write(table.assign(lesion_id=table["lesion_id"].mask(only, "one")), tmp_path / "real")
    result = evaluate(config(tmp_path / "real", synthetic_dir, tmp_path / "e", min_images=7))
    assert "mel" in {g.group for g in result.too_few}
    assert "mel" not in {g.group for g in result.groups}


def test_ages_and_skin_tones_are_ordered_by_value_and_other_subgroups_by_name():
    assert images.in_order("age", ["70 and over", "", "30 to 49", "under 30", "30 to 49"]) == [
        "under 30", "30 to 49", "70 and over",
    ]  # fmt: skip
    assert images.in_order("skin tone", ["tan", "dark", "very light", "light"]) == [
        "very light",
        "light",
        "tan",
        "dark",
    ]
    assert images.in_order("sex", ["male", "female", ""]) == ["female", "male"]


def test_subgroups_that_are_too_small_are_listed_and_not_scored(evaluated):
    scored = {(g.scope, g.group) for g in evaluated[1].groups}
    listed = {(g.scope, g.group) for g in evaluated[1].too_few}
    assert {"site", "sex", "age", "skin tone"} <= {scope for scope, _ in scored | listed}
    assert not scored & listed
    assert all(min(g.n_real, g.n_synthetic) < 7 for g in evaluated[1].too_few)


@pytest.mark.slow
def test_copies_of_the_training_set_show_in_the_column_of_the_training_split(tested_dir, tmp_path):
    table = manifest.read(tested_dir)
    train = table[table["split"] == "train"].assign(synthetic="true", split="")
    manifest.write_view(train, tested_dir, tmp_path / "copies")
    scores = evaluate(config(tested_dir, tmp_path / "copies", tmp_path / "e")).overall.scores
    assert scores["fid"].train == pytest.approx(0, abs=1e-3)
    assert scores["coverage"].train == 1
    assert scores["fid"].value > 10 * max(scores["fid"].train, 1e-6)


def test_the_nearest_real_image_is_more_similar_than_a_random_one(evaluated):
    similar = evaluated[1].pairs
    assert similar.nearest["ssim"].value > similar.random["ssim"].value
    assert similar.nearest["ssim"].low <= similar.nearest["ssim"].value <= similar.nearest["ssim"].high
    assert similar.floor["ssim"].value is not None
    assert set(similar.nearest_per_class) == {"akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"}
    assert similar.against == "train"
    assert "ms_ssim" not in similar.nearest  # these images are too small for it


def test_plain_folders_are_compared_without_classes_and_their_floor_is_halves(tested_dir, synthetic_dir, tmp_path):
    result = evaluate(config(tested_dir / "images", synthetic_dir / "images", tmp_path / "e"))
    overall = result.overall
    assert overall.n_real == len(manifest.read(tested_dir))
    assert overall.n_train == 0
    assert overall.n_floor + overall.n_floor_reference == overall.n_real
    assert all(g.scope in ("all", "skin tone") for g in result.groups)


def test_features_are_computed_once_for_the_same_pixels(tested_dir, tmp_path):
    calls = []
    plain = features.load("pixels")
    extractor = features.Extractor("pixels", "1", 64, plain.width, 0, lambda x: calls.append(len(x)) or plain.embed(x))
    table = manifest.read_real(tested_dir).head(10)
    first = features.features(extractor, table, Accelerator(), cache_dir=tmp_path / "cache").features
    renamed = []
    for i, path in enumerate(table["path"]):
        renamed.append(str(tmp_path / f"{i}.png"))
        (tmp_path / f"{i}.png").write_bytes(Path(path).read_bytes())
    again = features.features(
        extractor, table.assign(path=renamed), Accelerator(), cache_dir=tmp_path / "cache"
    ).features
    computed = len(calls)
    np.testing.assert_array_equal(first, again)
    Image.open(renamed[3]).convert("L").convert("RGB").save(renamed[3])
    changed = features.features(
        extractor, table.assign(path=renamed), Accelerator(), cache_dir=tmp_path / "cache"
    ).features
    assert len(calls) > computed
    assert (changed != first).any(axis=1).nonzero()[0].tolist() == [3]


def test_features_do_not_depend_on_the_batch(tested_dir, tmp_path):
    table = images.read(tested_dir, False).head(9)
    a, b = (
        features.features(features.load("pixels"), table, Accelerator(), n, cache_dir=tmp_path / str(n)).features
        for n in (2, 9)
    )
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_nan_features_are_an_error_that_names_an_image(tested_dir, tmp_path):
    broken = features.Extractor("broken", "1", 32, 4, 0, lambda x: torch.full((len(x), 4), torch.nan))
    table = images.read(tested_dir, False).head(4)
    with pytest.raises(InputError, match=f"broken gives NaN or infinite features for {table['image_id'][0]}"):
        features.features(broken, table, Accelerator(), cache_dir=tmp_path)


def test_a_dinov2_and_a_clip_folder_give_what_transformers_gives(tmp_path):
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    dino = Dinov2Model(Dinov2Config(**small)).eval()
    clip = CLIPVisionModelWithProjection(CLIPVisionConfig(**small, intermediate_size=16, projection_dim=8)).eval()
    pixels = torch.randint(256, (3, 3, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for name, model, output in (("dino", dino, "pooler_output"), ("clip", clip, "image_embeds")):
        model.save_pretrained(tmp_path / name)
        processor = ViTImageProcessor(size={"height": 28, "width": 28})
        processor.save_pretrained(tmp_path / name)
        extractor = features.load(str(tmp_path / name))
        assert (extractor.resolution, extractor.width) == (28, {"dino": 16, "clip": 8}[name])
        inputs = processor([image.permute(1, 2, 0).numpy() for image in pixels], return_tensors="pt")
        with torch.no_grad():
            expected = model(**inputs)[output]
        torch.testing.assert_close(extractor.embed(pixels), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["inception", "dinov2", "no/such-model", "inception:missing.pth"])
def test_an_extractor_that_cannot_be_loaded_names_the_offline_choice(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(InputError, match="--extractor pixels"):
        features.load(name)


def test_a_file_of_weights_that_holds_code_is_not_run(tmp_path):
    import pickle

    class Code:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (tmp_path / "w.pth").write_bytes(pickle.dumps(Code()))
    with pytest.raises(InputError, match="cannot load Inception's weights"):
        features.load(f"inception:{tmp_path / 'w.pth'}")
    assert not (tmp_path / "ran").exists()


def test_pair_scores_of_equal_and_of_shifted_images():
    a = torch.randint(40, 200, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    same, brighter = pairs.similarities(a, a), pairs.similarities(a, a + 51)
    assert same["mse"] == [0, 0, 0]
    assert same["ssim"] == pytest.approx([1, 1, 1])
    assert math.isinf(same["psnr"][0])
    assert brighter["mse"] == pytest.approx([0.04] * 3)
    assert brighter["psnr"][0] == pytest.approx(
        float(peak_signal_noise_ratio(a[:1] / 255, (a[:1] + 51) / 255, data_range=1.0)), rel=1e-4
    )
    assert "ms_ssim" in pairs.similarities(*[torch.zeros(1, 3, 192, 192, dtype=torch.uint8)] * 2)


def test_lpips_of_equal_images_is_0_and_grows_with_the_change(monkeypatch):
    torch.manual_seed(0)
    weights = torchvision.models.alexnet().state_dict()  # random ones, in the place of the download
    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", lambda *_, **__: weights)
    a = torch.randint(40, 200, (3, 3, 64, 64), dtype=torch.uint8)
    network = pairs.load_lpips("alex")
    same = pairs.similarities(a, a, network)["lpips"]
    little, much = (pairs.similarities(a, (a + step).to(torch.uint8), network)["lpips"] for step in (5, 50))
    assert same == pytest.approx([0, 0, 0], abs=1e-6)
    assert all(0 < x < y for x, y in zip(little, much, strict=True))


def test_lpips_that_cannot_be_downloaded_names_the_offline_choice(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(InputError, match="--lpips none"):
        pairs.load_lpips("alex")


@pytest.mark.parametrize(
    ("rgb", "band"), [((245, 225, 205), "very light"), ((170, 125, 95), "tan"), ((70, 45, 35), "dark")]
)
def test_skin_tone_is_that_of_the_skin_whatever_the_lesion_and_the_corners(rgb, band):
    image = np.full((64, 64, 3), rgb, np.uint8)
    mask = np.zeros((64, 64), np.uint8)
    mask[20:44, 20:44] = 255
    image[mask > 0] = (60, 30, 25)
    image[:8, :8] = 0
    assert tone(typology_angle(image, mask)) == band


def test_the_typology_angle_is_its_formula():
    linear = ((np.array([200, 160, 130]) / 255 + 0.055) / 1.055) ** 2.4  # sRGB, all above its linear part
    y, z = np.array([[0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear / [1, 1.089]
    lightness, b = 116 * np.cbrt(y) - 16, 200 * (np.cbrt(y) - np.cbrt(z))
    image = np.full((32, 32, 3), (200, 160, 130), np.uint8)
    expected = math.degrees(math.atan2(lightness - 50, b))
    assert typology_angle(image, np.zeros((32, 32), np.uint8)) == pytest.approx(expected, abs=0.3)


def test_an_image_that_is_all_lesion_has_no_skin_tone():
    assert tone(typology_angle(np.full((32, 32, 3), 120, np.uint8), np.full((32, 32), 255, np.uint8))) == ""


def test_sets_that_cannot_be_compared_are_refused_with_the_reason(tested_dir, synthetic_dir, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.png").write_bytes(next((synthetic_dir / "images").glob("*.png")).read_bytes())
    for real, synthetic, message in (
        (tested_dir, tmp_path / "empty", "has no images"),
        (tested_dir, tmp_path / "one", "at least 7 images"),
        (tested_dir, tested_dir, r"must hold synthetic images only, but (\d+) of its \1 have synthetic = 'false'"),
        (synthetic_dir, synthetic_dir, "must hold real images only"),
        (tmp_path / "nowhere", synthetic_dir, "no such folder"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate(config(real, synthetic, tmp_path / "e"))


def test_a_class_that_is_missing_on_one_side_is_left_out_of_the_reference(tested_dir, synthetic_dir, tmp_path):
    table = manifest.read(synthetic_dir)
    manifest.write_view(table[table["dx"].isin(["nv", "mel", "bkl", "bcc"])], synthetic_dir, tmp_path / "four")
    result = evaluate(config(tested_dir, tmp_path / "four", tmp_path / "e", min_images=7))
    real = manifest.read(tested_dir)
    held_out = (real["split"] == "test") & real["dx"].isin(["nv", "mel", "bkl", "bcc"])
    assert result.overall.n_real <= held_out.sum()
    assert {g.group for g in result.groups if g.scope == "class"} <= {"nv", "mel", "bkl", "bcc"}


def feature_set(**counts):
    table = pd.DataFrame({"dx": [dx for dx, n in counts.items() for _ in range(n)]})
    return FeatureSet(table, np.arange(len(table))[:, None], np.zeros((len(table), 0)))


def test_a_reference_has_the_classes_in_the_synthetic_sets_shares():
    source, like = feature_set(nv=100, mel=30, df=8), feature_set(nv=20, mel=20)
    assert of_same_mix(source, like, 0).table["dx"].value_counts().to_dict() == {"nv": 30, "mel": 30}
    assert of_same_mix(source, like, 0, at_most=10).table["dx"].value_counts().to_dict() == {"nv": 5, "mel": 5}
    assert len(of_same_mix(source, feature_set(vasc=4), 0)) == 0
    chosen = of_same_mix(source, like, 1).features[:, 0]
    assert len(set(chosen)) == 60


@pytest.mark.slow
def test_a_different_mix_of_classes_does_not_count_as_a_difference_if_classes_are_known(tested_dir, tmp_path):
    table = manifest.read(tested_dir)
    train = table[table["split"] != "test"].assign(synthetic="true", split="")
    mostly_vasc = pd.concat([train[train["dx"] == "vasc"], train[train["dx"] == "nv"].head(7)])
    manifest.write_view(mostly_vasc, tested_dir, tmp_path / "vasc")
    kid = {}
    for name, real in (("matched", tested_dir), ("unmatched", tested_dir / "images")):  # a plain folder has no classes
        kid[name] = evaluate(config(real, tmp_path / "vasc", tmp_path / name)).overall.scores["kid"].value
    assert kid["matched"] < 0.5 * kid["unmatched"]


@pytest.mark.slow
def test_the_floor_is_not_of_images_that_the_extractor_was_trained_on(tested_dir, synthetic_dir, tmp_path):
    run = tmp_path / "run"
    classifier.train(
        ClassifierConfig(
            data_dir=str(tested_dir), output_dir=str(run), max_train_steps=2, validation_steps=2, **SMALL_CLASSIFIER
        )
    )
    result = evaluate(config(tested_dir, synthetic_dir, tmp_path / "e", extractor=str(run)))
    table = manifest.read(tested_dir)
    assert 7 <= result.overall.n_floor <= (table["split"] == "val").sum()
    assert any("trained on the training split" in w for w in result.notes)
    assert "inception_score" in result.overall.scores
    network, classes, resolution = networks.load_run(run)
    assert resolution == 32
    hits = {}
    for row in images.read(synthetic_dir, True).to_dict("records"):
        pixels = torch.from_numpy(np.array(Image.open(row["path"]))).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            hits.setdefault(row["dx"], []).append(classes[int(network(pixels).argmax())] == row["dx"])
    by_class = {g.group: g.scores["recognised"].value for g in result.groups if g.scope == "class"}
    assert by_class
    assert by_class == pytest.approx({dx: np.mean(hits[dx]) for dx in by_class})


@pytest.mark.slow
def test_two_processes_give_the_scores_of_one(evaluated, tested_dir, synthetic_dir, tmp_path):
    launch = f"{sys.executable} -m torch.distributed.run --standalone --nproc_per_node 2 -m dermgen.cli evaluate"
    flags = f"--real {tested_dir} --synthetic {synthetic_dir} --output_dir {tmp_path / 'e'} --extractor pixels"
    command = f"{launch} {flags} --lpips none --min_images 7".split()
    env = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "DERMGEN_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    theirs, ours = (read(Evaluation, folder) for folder in (tmp_path / "e", evaluated[0]))
    assert [(g.name, list(g.scores)) for g in theirs.groups] == [(g.name, list(g.scores)) for g in ours.groups]
    for their_group, our_group in zip(theirs.groups, ours.groups, strict=True):
        for name, score in our_group.scores.items():
            assert their_group.scores[name].value == pytest.approx(score.value, rel=1e-4), (our_group.name, name)


def test_the_value_at_the_floors_sample_size_is_the_score_itself_if_no_image_is_left_out(
    tested_dir, synthetic_dir, tmp_path
):
    """So a set of which no image is left out has the same scores there as over the whole set."""
    table = manifest.read(tested_dir)
    few = manifest.read(synthetic_dir).groupby("dx").head(7)
    manifest.write_view(few[few["dx"].isin(["nv", "mel"])], synthetic_dir, tmp_path / "few")
    overall = evaluate(config(tested_dir, tmp_path / "few", tmp_path / "e")).overall
    assert (table["split"] == "train").sum() > overall.n_floor == overall.n_synthetic
    for name, s in overall.scores.items():
        assert s.at_floor_n == pytest.approx(s.value, rel=1e-4, abs=1e-6), name


def test_a_plain_folder_against_a_manifest_is_compared_without_classes(tested_dir, synthetic_dir, tmp_path):
    result = evaluate(config(tested_dir, synthetic_dir / "images", tmp_path / "e"))
    assert result.overall.n_real == (manifest.read(tested_dir)["split"] == "test").sum()
    assert any("one side has no classes" in w for w in result.notes)


def test_images_that_the_filter_dropped_are_read_only_on_request(tested_dir, synthetic_dir, tmp_path):
    table = manifest.read(synthetic_dir)
    table["kept"] = ["true" if i % 2 else "false" for i in range(len(table))]
    manifest.write_view(table, synthetic_dir, tmp_path / "filtered")
    assert len(images.read(tmp_path / "filtered", True)) == len(table) // 2
    assert len(images.read(tmp_path / "filtered", True, dropped_too=True)) == len(table)


def test_a_real_set_without_a_test_split_is_refused(tested_dir, synthetic_dir, tmp_path):
    table = manifest.read(tested_dir)
    manifest.write_view(table.assign(split=table["split"].replace("test", "val")), tested_dir, tmp_path / "m")
    with pytest.raises(InputError, match="has no test split"):
        evaluate(config(tmp_path / "m", synthetic_dir, tmp_path / "e"))


def test_lesions_in_several_splits_are_refused_as_the_real_set(tested_dir, synthetic_dir, tmp_path):
    table = manifest.read(tested_dir)
    table["lesion_id"] = ["one", "one", *table["lesion_id"][2:]]
    table["split"] = ["train", "test", *table["split"][2:]]
    manifest.write_view(table, tested_dir, tmp_path / "m")
    with pytest.raises(InputError, match="lesions? or patients? (is|are) in more than one split"):
        evaluate(config(tmp_path / "m", synthetic_dir, tmp_path / "e"))


def test_blank_images_are_an_error(tested_dir, synthetic_dir, tmp_path):
    manifest.write_view(manifest.read(synthetic_dir), synthetic_dir, tmp_path / "s")
    for path in sorted((tmp_path / "s" / "images").glob("*.png"))[:5]:
        path.unlink()
        Image.new("RGB", (32, 32), "black").save(path)
    with pytest.raises(InputError, match="5 images have no features at all"):
        evaluate(config(tested_dir, tmp_path / "s", tmp_path / "e"))


def test_a_classification_checkpoint_gives_its_class_token_and_not_a_random_pooler(tmp_path):
    settings = ViTConfig(
        image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    ViTForImageClassification(settings).save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    pixels = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    first, second = (features.load(str(tmp_path / "vit")).embed(pixels) for _ in range(2))
    torch.testing.assert_close(first, second)


def test_a_set_whose_table_has_only_file_names_and_labels_is_scored_as_one_of_ours(
    evaluated, tested_dir, synthetic_dir, tmp_path
):
    shutil.copytree(synthetic_dir, tmp_path / "theirs")
    table = pd.read_csv(synthetic_dir / "metadata.csv")[["file_name", "dx"]].rename(columns={"dx": "label"})
    table.to_csv(tmp_path / "theirs" / "metadata.csv", index=False)
    theirs = evaluate(config(tested_dir, tmp_path / "theirs", tmp_path / "e", min_images=7))
    assert theirs.overall.scores == evaluated[1].overall.scores
    assert set(manifest.read_synthetic(tmp_path / "theirs")["dx"]) == set(table["label"])
    with pytest.raises(InputError, match="lacks the columns"):
        manifest.read_real(tmp_path / "theirs")


def test_the_interval_of_a_median_resamples_lesions():
    values = np.repeat(np.random.default_rng(0).normal(size=30), 4)
    alone, together = _median(values), _median(values, np.repeat(np.arange(30), 4))
    assert alone.value == together.value == pytest.approx(np.median(values))
    assert together.high - together.low > 1.5 * (alone.high - alone.low)
    assert _median([np.inf, np.inf, 1.0]) == Estimate(value=None, low=1.0, high=None)


@pytest.mark.slow
def test_max_pairs_limits_the_images_that_are_compared_by_pixels(tested_dir, synthetic_dir, tmp_path):
    pairs = evaluate(config(tested_dir, synthetic_dir, tmp_path / "e", max_pairs=5)).pairs
    assert (pairs.n, pairs.n_floor) == (5, 5)
