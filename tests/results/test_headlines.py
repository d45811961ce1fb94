"""Each result says itself in a sentence what a reader wants to know first, and with which figures."""

from dataclasses import replace
from pathlib import Path

import pytest

from dermgen.data import preparation_report
from dermgen.data.prepared import BY_GROUPS, BY_IMAGE, NO_GROUPS, OLD_SPLIT, Prepared, Split, SplitAudit
from dermgen.data.set_facts import SetFacts, described
from dermgen.results.audit import Audit
from dermgen.results.common import Estimate, heading, read, shown
from dermgen.results.evaluation import Evaluation
from dermgen.results.filtered import NO_CLOSER, Filtered
from dermgen.results.study import Arm, Difference, Study
from dermgen.training.run_record import RunRecord

OLD = Path(__file__).parents[1] / "old_folders"
ENTRY = SetFacts(
    images=25, images_per_class={"vasc": 25}, lesions=9, licenses=["CC0 1.0"], sources=["dermgen phantoms"]
)


def test_scores_have_their_usual_names_units_and_directions():
    assert heading("kid") == "KID x 1000 ↓"
    assert heading("fid") == "FID ↓"
    assert heading("precision") == "Precision ↑"
    assert heading("vendi") == "Vendi score ≈"
    assert [shown("kid", v) for v in (0.0342, -0.00104, None)] == ["34.2", "-1.04", "–"]
    assert shown("recall", 0.25) == "0.25"


def test_scores_are_said_beside_those_of_real_images():
    result = read(Evaluation, OLD / "scores")
    assert result.headline() == (
        "16 synthetic images are further from held-out real ones than other real images are: KID x 1000 is 34.2 (95 % CI "
        "16.5 to 52) against -1.04 for real images (lower is better), Precision 0 against 0.625 and Recall 0.05 against "
        "0.725 (features: pixels)."
    )
    overall = result.overall
    close = replace(overall, scores=overall.scores | {"kid": replace(overall.scores["kid"], low=-0.002)})
    unproved = replace(result, groups=[close]).headline()
    assert unproved.startswith(
        "KID shows no difference between 16 synthetic images and held-out real ones: KID x 1000 is"
    )
    judged = replace(overall, scores=overall.scores | {"recognised": overall.scores["precision"]})
    text = replace(result, groups=[judged]).headline()
    assert "Recall 0.05 against 0.725 and Recognised 0 against 0.625 (features: pixels)." in text
    alone = {name: replace(score, floor=None) for name, score in overall.scores.items()}
    text = replace(result, groups=[replace(overall, scores=alone)]).headline()
    assert text.startswith("16 synthetic images compared with held-out real ones: KID x 1000 is 34.2 (")
    assert "against" not in text


def test_an_audit_says_its_verdict_and_the_share_behind_it():
    passed = read(Audit, OLD / "audit")
    assert passed.headline() == (
        "Passed: 0 of 16 synthetic images are copies of a training image (0.0%, 95 % CI 0.0% to 19.4%; at most 90.0% is "
        "accepted)."
    )
    one = replace(passed, copies=1, passed=False, verdict="failed")
    assert one.headline().startswith("Failed: 1 of 16 synthetic images copies a training image (")
    unclear = replace(one, copies=2, verdict="cannot tell").headline()
    assert unclear.startswith("Cannot tell: 2 of 16 synthetic images look copied from a training image (")
    assert unclear.endswith("which chance alone can explain with only 54 held-out images.")


def test_a_filter_says_what_it_gained_beside_a_random_subset():
    result = read(Filtered, OLD / "filtered")
    assert result.headline() == ("The filter kept 4 of 16 images: Vendi score from 6.24 to 2.64 (random subset: 2.67).")
    cost = {
        column: {"n": 4, "vendi": 2.0, "kid": kid, "precision": 0.5, "recall": 0.25}
        for column, kid in (("all", 0.03), ("kept", 0.02), ("random", 0.025))
    }
    closer = replace(result, cost=cost)
    assert "4 of 16 images: KID x 1000 from 30 to 20 (random subset: 25), Precision" in closer.headline()
    cost["random"]["kid"] = 0.02
    assert "4 of 16 images, no closer to held-out real ones than a random subset" in closer.headline()
    early = replace(closer, warnings=[NO_CLOSER])  # which had it among the warnings
    assert [block.text for block in early.blocks(OLD)[:2]] == [early.headline(), closer.blocks(OLD)[1].text]


def study(*arms: tuple[str, float, float], real: bool = True) -> Study:
    """A study of mixtures with these differences in BMA and p-values."""

    def arm(name, images, bma, differences=None):
        scores = {"bma": Estimate(value=bma, low=bma - 0.1, high=bma + 0.1)}
        return Arm(arm=name, training_images=images, scores=scores, of_seeds={}, confusion=[], differences=differences)

    own = {"mel": 5} if real else {}
    entries = [arm("real", {"real": {"mel": 5}, "synthetic": {}}, 0.8)]
    for name, value, p in arms:
        change = Difference(value=value, low=value - 0.02, high=value + 0.02, p=p, p_holm=p)
        entries.append(arm(name, {"real": own, "synthetic": {"mel": 5}}, 0.8 + value, {"bma": change}))
    return Study(
        baseline="real", focus_class="mel", seeds=[0], same="steps", steps=5, test_images=9, test_lesions=8, leaky=False,
        split_method=BY_GROUPS, classes=["mel", "nv"], bootstrap_draws=9, arms=entries,
    )  # fmt: skip


