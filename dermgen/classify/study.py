"""`dermgen study`: classifiers trained with and without synthetic images, on the same test set, compared with care."""

import dataclasses
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from accelerate import PartialState

from dermgen import plots, statistics
from dermgen.classify import classifier
from dermgen.classify.classifier import ClassifierConfig
from dermgen.classify.mixture import read_real
from dermgen.config import InputError, claim_folder, option, parse, require_at_least, require_given

DEFAULT_ARMS = (
    "real real+augment real+augment+oversample real+augment+synthetic:0.5 real+augment+synthetic:1 "
    "real+augment+synthetic synthetic+augment"
).split()


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Train the same classifier on several mixtures (arms) and seeds, and say which gains are real.

    An arm is a sum of `real`, `synthetic` (all there are), `synthetic:R` (R per real image of a class; 1 is 50/50),
    `filtered` and `filtered:R` (likewise, of those that `dermgen filter` kept), `augment` (flips, turns, crops,
    colours) and `oversample` (rare classes repeated).
    """

    real: str = option(None, "manifest folder of real images")
    synthetic: str = option(None, "manifest folder of synthetic images")
    output_dir: str = option(None, "study folder; arms that are finished there are not repeated")
    classifier: str = option(None, "recipe of the classifier, as train_scripts/configs/classifier_vit.yaml")
    arms: list[str] | None = option(None, f"what to compare; default {' '.join(DEFAULT_ARMS)}")
    baseline: str = option("real+augment", "the arm that the others are compared with")
    seeds: list[int] | None = option(None, "of the trainings, at least 3; default 0 1 2")
    synthetic_classes: list[str] | None = option(
        None, "classes that get synthetic images beside real ones; default all they show"
    )
    same: Literal["steps", "epochs"] = option("steps", "what all arms have in common; epochs favours larger sets")
    max_train_steps: int = option(1000, "optimizer steps of each training, for --same steps")
    num_train_epochs: int = option(10, "passes over its training set, for --same epochs")
    num_validations: int = option(10, "during a training; the best of them is measured on the test split")
    focus_class: str = option("mel", "the class whose recall is told first")
    bootstrap_draws: int = option(2000, "resampled test sets behind each interval")

    def __post_init__(self):
        require_given(self, "real", "synthetic", "output_dir", "classifier")
        if self.seeds is not None and len(set(self.seeds)) < 3:
            raise InputError(f"seeds must be at least 3 different ones, got {self.seeds}: one says nothing of chance")
        if self.baseline not in (self.arms or DEFAULT_ARMS):
            raise InputError(
                f"the baseline {self.baseline!r} is not among the arms {' '.join(self.arms or DEFAULT_ARMS)}"
            )
        for arm in self.arms or DEFAULT_ARMS:
            arm_settings(arm)
        require_at_least(1, max_train_steps=self.max_train_steps, num_train_epochs=self.num_train_epochs)
        require_at_least(1, num_validations=self.num_validations)
        require_at_least(100, bootstrap_draws=self.bootstrap_draws)


def study(config: StudyConfig) -> dict:
    """Train every arm with every seed, compare, and write `study.json` and its plots.

    Raises:
        InputError: before any training, for an arm that needs more synthetic images than exist, a leaking split, …
    """
    real = read_real(config.real)
    arms, seeds = config.arms or DEFAULT_ARMS, config.seeds or [0, 1, 2]
    if config.focus_class not in set(real["dx"]):
        raise InputError(f"focus_class {config.focus_class!r} is not among {', '.join(sorted(set(real['dx'])))}")
    folder = Path(config.output_dir)
    runs = {(arm, seed): _run_config(config, arm, seed) for arm in arms for seed in seeds}
    for (arm, _), run in runs.items():
        try:
            classifier.arm_rows(run, real)
        except InputError as error:
            raise InputError(f"arm {arm}: {error}") from error
    state = PartialState()
    with state.main_process_first():
        claim_folder(folder, config, ("output_dir", "arms", "seeds", "bootstrap_draws", "baseline", "focus_class"))
    results = {}
    for i, ((arm, seed), run) in enumerate(runs.items()):
        if state.is_main_process:
            print(f"[{i + 1} of {len(runs)}] {arm}, seed {seed}", flush=True)
        results[arm, seed] = classifier.train(run)
    found = compare(config, arms, seeds, {key: Path(run.output_dir) for key, run in runs.items()}, results)
    if state.is_main_process:
        (folder / "study.json").write_text(json.dumps(found, indent=2) + "\n")
        _draw(found, {key: Path(run.output_dir) for key, run in runs.items()}, folder / "plots")
        print(as_text(found))
    return found


def arm_settings(arm: str) -> dict[str, Any]:
    """The classifier's settings that make an arm, from its name.

    >>> arm_settings("real+augment+synthetic:0.5")["synthetic_ratio"]
    0.5

    Raises:
        InputError: if a part of the name is unknown, or there is nothing to train on.
    """
    parts = arm.split("+")
    settings: dict[str, Any] = {
        "no_real": "real" not in parts,
        "no_augmentation": "augment" not in parts,
        "oversample": "oversample" in parts,
        "synthetic": False,
        "synthetic_ratio": None,
        "only_kept": False,
    }
    for part in parts:
        match = re.fullmatch(r"(synthetic|filtered)(?::(\d+\.?\d*))?", part)
        if match:
            settings["synthetic"] = True
            settings["only_kept"] = match[1] == "filtered"
            settings["synthetic_ratio"] = float(match[2]) if match[2] else None
        elif part not in ("real", "augment", "oversample"):
            raise InputError(
                f"unknown part {part!r} of the arm {arm!r}: an arm is a sum of real, synthetic, synthetic:R, filtered, "
                "filtered:R, augment, oversample"
            )
    if settings["no_real"] and not settings["synthetic"]:
        raise InputError(f"the arm {arm!r} has nothing to train on: add real or synthetic")
    return settings


def compare(
    config: StudyConfig,
    arms: Sequence[str],
    seeds: Sequence[int],
    folders: dict[tuple[str, int], Path],
    results: dict[tuple[str, int], dict],
) -> dict:
    """What the predictions on the test split say: means, intervals, paired tests against the baseline.

    Intervals and differences come from one bootstrap: test lesions and seeds are drawn with replacement, the same ones
    for every arm. McNemar's test takes one vote per lesion, of probabilities averaged over its images and the seeds.
    """
    first = results[arms[0], seeds[0]]
    classes = first["classes"]
    tables = {
        key: pd.read_csv(folder / "predictions_test.csv", keep_default_na=False) for key, folder in folders.items()
    }
    test = tables[arms[0], seeds[0]]
    labels = np.array([classes.index(dx) for dx in test["dx"]])
    lesions = test["lesion_id"].where(test["lesion_id"] != "", test["image_id"]).to_numpy(str)
    probabilities = {key: table[[f"p_{c}" for c in classes]].to_numpy() for key, table in tables.items()}
    weights = np.vstack([np.ones(len(test)), statistics.resampled_weights(lesions, config.bootstrap_draws, 0)])
    drawn_seeds = np.random.default_rng(1).multinomial(
        len(seeds), np.full(len(seeds), 1 / len(seeds)), size=config.bootstrap_draws
    )
    drawn_seeds = np.vstack([np.ones(len(seeds)), drawn_seeds])  # row 0 is what was observed

    found: dict[str, dict[str, np.ndarray]] = {}
    for arm in arms:
        of_seed = [weighted_scores(probabilities[arm, seed], labels, weights, classes) for seed in seeds]
        found[arm] = {
            name: statistics.mean_over_seeds(np.stack([scores[name] for scores in of_seed], 1), drawn_seeds)
            for name in of_seed[0]
        }
    votes = {arm: _lesion_votes([probabilities[arm, s] for s in seeds], labels, lesions) for arm in arms}
    others = [arm for arm in arms if arm != config.baseline]
    focus = f"recall_{config.focus_class}"
    entries = []
    for arm in arms:
        entry: dict[str, Any] = {
            "arm": arm,
            "training_images": results[arm, seeds[0]]["training_images"],
            "scores": {name: _summary(values) for name, values in found[arm].items()},
            "of_seeds": {
                "bma": [results[arm, s]["test"]["bma"] for s in seeds],
                focus: [results[arm, s]["test"]["per_class"][config.focus_class]["recall"] for s in seeds],
            },
            "confusion": np.sum([results[arm, s]["test"]["confusion"] for s in seeds], axis=0).tolist(),
        }
        if arm != config.baseline:
            differences = {name: found[arm][name] - found[config.baseline][name] for name in found[arm]}
            entry["differences"] = {
                name: _summary(values) | {"p": statistics.two_sided_p(values[1:])}
                for name, values in differences.items()
            }
            entry["mcnemar_p"] = statistics.mcnemar(votes[arm], votes[config.baseline])
        entries.append(entry)
    compared = [e for e in entries if e["arm"] != config.baseline]
    for name in ("bma", focus):
        corrected = statistics.holm([e["differences"][name]["p"] for e in compared])
        for entry, p in zip(compared, corrected, strict=True):
            entry["differences"][name]["p_holm"] = p
    for entry, p in zip(compared, statistics.holm([e["mcnemar_p"] for e in compared]), strict=True):
        entry["mcnemar_p_holm"] = p
    for entry in compared:
        entry["verdict"] = verdict(entry, config.baseline, focus, len(others))
    return {
        "baseline": config.baseline,
        "focus_class": config.focus_class,
        "seeds": list(seeds),
        "same": config.same,
        "steps": first["max_train_steps"] if config.same == "steps" else None,
        "test_images": len(test),
        "test_lesions": len(set(lesions)),
        "leaky": first["leaky"],
        "classes": classes,
        "bootstrap_draws": config.bootstrap_draws,
        "arms": entries,
    }


def weighted_scores(
    probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray, classes: Sequence[str]
) -> dict[str, np.ndarray]:
    """Scores of one set of predictions in many reweighted test sets at once.

    Args:
        probabilities: (N, C).
        labels: (N,) class indices.
        weights: (B, N) how often each image counts.
        classes: C codes.

    Returns:
        (B,) values by name: bma, accuracy, macro_f1, macro_auroc, recall_<code>. Classes without images do not count
        in means; recall of such a class is NaN.
    """
    c = len(classes)
    predicted = probabilities.argmax(1)
    cells = np.zeros((len(labels), c * c))
    cells[np.arange(len(labels)), labels * c + predicted] = 1
    confusion = (weights @ cells).reshape(-1, c, c)
    true, called, right = confusion.sum(2), confusion.sum(1), np.einsum("bcc->bc", confusion)
    with np.errstate(invalid="ignore"):
        recall = right / np.where(true > 0, true, np.nan)
        f1 = 2 * right / np.where(true > 0, true + called, np.nan)
    auroc = np.stack([_auroc(probabilities[:, i], labels == i, weights) for i in range(c)], axis=1)
    return {
        "bma": np.nanmean(recall, axis=1),
        "accuracy": right.sum(1) / weights.sum(1),
        "macro_f1": np.nanmean(f1, axis=1),
        "macro_auroc": np.nanmean(auroc, axis=1),
        **{f"recall_{code}": recall[:, i] for i, code in enumerate(classes)},
    }


def _auroc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted area under the ROC curve in (B,) reweightings: P(positive above negative), ties count half."""
    levels = np.unique(scores, return_inverse=True)[1]
    order = np.argsort(levels, kind="stable")
    starts = np.flatnonzero(np.diff(levels[order], prepend=-1))
    pos = np.add.reduceat(np.where(positive, weights, 0)[:, order], starts, axis=1)
    neg = np.add.reduceat(np.where(positive, 0, weights)[:, order], starts, axis=1)
    below = np.cumsum(neg, axis=1) - neg / 2
    total = pos.sum(1) * neg.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, (pos * below).sum(1) / total, np.nan)


