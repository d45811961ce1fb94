"""`dermgen study`: classifiers trained with and without synthetic images, compared on the same test set."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from accelerate import PartialState

from dermgen import plots, recipes, watermark
from dermgen.blocks import for_terminal
from dermgen.classify import classifier
from dermgen.classify.classifier import ClassifierConfig
from dermgen.classify.comparison import compare, read_predictions
from dermgen.classify.history import validations
from dermgen.config import InputError, parse
from dermgen.data import comparable, manifest, splits
from dermgen.data.image_files import read_pixels
from dermgen.results.classifier import ClassifierResult
from dermgen.results.common import Estimate, ImageSet, write
from dermgen.results.study import Study, arm_of
from dermgen.settings.study import DEFAULT_ARMS, StudyConfig, arm_settings
from dermgen.training.processes import claim_together


def study(config: StudyConfig) -> Study:
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
    synthetic, rows = manifest.read_synthetic(config.synthetic), {}
    for (arm, _), run in runs.items():
        try:
            rows[arm] = classifier.arm_rows(run, real, synthetic if run.synthetic_dir else None)
        except InputError as error:
            raise InputError(f"arm {arm}: {error}") from error
    synthetic = synthetic.assign(sha256=manifest.hashes(synthetic))
    notes = comparable.require(real, real[real["split"] != "train"], synthetic, config.synthetic)
    notes += watermark_notes(rows, synthetic)
    state = PartialState()
    claim_together(state, folder, config)
    results = {}
    for i, ((arm, seed), run) in enumerate(runs.items()):
        if state.is_main_process:
            print(f"[{i + 1} of {len(runs)}] {arm}, seed {seed}", flush=True)
        results[arm, seed] = classifier.train(run)
    result = _summarize(config, runs, results, notes, ImageSet(**manifest.identity(synthetic)))
    if state.is_main_process:
        write(result, folder)
        _plot(result, {key: Path(run.output_dir) for key, run in runs.items()}, folder / "plots")
        print(for_terminal(result.blocks(folder)))
    return result


def watermark_notes(rows: Mapping[str, pd.DataFrame], synthetic: pd.DataFrame) -> list[str]:
    """A note if the images carry the watermark and an arm has a larger share of them in one class than in another.

    Args:
        rows: training images of each arm.
        synthetic: the synthetic set, of which 15 random images are examined.
    """
    uneven = []
    for arm, table in rows.items():
        shares = (table["synthetic"] == "true").groupby(table["dx"]).mean()
        if shares.max() - shares.min() > 0.1:
            uneven.append(arm)
    if not uneven:
        return []
    chosen = synthetic["path"].sample(min(len(synthetic), 15), random_state=0)
    marked = [watermark.detect(read_pixels(path)) > watermark.THRESHOLD for path in chosen]
    if np.mean(marked) < 0.5:
        return []
    return [
        f"the synthetic images carry dermgen's watermark, and in {', '.join(uneven)} some classes have a larger "
        "share of them than others, so a classifier may rely on the mark: generate without --watermark for a study"
    ]


def _summarize(
    config: StudyConfig,
    runs: Mapping[tuple[str, int], ClassifierConfig],
    results: Mapping[tuple[str, int], ClassifierResult],
    notes: Sequence[str],
    synthetic: ImageSet,
) -> Study:
    """The contents of `study.json`, from the run and the result of each arm and seed."""
    arms, seeds = (list(dict.fromkeys(names)) for names in zip(*runs, strict=True))
    first = results[arms[0], seeds[0]]
    classes = first.classes
    tables = {key: read_predictions(Path(run.output_dir, "predictions_test.csv")) for key, run in runs.items()}
    test = tables[arms[0], seeds[0]]
    groups = splits.join_groups(test["lesion_id"], test["patient_id"])
    probabilities = {arm: [tables[arm, s][[f"p_{c}" for c in classes]].to_numpy() for s in seeds] for arm in arms}
    labels = np.array([classes.index(dx) for dx in test["dx"]])
    entries = compare(
        probabilities, labels, groups, classes, config.baseline, config.focus_class, config.bootstrap_draws
    )
    return Study(
        baseline=config.baseline,
        focus_class=config.focus_class,
        seeds=list(seeds),
        same=config.same,
        steps=first.max_train_steps if config.same == "steps" else None,
        test_images=len(test),
        test_lesions=int(groups.max()) + 1,
        leaky=first.leaky,
        split_method=first.split_method,
        images=synthetic,
        classes=classes,
        bootstrap_draws=config.bootstrap_draws,
        arms=[arm_of(arm, results[arm, seeds[0]].training_images, entry) for arm, entry in entries.items()],
        notes=list(notes),
    )


def _run_config(config: StudyConfig, arm: str, seed: int) -> ClassifierConfig:
    base = parse(ClassifierConfig, ["--config", str(recipes.find(config.classifier)), "--data_dir", config.real])
    settings = arm_settings(arm)
    synthetic = settings.pop("synthetic")
    steps = config.max_train_steps
    length = (
        {
            "max_train_steps": steps,
            "validation_steps": max(1, steps // config.num_validations),
            "early_stopping_patience": None,  # a recipe's would give the arms different numbers of steps
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


def _plot(result: Study, folders: Mapping[tuple[str, int], Path], folder: Path) -> None:
    """All arms, changes of recall, confusion matrices, doses and validation curves."""
    focus, classes, arms = f"recall_{result.focus_class}", result.classes, result.arms
    series = {f"recall of {result.focus_class}": focus, "BMA": "bma"}
    dots = {title: [_dot(arm.arm, arm.scores[name]) for arm in arms] for title, name in series.items()}
    plots.dots(folder / "arms.png", "Test split, mean over seeds", "share", dots)
    for arm in arms:
        if arm.differences is not None:
            changes = [_dot(c, arm.differences[f"recall_{c}"]) for c in classes]
            path = folder / f"recall_changes_{arm.arm.replace(':', '_')}.png"
            plots.dots(path, f"{arm.arm} against {result.baseline}", "change of recall", {"": changes}, zero=0)
    plots.confusions(folder / "confusion.png", classes, {arm.arm: arm.confusion for arm in arms})
    dosed = [arm for arm in arms if arm.arm.split("+synthetic")[0] == result.baseline]
    if len(dosed) > 1:
        plots.dose_response(
            folder / "dose_response.png",
            "More synthetic images",
            "synthetic images per real one in training",
            "BMA",
            [_synthetic_per_real(arm.training_images) for arm in dosed],
            [_dot(arm.arm.removeprefix(result.baseline).lstrip("+") or "none", arm.scores["bma"]) for arm in dosed],
        )
    lines = {}
    for (arm, seed), path in folders.items():
        if seed == result.seeds[0]:
            logged = validations(path / "metrics.jsonl")
            lines[arm] = [(v["step"], v["val_bma"]) for v in logged]
    plots.curves(folder / "training_curves.png", f"Validation, seed {result.seeds[0]}", "BMA", lines)


def _dot(label: str, estimate: Estimate) -> plots.Dot:
    return plots.Dot(label, estimate.value, estimate.low, estimate.high)


def _synthetic_per_real(counts: dict) -> float:
    real = sum(counts["real"].values())
    return sum(counts["synthetic"].values()) / real if real else float("inf")
