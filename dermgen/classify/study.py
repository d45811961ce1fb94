"""`dermgen study`: classifiers trained with and without synthetic images, on the same test set, compared with care."""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from accelerate import PartialState

from dermgen import plots
from dermgen.classify import classifier
from dermgen.classify.classifier import ClassifierConfig
from dermgen.classify.comparison import compare
from dermgen.config import InputError, option, parse, require_at_least, require_given, write_json
from dermgen.data import manifest, splits
from dermgen.training.run import claim_together

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
    num_validations: int = option(
        10, "during a training, for --same steps; the best of them is measured on the test split"
    )
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
        if self.arms and len(set(self.arms)) < len(self.arms):
            raise InputError(f"arms must differ, got {' '.join(self.arms)}")
        require_at_least(1, max_train_steps=self.max_train_steps, num_train_epochs=self.num_train_epochs)
        require_at_least(1, num_validations=self.num_validations)
        require_at_least(100, bootstrap_draws=self.bootstrap_draws)


def study(config: StudyConfig) -> dict:
    """Train every arm with every seed, compare, and write `study.json` and its plots.

    Raises:
        InputError: before any training, for an arm that needs more synthetic images than exist, a leaking split, …
    """
    real = manifest.read_real(config.real)
    arms, seeds = config.arms or DEFAULT_ARMS, config.seeds or [0, 1, 2]
    if config.focus_class not in set(real["dx"]):
        raise InputError(f"focus_class {config.focus_class!r} is not among {', '.join(sorted(set(real['dx'])))}")
    untested = sorted(set(real["dx"]) - set(real.loc[real["split"] == "test", "dx"]))
    if untested:
        raise InputError(f"{config.real} has no test images of {', '.join(untested)}, whose recall would be unknown")
    folder = Path(config.output_dir)
    runs = {(arm, seed): _run_config(config, arm, seed) for arm in arms for seed in seeds}
    for (arm, _), run in runs.items():
        try:
            classifier.arm_rows(run, real)
        except InputError as error:
            raise InputError(f"arm {arm}: {error}") from error
    state = PartialState()
    claim_together(state, folder, config, ("output_dir", "arms", "seeds", "bootstrap_draws", "baseline", "focus_class"))
    results = {}
    for i, ((arm, seed), run) in enumerate(runs.items()):
        if state.is_main_process:
            print(f"[{i + 1} of {len(runs)}] {arm}, seed {seed}", flush=True)
        results[arm, seed] = classifier.train(run)
    found = _summarize(config, arms, seeds, runs, results)
    if state.is_main_process:
        write_json(folder / "study.json", found)
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
    sources = [part for part in parts if part.startswith(("synthetic", "filtered"))]
    if len(sources) > 1 or len(set(parts)) < len(parts):
        raise InputError(f"the arm {arm!r} names a part twice: at most one synthetic or filtered, and each other once")
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


def _summarize(config: StudyConfig, arms: Sequence[str], seeds: Sequence[int], runs: dict, results: dict) -> dict:
    """What `study.json` holds."""
    first = results[arms[0], seeds[0]]
    classes = first["classes"]
    ids = {"dx": str, "image_id": str, "lesion_id": str, "patient_id": str}
    tables = {
        key: pd.read_csv(Path(run.output_dir, "predictions_test.csv"), keep_default_na=False, dtype=ids)
        for key, run in runs.items()
    }
    test = tables[arms[0], seeds[0]]
    groups = splits.join_groups(test["lesion_id"], test["patient_id"])
    probabilities = {arm: [tables[arm, s][[f"p_{c}" for c in classes]].to_numpy() for s in seeds] for arm in arms}
    labels = np.array([classes.index(dx) for dx in test["dx"]])
    entries = compare(
        probabilities, labels, groups, classes, config.baseline, config.focus_class, config.bootstrap_draws
    )
    return {
        "baseline": config.baseline,
        "focus_class": config.focus_class,
        "seeds": list(seeds),
        "same": config.same,
        "steps": first["max_train_steps"] if config.same == "steps" else None,
        "test_images": len(test),
        "test_lesions": int(groups.max()) + 1,
        "leaky": first["leaky"],
        "images": manifest.identity(manifest.read_synthetic(config.synthetic)) if config.synthetic else None,
        "classes": classes,
        "bootstrap_draws": config.bootstrap_draws,
        "arms": [
            {"arm": arm, "training_images": results[arm, seeds[0]]["training_images"], **entry}
            for arm, entry in entries.items()
        ],
    }


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
        {
            "max_train_steps": steps,
            "validation_steps": max(1, steps // config.num_validations),
            "early_stopping_patience": None,  # of a recipe; it would give the arms different numbers of steps
        }
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
