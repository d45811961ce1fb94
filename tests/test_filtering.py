"""The filter keeps the best of each class, tells what it cost, and refuses a scorer that has seen the answers."""

import numpy as np
import pandas as pd
import pytest
from conftest import SMALL_CLASSIFIER
from datasets import load_dataset

from dermgen import filtering
from dermgen.classify import classifier
from dermgen.classify.classifier import ClassifierConfig
from dermgen.config import InputError
from dermgen.data import manifest
from dermgen.data.loading import LesionSet
from dermgen.evaluate.evaluate import EvaluateConfig, evaluate
from dermgen.evaluate.features import FeatureSet
from dermgen.filtering import FilterConfig, _cost, choose, filter_images
from dermgen.results.common import read
from dermgen.results.filtered import Filtered


@pytest.fixture(scope="module")
def run_dir(tested_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "r"
    classifier.train(
        ClassifierConfig(
            data_dir=str(tested_dir),
            output_dir=str(folder),
            max_train_steps=30,
            validation_steps=30,
            learning_rate=1e-3,
            **SMALL_CLASSIFIER,
        )
    )
    return folder


def config(tested_dir, synthetic_dir, folder, **changes):
    settings = {
        "extractor": "pixels",
        "real": str(tested_dir),
        "synthetic": str(synthetic_dir),
        "output_dir": str(folder),
    }
    return FilterConfig(**settings | changes)


def test_the_best_share_of_each_class_is_kept():
    quality = np.array([0.9, 0.1, 0.5, 0.3, 0.8, 0.2, 0.7])
    labels = np.array(["a", "a", "a", "a", "b", "b", "c"])
    assert choose(quality, labels, 0.5, None).tolist() == [True, False, True, False, True, False, True]
    assert choose(quality, labels, 0.5, 0.7).tolist() == [True, False, False, False, True, False, True]
    assert choose(quality, labels, 0.01, None).sum() == 3


def test_a_view_with_scores_is_written_and_nothing_is_moved(tested_dir, synthetic_dir, tmp_path):
    before = manifest.read(synthetic_dir)
    found = filter_images(config(tested_dir, synthetic_dir, tmp_path / "f", keep=0.5))
    view = manifest.read(tmp_path / "f")
    assert manifest.read(synthetic_dir).equals(before)
    assert all((synthetic_dir / name).exists() for name in before["file_name"])
    assert view["image_id"].tolist() == before["image_id"].tolist()
    assert (view["kept"] == "true").sum() == found.kept == sum(c.kept for c in found.per_class.values())
    kept = view[view["kept"] == "true"].groupby("dx")["quality_score"].apply(lambda s: s.astype(float).min())
    dropped = view[view["kept"] == "false"].groupby("dx")["quality_score"].apply(lambda s: s.astype(float).max())
    assert (kept >= dropped).all()
    assert len(load_dataset("imagefolder", data_dir=str(tmp_path / "f"), split="train")) >= len(view)
    assert (tmp_path / "f" / "plots" / "quality.png").exists()
    assert (tmp_path / "f" / "sheets" / "kept_and_dropped.png").exists()


def test_the_score_of_the_classifier_is_its_probability_of_the_asked_class(
    tested_dir, synthetic_dir, run_dir, tmp_path
):
    filter_images(config(tested_dir, synthetic_dir, tmp_path / "f", scorer="classifier", run=str(run_dir)))
    view = manifest.read(tmp_path / "f")
    loaded, classes, resolution = classifier.networks.load_run(run_dir)
    item = LesionSet(view.iloc[:1].assign(path=str(tmp_path / "f" / view["file_name"][0])), classes, resolution)[0]
    p = loaded(item["pixels"][None].float() / 255).softmax(1)[0, item["label"]]
    assert float(view["quality_score"][0]) == pytest.approx(float(p), abs=1e-5)


def test_what_it_cost_is_told_before_and_after(tested_dir, synthetic_dir, tmp_path):
    found = filter_images(config(tested_dir, synthetic_dir, tmp_path / "f", keep=0.4))
    cost = found.cost
    assert cost["kept"]["n"] == cost["random"]["n"] < cost["all"]["n"]
    assert cost["kept"]["recall"] <= cost["all"]["recall"]
    for shares in found.shares.values():
        assert sum(s.before for s in shares.values()) == pytest.approx(1)
        assert sum(s.after for s in shares.values()) == pytest.approx(1)
    assert read(Filtered, tmp_path / "f") == found


def test_what_it_cost_is_of_classes_that_both_sides_have_and_in_the_kept_images_shares():
    """Images of one place each; class b is nearly left out by a threshold, c has no held-out images."""

    def part(**counts):
        labels = [dx for dx, n in counts.items() for _ in range(n)]
        places = np.array([[{"a": 0.0, "b": 1.0, "c": 10.0}[dx], 1.0] for dx in labels])
        near = places + np.random.default_rng(0).normal(size=places.shape) / 20
        return FeatureSet(pd.DataFrame({"dx": labels}), near.astype(np.float32), np.zeros((len(labels), 0)))

    synthetic = part(a=60, b=60, c=30)
    kept = np.array([True] * 60 + [i < 6 for i in range(60)] + [True] * 30)
    cost = _cost(synthetic, kept, part(a=80, b=80), "cpu")
    assert (cost["kept"]["n"], cost["random"]["n"]) == (96, 96)
    for column in ("all", "kept", "random"):
        assert cost[column]["precision"] > 0.9  # images of c would be far from every held-out one
        assert abs(cost[column]["kid"]) < 0.1  # another mix of a and b than the reference's would be a distance


@pytest.mark.slow
def test_a_scorer_that_is_no_better_than_chance_is_told(tested_dir, synthetic_dir, tmp_path, monkeypatch):
    same = {"n": 5, "vendi": 2.0, "kid": 0.1, "recall": 0.5, "coverage": 0.5, "precision": 0.5}
    for kid, told in ((0.2, True), (0.05, False)):
        cost = {"all": same, "kept": same | {"kid": kid}, "random": same}
        monkeypatch.setattr(filtering, "_cost", lambda *_, cost=cost: cost)
        found = filter_images(config(tested_dir, synthetic_dir, tmp_path / str(kid)))
        assert any("no nearer to held-out ones than as many chosen at random" in w for w in found.warnings) == told


def test_near_images_score_higher_than_far_ones(tested_dir, tmp_path):
    train = manifest.read(tested_dir)
    train = train[(train["split"] == "train") & (train["dx"] == "nv")]
    rows = train.head(4).assign(synthetic="true", split="")
    other = manifest.read(tested_dir)
    other = other[other["dx"] == "akiec"].head(4).assign(synthetic="true", split="", dx="nv")
    manifest.write_view(pd.concat([rows, other]), tested_dir, tmp_path / "syn")
    filter_images(config(tested_dir, tmp_path / "syn", tmp_path / "f", keep=0.5))
    quality = manifest.read(tmp_path / "f")["quality_score"].astype(float)
    assert quality[:4].mean() > quality[4:].mean()


def test_a_scorer_that_was_trained_on_held_out_images_is_refused(tested_dir, synthetic_dir, run_dir, tmp_path):
    table = manifest.read(tested_dir)
    swapped = table.assign(split=table["split"].map({"train": "test", "test": "train", "val": "val"}))
    manifest.write_view(swapped, tested_dir, tmp_path / "swapped")
    with pytest.raises(InputError, match="was trained on .* held-out images"):
        filter_images(
            config(tmp_path / "swapped", synthetic_dir, tmp_path / "f", scorer="classifier", run=str(run_dir))
        )
    assert not (tmp_path / "f").exists()


@pytest.mark.slow
def test_the_network_that_filtered_is_named_when_it_scores_the_set(tested_dir, synthetic_dir, run_dir, tmp_path):
    filter_images(config(tested_dir, synthetic_dir, tmp_path / "f", scorer="classifier", run=str(run_dir), keep=1.0))
    found = evaluate(
        EvaluateConfig(
            real=str(tested_dir),
            synthetic=str(tmp_path / "f"),
            output_dir=str(tmp_path / "e"),
            extractor=str(run_dir),
            lpips="none",
        )
    )
    assert any("filtered by this same network" in w for w in found.warnings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep": 0.0}, "keep must be above 0"),
        ({"scorer": "classifier"}, "needs --run"),
        ({"scorer": "discriminator"}, "scorer discriminator needs --run"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, message, tested_dir, synthetic_dir, tmp_path):
    with pytest.raises(InputError, match=message):
        config(tested_dir, synthetic_dir, tmp_path, **changes)


def test_a_threshold_that_nothing_reaches_is_an_error(tested_dir, synthetic_dir, tmp_path):
    with pytest.raises(InputError, match="nothing scores 1.0 or more; the best score is -"):
        filter_images(config(tested_dir, synthetic_dir, tmp_path / "f", threshold=1.0))
