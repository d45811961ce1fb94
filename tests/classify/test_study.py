"""A study's scores are those of its predictions, its tests are fair, and its arms are trained once."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import SMALL_CLASSIFIER
from PIL import Image
from sklearn import metrics as sk

from dermgen import watermark
from dermgen.blocks import for_terminal
from dermgen.classify import classifier, study
from dermgen.classify.comparison import compare, weighted_scores
from dermgen.classify.study import StudyConfig, arm_settings
from dermgen.config import InputError
from dermgen.data import manifest
from dermgen.data.prepared import BY_GROUPS, NO_GROUPS
from dermgen.results.common import Estimate, read
from dermgen.results.study import Arm, Study


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(yaml.safe_dump(SMALL_CLASSIFIER))
    return path


@pytest.fixture(scope="module")
def settings(recipe, manifest_dir, synthetic_dir, tmp_path_factory):
    return StudyConfig(
        real=str(manifest_dir), synthetic=str(synthetic_dir), output_dir=str(tmp_path_factory.mktemp("study") / "s"),
        classifier=str(recipe), max_train_steps=4, num_validations=2, bootstrap_draws=200,
        arms=["real+augment", "real", "real+augment+synthetic:0.5", "synthetic+augment"],
    )  # fmt: skip


@pytest.fixture(scope="module")
def result(settings):
    return study.study(settings)


def test_scores_are_means_over_seeds_of_what_each_training_measured(result, settings):
    for arm in result.arms:
        bma = arm.scores["bma"]
        assert bma.value == pytest.approx(np.mean(arm.of_seeds["bma"]), abs=1e-6)
        assert bma.low <= bma.value <= bma.high
    by_arm = {arm.arm: arm for arm in result.arms}
    gain = by_arm["real"].scores["bma"].value - by_arm["real+augment"].scores["bma"].value
    assert by_arm["real"].differences["bma"].value == pytest.approx(gain)
    assert by_arm["real+augment"].differences is None
    written = json.loads(Path(settings.output_dir, "study.json").read_text())["arms"]
    assert ["differences" in arm for arm in written] == [False, True, True, True]
    assert read(Study, settings.output_dir) == result


def test_every_arm_has_the_same_number_of_steps_and_a_verdict(result, settings):
    for arm in result.arms[1:]:
        assert arm.verdict.startswith(f"{arm.arm}: BMA ")
        assert arm.mcnemar_p_holm >= arm.mcnemar_p
    for results in (p for p in Path(settings.output_dir).rglob("results.json")):
        assert json.loads(results.read_text())["last_step"] == 4


@pytest.mark.slow
def test_an_arm_is_trained_only_once_and_others_can_be_added(result, settings, monkeypatch):
    trained = []
    real_build = classifier.build
    monkeypatch.setattr(classifier, "build", lambda c, classes: trained.append(c.output_dir) or real_build(c, classes))
    again = study.study(replace(settings, arms=[*settings.arms, "real+oversample"]))
    assert len(trained) == 3
    assert all("real+oversample" in name for name in trained)
    old = {arm.arm: arm.scores for arm in result.arms}
    assert all(arm.scores == old[arm.arm] for arm in again.arms if arm.arm in old)


def test_no_plot_is_missing_or_blank(result, settings):
    plots = {path.stem: path for path in (Path(settings.output_dir) / "plots").glob("*.png")}
    assert {"arms", "confusion", "dose_response", "training_curves", "recall_changes_real"} <= set(plots)
    for name, path in plots.items():
        with Image.open(path) as image:
            assert len(set(image.convert("L").resize((100, 100)).tobytes())) > 10, name  # not blank


def test_images_with_the_watermark_are_noted_if_their_share_reveals_the_class(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.normal(128, 20, size=(4, 12, 12, 3)).repeat(8, axis=1).repeat(8, axis=2).clip(0, 255).astype(np.uint8)
    sets = {}
    for name, change in (("plain", lambda image: image), ("marked", watermark.embed)):
        paths = [tmp_path / f"{name}_{i}.png" for i in range(len(noise))]
        for path, image in zip(paths, noise, strict=True):
            Image.fromarray(change(image)).save(path)
        sets[name] = pd.DataFrame({"path": list(map(str, paths))})
    even = pd.DataFrame({"dx": ["nv", "nv", "mel", "mel"], "synthetic": ["true", "false"] * 2})
    uneven = even.assign(synthetic=["false", "false", "true", "false"])
    (note,) = study.watermark_notes({"even": even, "uneven": uneven}, sets["marked"])
    assert "watermark, and in uneven some classes" in note
    assert study.watermark_notes({"even": even}, sets["marked"]) == []
    assert study.watermark_notes({"uneven": uneven}, sets["plain"]) == []


@pytest.mark.parametrize("weighted", [False, True])
def test_weighted_scores_agree_with_scikit_learn_on_the_repeated_test_set(weighted):
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=60)
    probabilities = rng.dirichlet(np.ones(3), size=60).round(1) + 0.5 * np.eye(3)[labels]  # rounded: ties
    weights = rng.integers(0, 3, size=60) if weighted else np.ones(60, int)
    result = weighted_scores(probabilities, labels, weights[None].astype(float), "abc")
    rows = np.repeat(np.arange(60), weights)
    y, p = labels[rows], probabilities[rows]
    assert result["accuracy"][0] == pytest.approx(sk.accuracy_score(y, p.argmax(1)))
    assert result["bma"][0] == pytest.approx(sk.balanced_accuracy_score(y, p.argmax(1)))
    assert result["macro_f1"][0] == pytest.approx(sk.f1_score(y, p.argmax(1), average="macro"))
    auroc = np.mean([sk.roc_auc_score(y == i, p[:, i]) for i in range(3)])
    assert result["macro_auroc"][0] == pytest.approx(auroc)


def compared(gain, n=300, spread=0):
    """Two arms; the second turns this many wrong answers of the first into right ones, `spread` more or fewer by seed."""
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=n)
    wrong = rng.permutation(n)[: n // 3]
    probabilities = {}
    for arm, right in (("baseline", [0, 0, 0]), ("other", [gain - spread, gain, gain + spread])):
        chosen = [np.where(np.isin(np.arange(n), wrong[k:]), 1 - labels, labels) for k in right]
        probabilities[arm] = [np.eye(2)[c] for c in chosen]
    return compare(probabilities, labels, np.arange(n), ["mel", "nv"], "baseline", "mel", 500)["other"]


def test_a_large_gain_is_called_real_and_none_is_not():
    large = compared(60)
    assert large["differences"]["bma"]["value"] == pytest.approx(0.2, abs=0.02)
    assert large["differences"]["bma"]["p_holm"] < 0.01
    assert large["mcnemar_p"] == pytest.approx(2 * 0.5**60)  # 60 lesions changed, all for the better
    assert "the gain is real" in large["verdict"]
    none = compared(0)
    assert none["differences"]["bma"] == {"value": 0, "low": 0, "high": 0, "p": 1, "p_holm": 1}
    assert "no difference can be shown" in none["verdict"]


def test_a_gain_on_which_the_seeds_disagree_is_not_called_real():
    unsteady = compared(30, spread=28)
    assert unsteady["differences"]["bma"]["value"] == pytest.approx(0.1, abs=0.02)
    assert unsteady["differences"]["bma"]["p_holm"] > 0.05
    assert "no difference can be shown" in unsteady["verdict"]


def one_melanoma(lesions=1, nevi=40):
    """The other arm calls all melanomas right, with every seed; the baseline none."""
    labels = np.array([0] * nevi + [1] * lesions)
    wrong = np.eye(2)[np.zeros(len(labels), int)]
    return compare(
        {"baseline": [wrong] * 3, "other": [np.eye(2)[labels]] * 3}, labels, np.arange(len(labels)), ["nv", "mel"],
        "baseline", "mel", 200,
    )  # fmt: skip


def test_one_test_lesion_makes_no_gain_real_and_no_recall_certain():
    entries = one_melanoma()
    assert "real" not in entries["other"]["verdict"]
    assert "Recall of mel +1.000: too few test lesions to tell (1)." in entries["other"]["verdict"]
    assert entries["other"]["differences"]["bma"]["p"] > 0.05
    for arm in entries.values():
        assert arm["scores"]["recall_mel"]["high"] - arm["scores"]["recall_mel"]["low"] > 0.5
        assert arm["scores"]["bma"]["high"] - arm["scores"]["bma"]["low"] > 0.2
    assert "is real" in one_melanoma(lesions=12)["other"]["verdict"]


def test_a_tiny_p_value_is_not_written_as_zero():
    assert "(p < 0.001)" in one_melanoma(lesions=40)["other"]["verdict"]


def test_intervals_resample_lesions_and_not_images():
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=300)
    wrong = rng.permutation(300)[:100]
    answers = {
        arm: np.where(np.isin(np.arange(300), wrong[k:]), 1 - labels, labels)
        for arm, k in (("baseline", 0), ("other", 12))
    }

    def with_views(n):
        probabilities = {arm: [np.eye(2)[np.repeat(a, n)]] * 3 for arm, a in answers.items()}
        of_image = (np.repeat(labels, n), np.repeat(np.arange(300), n))
        return compare(probabilities, *of_image, ["mel", "nv"], "baseline", "mel", 500)["other"]

    once, fourfold = with_views(1), with_views(4)
    for name in ("bma", "accuracy", "recall_mel"):
        for part in ("scores", "differences"):
            widths = [e[part][name]["high"] - e[part][name]["low"] for e in (once, fourfold)]
            assert widths[0] == pytest.approx(widths[1], rel=0.01), (part, name)
    assert fourfold["mcnemar_p"] == once["mcnemar_p"]


def test_a_study_on_the_old_split_says_so_first():
    score = Estimate(value=0.5, low=0.4, high=0.6)
    names = ("recall_mel", "bma", "macro_auroc", "macro_f1", "accuracy")
    arm = Arm(arm="real", training_images={}, scores=dict.fromkeys(names, score), of_seeds={}, confusion=[])
    old = Study(
        baseline="real", focus_class="mel", seeds=[0], same="steps", steps=5, test_images=9, test_lesions=8,
        leaky=False, classes=["mel", "nv"], bootstrap_draws=9, arms=[arm],
    )  # fmt: skip

    def text(result):
        return for_terminal(result.comparison_blocks())

    assert text(old).startswith("warning: OLD SPLIT")  # of an earlier version, which did not name its method
    assert text(replace(old, split_method=BY_GROUPS)).startswith("No mixture of real and synthetic images")
    assert text(replace(old, split_method=NO_GROUPS)).startswith("warning: NO GROUPS")


def test_an_arm_is_what_its_name_says_or_an_error():
    assert arm_settings("real+augment+filtered:1") == {
        "no_real": False, "no_augmentation": False, "oversample": False, "synthetic": True, "synthetic_ratio": 1.0, "only_kept": True,
    }  # fmt: skip
    with pytest.raises(InputError, match="unknown part 'sythetic'"):
        arm_settings("real+sythetic")
    with pytest.raises(InputError, match="nothing to train on"):
        arm_settings("augment")
    with pytest.raises(InputError, match="names a part twice"):
        arm_settings("real+synthetic:1+filtered:0.5")


def test_an_arm_that_needs_more_images_than_exist_stops_the_study_before_any_training(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, "train", lambda *_: pytest.fail("trained"))
    greedy = replace(settings, arms=["real+augment", "real+synthetic:90"], output_dir=str(tmp_path / "s"))
    with pytest.raises(InputError, match=r"arm real\+synthetic:90: akiec needs \d+ synthetic images"):
        study.study(greedy)
    assert not (tmp_path / "s").exists()


def test_fewer_than_three_seeds_are_refused(settings):
    with pytest.raises(InputError, match="at least 3"):
        replace(settings, seeds=[0, 1])


def test_a_recipes_early_stopping_does_not_shorten_an_arm(settings, recipe, tmp_path):
    early = tmp_path / "early.yaml"
    early.write_text(recipe.read_text() + "early_stopping_patience: 1\n")
    assert study._run_config(replace(settings, classifier=str(early)), "real", 0).early_stopping_patience is None


def test_a_class_without_test_images_stops_the_study_before_any_training(settings, manifest_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, "train", lambda *_: pytest.fail("trained"))
    table = manifest.read(manifest_dir)
    table.loc[(table["dx"] == "df") & (table["split"] == "test"), "split"] = "val"
    manifest.write_view(table, manifest_dir, tmp_path / "m")
    with pytest.raises(InputError, match="no test images of df"):
        study.study(replace(settings, real=str(tmp_path / "m"), output_dir=str(tmp_path / "s")))
