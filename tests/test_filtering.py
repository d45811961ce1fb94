"""The filter keeps the best of each class, measures the cost, and refuses a scorer trained on held-out images."""

import numpy as np
import pandas as pd
import pytest
from conftest import SMALL_CLASSIFIER
from datasets import load_dataset

from dermgen import filtering
from dermgen.blocks import Table, for_terminal
from dermgen.classify import classifier
from dermgen.classify.classifier import ClassifierConfig
from dermgen.config import InputError
from dermgen.data import manifest
from dermgen.data.loading import LesionSet
from dermgen.evaluate.evaluate import EvaluateConfig, evaluate
from dermgen.evaluate.features import FeatureSet
from dermgen.filtering import FilterConfig, _cost, choose, filter_images
from dermgen.results.common import read
from dermgen.results.filtered import NO_CLOSER, Filtered


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


def test_a_view_with_scores_is_written_and_the_synthetic_set_is_unchanged(tested_dir, synthetic_dir, tmp_path):
    before = manifest.read(synthetic_dir)
    result = filter_images(config(tested_dir, synthetic_dir, tmp_path / "f", keep=0.5))
    view = manifest.read(tmp_path / "f")
    assert manifest.read(synthetic_dir).equals(before)
    assert all((synthetic_dir / name).exists() for name in before["file_name"])
    assert view["image_id"].tolist() == before["image_id"].tolist()
    assert (view["kept"] == "true").sum() == result.kept == sum(c.kept for c in result.per_class.values())
    kept = view[view["kept"] == "true"].groupby("dx")["quality_score"].apply(lambda s: s.astype(float).min())
    dropped = view[view["kept"] == "false"].groupby("dx")["quality_score"].apply(lambda s: s.astype(float).max())
    assert (kept >= dropped).all()
    assert len(load_dataset("imagefolder", data_dir=str(tmp_path / "f"), split="train")) >= len(view)
    assert (tmp_path / "f" / "plots" / "quality.png").exists()
    assert (tmp_path / "f" / "sheets" / "kept_and_dropped.png").exists()


def test_the_score_of_the_classifier_is_its_probability_of_the_requested_class(
    tested_dir, synthetic_dir, run_dir, tmp_path
):
    filter_images(config(tested_dir, synthetic_dir, tmp_path / "f", scorer="classifier", run=str(run_dir)))
    view = manifest.read(tmp_path / "f")
    loaded, classes, resolution = classifier.networks.load_run(run_dir)
    item = LesionSet(view.iloc[:1].assign(path=str(tmp_path / "f" / view["file_name"][0])), classes, resolution)[0]
    p = loaded(item["pixels"][None].float() / 255).softmax(1)[0, item["label"]]
    assert float(view["quality_score"][0]) == pytest.approx(float(p), abs=1e-5)


def test_the_cost_and_the_shares_of_subgroups_are_reported_before_and_after(tested_dir, synthetic_dir, tmp_path):
    result = filter_images(config(tested_dir, synthetic_dir, tmp_path / "f", keep=0.4))
    cost = result.cost
    assert cost["kept"]["n"] == cost["random"]["n"] < cost["all"]["n"]
    assert cost["kept"]["recall"] <= cost["all"]["recall"]
    for shares in result.shares.values():
        assert sum(s.before for s in shares.values()) == pytest.approx(1)
        assert sum(s.after for s in shares.values()) == pytest.approx(1)
    assert read(Filtered, tmp_path / "f") == result


