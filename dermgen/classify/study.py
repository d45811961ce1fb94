"""`dermgen study`: classifiers trained with and without synthetic images, on the same test set, compared with care."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from accelerate import PartialState

from dermgen import plots, watermark
from dermgen.classify import classifier
from dermgen.classify.classifier import ClassifierConfig
from dermgen.classify.comparison import compare
from dermgen.config import InputError, parse, write_json
from dermgen.data import comparable, manifest, preprocess, splits
from dermgen.settings.study import DEFAULT_ARMS, StudyConfig, arm_settings
from dermgen.training.processes import claim_together


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
    rows = {}
    for (arm, _), run in runs.items():
        try:
            rows[arm] = classifier.arm_rows(run, real)
        except InputError as error:
            raise InputError(f"arm {arm}: {error}") from error
    synthetic = manifest.read_synthetic(config.synthetic)
    notes = comparable.require(real, real[real["split"] != "train"], synthetic, config.synthetic)
    notes += watermark_notes(rows, synthetic)
    state = PartialState()
    claim_together(state, folder, config)
    results = {}
    for i, ((arm, seed), run) in enumerate(runs.items()):
        if state.is_main_process:
            print(f"[{i + 1} of {len(runs)}] {arm}, seed {seed}", flush=True)
        results[arm, seed] = classifier.train(run)
    found = _summarize(config, arms, seeds, runs, results)
    found["notes"] = notes
    if state.is_main_process:
        write_json(folder / "study.json", found)
        _draw(found, {key: Path(run.output_dir) for key, run in runs.items()}, folder / "plots")
        print(as_text(found))
    return found


def watermark_notes(rows: Mapping[str, pd.DataFrame], synthetic: pd.DataFrame) -> list[str]:
    """A note if the images carry the watermark and an arm gives a class a larger share of them than another.

    Args:
        rows: that each arm trains on.
        synthetic: the synthetic set, of which a random 15 images are looked at.
    """
    uneven = []
    for arm, of_arm in rows.items():
        shares = (of_arm["synthetic"] == "true").groupby(of_arm["dx"]).mean()
        if shares.max() - shares.min() > 0.1:
            uneven.append(arm)
    if not uneven:
        return []
    chosen = synthetic["path"].sample(min(len(synthetic), 15), random_state=0)
    marked = [watermark.detect(preprocess.read_image(Path(path))) > watermark.THRESHOLD for path in chosen]
    if np.mean(marked) < 0.5:
        return []
    return [
        f"the synthetic images carry dermgen's watermark, and in {', '.join(uneven)} some classes have a larger "
        "share of them than others, so a classifier may go by the mark: generate without --watermark for a study"
    ]


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
        "split_method": first.get("split_method", manifest.OLD_SPLIT),
        "images": manifest.identity(manifest.read_synthetic(config.synthetic)),
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
        *manifest.split_warnings(found),
        f"Test split: {found['test_images']} images of {found['test_lesions']} lesions; "
        f"mean of {len(found['seeds'])} seeds, 95 % intervals over lesions and seeds",
        " " * width + "".join(f"{c:>24}" for c in columns),
    ]
    for e in found["arms"]:
        cells = [f"{s['value']:.3f} ({s['low']:.3f}-{s['high']:.3f})" for s in (e["scores"][c] for c in columns)]
        lines.append(f"{e['arm']:<{width}}" + "".join(f"{c:>24}" for c in cells))
    lines += [f"note: {note}" for note in found.get("notes", [])]
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