def test_a_study_says_whether_synthetic_images_help():
    assert study(("a", 0.05, 0.01)).headline() == (
        "Synthetic images help: the classifier's BMA is 0.850 with a and 0.800 with real (+0.050, 95 % CI +0.030 to +0.070, p = 0.010)."
    )
    several = study(("a", -0.2, 0.0001), ("b", 0.04, 0.02), ("c", 0.05, 0.9)).headline()
    assert several.startswith("Synthetic images help: the classifier's BMA is 0.840 with b and")
    assert several.endswith("p = 0.020; 1 gain and 1 loss shown in 3 mixtures).")
    worse = study(("a", -0.2, 0.0001), ("b", -0.3, 0.001), ("c", 0.05, 0.9)).headline()
    assert worse.startswith("Synthetic images harm: the classifier's BMA is 0.500 with b and")
    assert worse.endswith("2 losses shown in 3 mixtures).")
    unclear = study(("a", -0.01, 0.5), ("b", 0.03, 0.3)).headline()
    assert unclear.startswith("No benefit shown: the classifier's BMA is 0.830 with b and")
    assert unclear.endswith("p = 0.30; no difference shown in 2 mixtures).")
    alone = study(("synthetic", -0.3, 0.001), real=False).headline()
    assert alone == "No mixture of real and synthetic images was compared with real."


@pytest.mark.parametrize(
    ("method", "changes", "beginning"),
    [
        (
            BY_GROUPS,
            {"differences": [{"column": "sex", "p_holm": 0.5}]},
            "Protected: 70 images of 28 lesions or patients",
        ),
        (BY_GROUPS, {"differences": []}, "Protected: "),
        (BY_GROUPS, {"differences": [{"column": "sex", "p_holm": 0.001}]}, "Protected: "),
        (BY_GROUPS, {"groups_crossing_splits": 1}, "Not protected: 1 lesion or patient has images in several splits"),
        (BY_IMAGE, {}, "Not protected: 70 images of 28 lesions or patients were split by image"),
        (NO_GROUPS, {"groups_crossing_splits": None}, "Unknown: 70 images have no lesion or patient ids"),
        (OLD_SPLIT, {}, "Protected: "),
    ],
)
def test_a_manifest_says_whether_its_splits_are_protected(method, changes, beginning):
    facts = {"images": 70, "groups": 28, "near_duplicate_pairs": 0, "groups_crossing_splits": 0, "images_per_split": {}}
    prepared = Prepared(audit=SplitAudit(**facts | changes))
    text = preparation_report.headline(prepared, Split(method == BY_IMAGE, method))
    assert text.startswith(beginning)
    if "differences" in changes:
        p = [d["p_holm"] for d in changes["differences"]]
        wanted = "by no more than chance" if p == [0.5] else "chance explains in sex." if p else "was not tested."
        assert wanted in text
    assert ("not comparable with those on data prepared now" in text) == (method == OLD_SPLIT)


def test_a_run_says_what_was_trained_on_what():
    assert RunRecord.read(OLD / "vae").headline() == (
        "A VAE with 5,707 parameters at 16 px was trained from scratch for 2 steps on 16 images of mel and nv from dermgen "
        "phantoms."
    )
    lora = RunRecord.read(OLD / "lora")
    unfinished = replace(lora, finished_step=None).headline()
    assert unfinished.startswith("base was fine-tuned with DreamBooth-LoRA (rank 1), not recorded as finished, on 8")
    text = replace(lora, class_images=1, finished_step=1200).headline()
    assert text.startswith("base was fine-tuned with DreamBooth-LoRA (rank 1) for 1,200 steps on 8 images of mel from")
    assert text.endswith(
        "phantoms and 1 class image; its base model was trained on images of mel and nv from dermgen phantoms."
    )


def test_images_of_several_sets_are_described_in_a_phrase():
    mel = replace(ENTRY, images_per_class={"mel": 20, "unknown": 5}, sources=["our clinic", ""])
    assert described([ENTRY]) == "25 images of vasc from dermgen phantoms"
    assert described([ENTRY, mel]) == "50 images of vasc and mel from dermgen phantoms and our clinic"
    assert described([ENTRY, mel, replace(ENTRY, images_per_class={"nv": 25})]).startswith(
        "75 images of 3 classes from"
    )
    assert described([replace(ENTRY, synthetic=25)]) == "25 synthetic images of vasc from dermgen phantoms"
    assert described([replace(ENTRY, synthetic=5)]).startswith("25 images (5 of them synthetic) of vasc")
    assert described([SetFacts.of_plain_folder(1)]) == "1 image"
    assert described([replace(ENTRY, images=None)]) == "images of vasc from dermgen phantoms"