def verdict(entry: dict, baseline: str, focus: str, arms: int) -> str:
    """One plain sentence: is the difference to the baseline real?"""
    d = entry["differences"]["bma"]
    p = d["p_holm"]
    text = (
        f"{entry['arm']}: BMA {entry['scores']['bma']['value']:.3f}, {d['value']:+.3f} ({d['low']:+.3f} to "
        f"{d['high']:+.3f}) against {baseline}"
    )
    if p < 0.05:
        text += f"; the {'gain' if d['value'] > 0 else 'loss'} is real (p = {p:.3f}, corrected for {arms} arms)"
    else:
        text += f"; no difference can be shown (p = {p:.2f}, corrected for {arms} arms)"
    f = entry["differences"][focus]
    name = focus.removeprefix("recall_")
    shown = "real" if f["p_holm"] < 0.05 else "not shown"
    return f"{text}. Recall of {name} {f['value']:+.3f} ({f['low']:+.3f} to {f['high']:+.3f}), {shown}."


def as_text(found: dict) -> str:
    """The table and the verdicts for a terminal."""
    focus = f"recall_{found['focus_class']}"
    columns = [focus, "bma", "macro_auroc", "macro_f1", "accuracy"]
    width = max(len(e["arm"]) for e in found["arms"]) + 2
    lines = [
        ("LEAKY split, scores are not to be trusted. " if found["leaky"] else "")
        + f"Test split: {found['test_images']} images of {found['test_lesions']} lesions; "
        f"mean of {len(found['seeds'])} seeds, 95 % intervals over lesions and seeds",
        " " * width + "".join(f"{c:>24}" for c in columns),
    ]
    for e in found["arms"]:
        cells = [f"{s['value']:.3f} ({s['low']:.3f}-{s['high']:.3f})" for s in (e["scores"][c] for c in columns)]
        lines.append(f"{e['arm']:<{width}}" + "".join(f"{c:>24}" for c in cells))
    return "\n".join([*lines, "", *(e["verdict"] for e in found["arms"] if "verdict" in e)])