def test_the_cost_uses_classes_of_both_sides_in_the_class_shares_of_each_column():
    """Each class lies at one point; a threshold drops nearly all of class b, and c has no held-out images."""

    def part(**counts):
        labels = [dx for dx, n in counts.items() for _ in range(n)]
        centres = np.array([[{"a": 0.0, "b": 1.0, "c": 10.0}[dx], 1.0] for dx in labels])
        near = centres + np.random.default_rng(0).normal(size=centres.shape) / 20
        return FeatureSet(pd.DataFrame({"dx": labels}), near.astype(np.float32), np.zeros((len(labels), 0)))

    synthetic = part(a=60, b=60, c=30)
    kept = np.array([True] * 60 + [i < 6 for i in range(60)] + [True] * 30)
    cost = _cost(synthetic, kept, part(a=80, b=80), "cpu")
    assert (cost["kept"]["n"], cost["random"]["n"]) == (96, 96)
    for column in ("all", "kept", "random"):
        assert cost[column]["precision"] > 0.9  # images of c would be far from every held-out one
        assert abs(cost[column]["kid"]) < 0.1  # another mix of a and b than the reference's would be a distance


def test_the_table_of_the_cost_names_the_better_direction_and_a_negative_kid_is_explained(tmp_path):
    scores = {"n": 9, "vendi": 2.0, "precision": 0.5, "recall": 0.5, "coverage": 0.5}
    for kid, explained in ((-0.01, True), (0.01, False)):
        result = Filtered(
            scorer="features", scorer_revision="1", extractor="pixels", extractor_revision="2",
            judged_by_its_scorer=False, keep=0.3, threshold=None, n=30, kept=9, per_class={}, shares={},
            cost={column: scores | {"kid": kid} for column in ("all", "kept", "random")},
        )  # fmt: skip
        text = for_terminal(result.blocks(tmp_path))
        (costs,) = (b for b in result.blocks(tmp_path) if isinstance(b, Table) and b.head[0] == "score")
        assert [row[0] for row in costs.rows] == [
            "KID x 1000 ↓",
            "Precision ↑",
            "Recall ↑",
            "Coverage ↑",
            "Vendi score ↑",
        ]
        assert "↓: lower is better; ↑: higher is better." in text
        assert ("may be slightly negative" in text) == explained


@pytest.mark.slow
def test_a_scorer_that_is_no_better_than_chance_is_reported(tested_dir, synthetic_dir, tmp_path, monkeypatch):
    same = {"n": 5, "vendi": 2.0, "kid": 0.1, "recall": 0.5, "coverage": 0.5, "precision": 0.5}
    for kid, warned in ((0.2, True), (0.05, False)):
        cost = {"all": same, "kept": same | {"kid": kid}, "random": same}
        monkeypatch.setattr(filtering, "_cost", lambda *_, cost=cost: cost)
        result = filter_images(config(tested_dir, synthetic_dir, tmp_path / str(kid)))
        assert (f"note: {NO_CLOSER}" in for_terminal(result.blocks(tmp_path))) == warned
        assert ("no closer to held-out real ones than a random subset" in result.headline()) == warned


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
def test_an_evaluation_with_the_network_that_filtered_the_set_warns(tested_dir, synthetic_dir, run_dir, tmp_path):
    filter_images(config(tested_dir, synthetic_dir, tmp_path / "f", scorer="classifier", run=str(run_dir), keep=1.0))
    result = evaluate(
        EvaluateConfig(
            real=str(tested_dir),
            synthetic=str(tmp_path / "f"),
            output_dir=str(tmp_path / "e"),
            extractor=str(run_dir),
            lpips="none",
        )
    )
    assert any("filtered by this same network" in w for w in result.warnings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep": 0.0}, "keep must be above 0"),
        ({"scorer": "classifier"}, "needs --run"),
        ({"scorer": "discriminator"}, "scorer discriminator needs --run"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_the_reason(changes, message, tested_dir, synthetic_dir, tmp_path):
    with pytest.raises(InputError, match=message):
        config(tested_dir, synthetic_dir, tmp_path, **changes)


def test_a_threshold_that_no_image_reaches_is_an_error(tested_dir, synthetic_dir, tmp_path):
    with pytest.raises(InputError, match="nothing scores 1.0 or more; the best score is -"):
        filter_images(config(tested_dir, synthetic_dir, tmp_path / "f", threshold=1.0))
