"""Classifiers trained on different mixtures and seeds, compared on the predictions for one test set."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from dermgen import statistics


def compare(
    probabilities: Mapping[str, Sequence[np.ndarray]],
    labels: np.ndarray,
    groups: Sequence[Hashable],
    classes: Sequence[str],
    baseline: str,
    focus_class: str,
    draws: int,
) -> dict[str, dict[str, Any]]:
    """Means over seeds with intervals, and paired tests against the baseline, for each arm.

    Intervals and p-values are those of `statistics.mean_over_seeds`: the bootstrap draws the same test lesions for
    every arm and seed. McNemar's test takes one vote per lesion, of probabilities averaged over its images and the
    seeds, so it compares the classifiers as they are, not trainings to come. Holm's correction is over the arms.

    Args:
        probabilities: of each arm, (N, C) of each seed.
        labels: (N,) class indices.
        groups: (N,) the lesion, or patient, of each image.
        classes: C codes, each with an image.
        baseline: one of the arms.
        focus_class: whose recall is told first.
        draws: bootstrap samples.

    Returns:
        For each arm `scores`, `of_seeds`, `confusion` (summed over seeds); for all but the baseline also `differences`
        with p-values, `mcnemar_p`, `mcnemar_p_holm` and a `verdict`.
    """
    # Row 0 is the test set as it is.
    weights = np.vstack([np.ones(len(labels)), statistics.resampled_weights(groups, draws, 0)])
    found = {
        arm: [weighted_scores(p, labels, weights, classes) for p in of_seeds] for arm, of_seeds in probabilities.items()
    }
    votes = {arm: _votes(of_seeds, labels, groups) for arm, of_seeds in probabilities.items()}
    focus = f"recall_{focus_class}"
    entries: dict[str, dict[str, Any]] = {}
    for arm, of_seeds in found.items():
        names = of_seeds[0]
        values = {name: np.stack([scores[name] for scores in of_seeds]) for name in names}
        entry = entries[arm] = {
            "scores": {name: _estimate(v, bounded=True) for name, v in values.items()},
            "of_seeds": {name: values[name][:, 0].tolist() for name in ("bma", focus)},
            "confusion": np.sum([_confusion(p, labels, len(classes)) for p in probabilities[arm]], axis=0).tolist(),
        }
        if arm != baseline:
            there = {name: np.stack([scores[name] for scores in found[baseline]]) for name in names}
            entry["differences"] = {name: _estimate(values[name] - there[name]) for name in names}
            entry["mcnemar_p"] = statistics.mcnemar(votes[arm], votes[baseline])
    compared = [entry for arm, entry in entries.items() if arm != baseline]
    for name in ("bma", focus):
        corrected = statistics.holm([e["differences"][name]["p"] for e in compared])
        for entry, p in zip(compared, corrected, strict=True):
            entry["differences"][name]["p_holm"] = p
    for entry, p in zip(compared, statistics.holm([e["mcnemar_p"] for e in compared]), strict=True):
        entry["mcnemar_p_holm"] = p
    for arm, entry in entries.items():
        if arm != baseline:
            entry["verdict"] = verdict(arm, entry, baseline, focus, len(compared))
    return entries


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


def verdict(arm: str, entry: dict, baseline: str, focus: str, arms: int) -> str:
    """One plain sentence: is the difference to the baseline real?"""
    d = entry["differences"]["bma"]
    p = d["p_holm"]
    text = (
        f"{arm}: BMA {entry['scores']['bma']['value']:.3f}, {d['value']:+.3f} ({d['low']:+.3f} to "
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


def _estimate(values: np.ndarray, bounded: bool = False) -> dict[str, float]:
    """(S, 1 + B) values, first those of the test set as it is, as value, low, high and p; `bounded` in [0, 1]."""
    resampled = values[:, 1:].mean(0)
    estimate = asdict(statistics.mean_over_seeds(values[:, 0], resampled[~np.isnan(resampled)]))
    if bounded:
        del estimate["p"]
        estimate["low"], estimate["high"] = max(0.0, estimate["low"]), min(1.0, estimate["high"])
    return estimate


def _confusion(probabilities: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (labels, probabilities.argmax(1)), 1)
    return counts


def _votes(probabilities: Sequence[np.ndarray], labels: np.ndarray, groups: Sequence[Hashable]) -> np.ndarray:
    """Whether each lesion is called right by probabilities averaged over seeds and the lesion's images."""
    groups = np.array([f"{group}, class {label}" for group, label in zip(groups, labels, strict=True)])
    mean = pd.DataFrame(np.mean(probabilities, axis=0)).groupby(groups).mean()
    truth = pd.Series(labels).groupby(groups).first()
    return mean.to_numpy().argmax(1) == truth.to_numpy()