def _run_config(config: StudyConfig, arm: str, seed: int) -> ClassifierConfig:
    base = parse(ClassifierConfig, ["--config", config.classifier, "--data_dir", config.real])
    settings = arm_settings(arm)
    synthetic = settings.pop("synthetic")
    steps = config.max_train_steps
    length = (
        {"max_train_steps": steps, "validation_steps": max(1, steps // config.num_validations)}
        if config.same == "steps"
        else {"max_train_steps": None, "num_train_epochs": config.num_train_epochs, "validation_steps": None}
    )
    return dataclasses.replace(
        base,
        **settings,
        **length,
        synthetic_dir=config.synthetic if synthetic else None,
        synthetic_classes=config.synthetic_classes if synthetic and not settings["no_real"] else None,
        seed=seed,
        output_dir=str(Path(config.output_dir, "runs", arm.replace(":", "_"), f"seed-{seed}")),
    )


def _lesion_votes(probabilities: list[np.ndarray], labels: np.ndarray, lesions: np.ndarray) -> np.ndarray:
    """Whether each lesion is called right by probabilities averaged over seeds and the lesion's images."""
    mean = pd.DataFrame(np.mean(probabilities, axis=0)).groupby(lesions).mean()
    truth = pd.Series(labels).groupby(lesions).first()
    return mean.to_numpy().argmax(1) == truth.to_numpy()


def _summary(values: np.ndarray) -> dict[str, float]:
    """Observed value (the first) and interval (the others)."""
    low, high = statistics.percentile_interval(values[1:][~np.isnan(values[1:])])
    return {"value": float(values[0]), "low": low, "high": high}


def _draw(found: dict, folders: dict, folder: Path) -> None:
    focus, classes = f"recall_{found['focus_class']}", found["classes"]

    def dot(entry: dict, name: str, part: str = "scores", label: str | None = None) -> plots.Dot:
        return plots.Dot(label or entry["arm"], *(entry[part][name][k] for k in ("value", "low", "high")))

    arms = found["arms"]
    plots.dots(
        folder / "arms.png",
        "Test split, mean over seeds",
        "share",
        {f"recall of {found['focus_class']}": [dot(e, focus) for e in arms], "BMA": [dot(e, "bma") for e in arms]},
    )
    compared = [e for e in arms if "differences" in e]
    for entry in compared:
        changes = [dot(entry, f"recall_{c}", "differences", c) for c in classes]
        path = folder / f"recall_changes_{entry['arm'].replace(':', '_')}.png"
        plots.dots(path, f"{entry['arm']} against {found['baseline']}", "change of recall", {"": changes}, zero=0)
    plots.confusions(folder / "confusion.png", classes, {e["arm"]: e["confusion"] for e in arms})
    dosed = [e for e in arms if e["arm"].split("+synthetic")[0] == found["baseline"]]
    if len(dosed) > 1:
        doses = [_synthetic_per_real(e["training_images"]) for e in dosed]
        plots.dose_response(
            folder / "dose_response.png",
            "More synthetic images",
            "synthetic images per real one in training",
            "BMA",
            doses,
            [dot(e, "bma", label=e["arm"].removeprefix(found["baseline"]).lstrip("+") or "none") for e in dosed],
        )
    lines = {}
    for (arm, seed), path in folders.items():
        if seed == found["seeds"][0]:
            logged = classifier.validations(path / "metrics.jsonl")
            lines[arm] = [(v["step"], v["val_bma"]) for v in logged]
    plots.curves(folder / "training_curves.png", f"Validation, seed {found['seeds'][0]}", "BMA", lines)


def _synthetic_per_real(counts: dict) -> float:
    real = sum(counts["real"].values())
    return sum(counts["synthetic"].values()) / real if real else float("inf")
