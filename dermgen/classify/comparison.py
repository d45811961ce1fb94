"""Classifiers trained on different mixtures and seeds, compared on the predictions for one test set."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from dermgen import statistics
from dermgen.blocks import p_value
from dermgen.config import InputError
from dermgen.data import splits
from dermgen.results.classifier import Intervals
from dermgen.results.common import Estimate

MIN_LESIONS = 6  # fewer agree by chance in over 5 % of cases (sign test)


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

    Intervals and p-values are those of `statistics.mean_over_seeds`. For differences in recall and BMA the variance
    over test lesions is `statistics.null_variance`, which is valid for a single lesion too; for other differences it is
    that of a bootstrap that draws the same test lesions for every arm and seed. McNemar's test takes one vote per
    lesion, from probabilities averaged over its images and the seeds, so it compares these classifiers and does not
    generalise to new trainings. Holm's correction is over the arms.

    Args:
        probabilities: of each arm, (N, C) of each seed.
        labels: (N,) class indices.
        groups: (N,) the lesion, or patient, of each image.
        classes: C codes, each of a class that occurs.
        baseline: one of the arms.
        focus_class: class whose recall is reported first.
        draws: bootstrap samples.

    Returns:
        For each arm `scores`, `of_seeds`, `confusion` (summed over seeds); except for the baseline also `differences`
        with p-values, `mcnemar_p`, `mcnemar_p_holm` and a `verdict`.
    """
    # Row 0 is the test set as it is.
    weights = np.vstack([np.ones(len(labels)), statistics.resampled_weights(groups, draws, 0)])
    resampled = {arm: _resampled_scores(of_seeds, labels, weights, classes) for arm, of_seeds in probabilities.items()}
    lesions = lesions_of(classes, labels, groups)
    votes = {arm: _votes(of_seeds, labels, groups) for arm, of_seeds in probabilities.items()}
    focus = f"recall_{focus_class}"
    entries: dict[str, dict[str, Any]] = {}
    for arm, values in resampled.items():
        entry = entries[arm] = {
            "scores": _scores(values, lesions),
            "of_seeds": {name: values[name][:, 0].tolist() for name in ("bma", focus)},
            "confusion": np.sum([_confusion(p, labels, len(classes)) for p in probabilities[arm]], axis=0).tolist(),
        }
        if arm != baseline:
            gained = np.mean(
                _is_correct(probabilities[arm], labels) - _is_correct(probabilities[baseline], labels), axis=0
            )
            differences = {name: values[name] - resampled[baseline][name] for name in values}
            entry["differences"] = _differences(differences, gained, labels, groups, classes)
            entry["mcnemar_p"] = statistics.mcnemar(votes[arm], votes[baseline])
    compared = {arm: entry for arm, entry in entries.items() if arm != baseline}
    _correct(list(compared.values()), ("bma", focus))
    for arm, entry in compared.items():
        entry["verdict"] = verdict(arm, entry, baseline, focus_class, len(compared), lesions[focus_class])
    return entries


def _resampled_scores(
    of_seeds: Sequence[np.ndarray], labels: np.ndarray, weights: np.ndarray, classes: Sequence[str]
) -> dict[str, np.ndarray]:
    """`weighted_scores` of every seed's predictions, (S, B) by name."""
    scores = [weighted_scores(p, labels, weights, classes) for p in of_seeds]
    return {name: np.stack([values[name] for values in scores]) for name in scores[0]}


def _correct(compared: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    """Add Holm's correction over the arms to the p-values of these differences and of McNemar's test."""
    for name in names:
        corrected = statistics.holm([entry["differences"][name]["p"] for entry in compared])
        for entry, p in zip(compared, corrected, strict=True):
            entry["differences"][name]["p_holm"] = p
    for entry, p in zip(compared, statistics.holm([entry["mcnemar_p"] for entry in compared]), strict=True):
        entry["mcnemar_p_holm"] = p


def weighted_scores(
    probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray, classes: Sequence[str]
) -> dict[str, np.ndarray]:
    """Scores of one set of predictions in many reweighted test sets at once.

    Args:
        probabilities: (N, C).
        labels: (N,) class indices.
        weights: (B, N) how many times each image counts.
        classes: C codes.

    Returns:
        (B,) values by name: bma, accuracy, macro_f1, macro_auroc, recall_<code>. Classes without images are left out of
        means; recall of such a class is NaN.
    """
    c = len(classes)
    cells = np.zeros((len(labels), c * c))
    cells[np.arange(len(labels)), labels * c + probabilities.argmax(1)] = 1
    confusion = (weights @ cells).reshape(-1, c, c)
    true, predicted, correct = confusion.sum(2), confusion.sum(1), np.einsum("bcc->bc", confusion)
    with np.errstate(invalid="ignore"):
        recall = correct / np.where(true > 0, true, np.nan)
        f1 = 2 * correct / np.where(true > 0, true + predicted, np.nan)
    auroc = np.stack([_auroc(probabilities[:, i], labels == i, weights) for i in range(c)], axis=1)
    return {
        "bma": _mean_of_known(recall),
        "accuracy": correct.sum(1) / weights.sum(1),
        "macro_f1": _mean_of_known(f1),
        "macro_auroc": _mean_of_known(auroc),
        **{f"recall_{code}": recall[:, i] for i, code in enumerate(classes)},
    }


def _mean_of_known(of_classes: np.ndarray) -> np.ndarray:
    """Mean over the classes that occur, (B,); NaN if none does."""
    known = ~np.isnan(of_classes)
    with np.errstate(invalid="ignore"):
        return np.where(known, of_classes, 0).sum(1) / known.sum(1)


def read_predictions(path: Path) -> pd.DataFrame:
    """The table of a classifier's predictions, ids and classes as text.

    Raises:
        InputError: if the file is missing.
    """
    ids = {"dx": str, "image_id": str, "lesion_id": str, "patient_id": str}
    try:
        return pd.read_csv(path, keep_default_na=False, dtype=ids)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; train the classifier again") from error


def intervals(predictions: Path, classes: Sequence[str], draws: int = 1000) -> Intervals:
    """Scores of a classifier's test predictions, with intervals by resampling lesions or patients.

    Args:
        predictions: its `predictions_test.csv`.
        classes: C codes, in the order of the columns.
        draws: bootstrap samples.

    Raises:
        InputError: if the file is missing.
    """
    table = read_predictions(predictions)
    groups = splits.join_groups(table["lesion_id"], table["patient_id"])
    weights = np.vstack([np.ones(len(table)), statistics.resampled_weights(groups, draws, 0)])
    labels = np.array([classes.index(dx) for dx in table["dx"]])
    scores = weighted_scores(table[[f"p_{c}" for c in classes]].to_numpy(), labels, weights, classes)
    variances = lesion_variances(scores, lesions_of(classes, labels, groups))

    def estimate(name: str) -> Estimate:
        value = float(scores[name][0])
        if not np.isfinite(value) or not np.isfinite(variances[name]):
            return Estimate(value=None, low=None, high=None)
        reach = 1.96 * np.sqrt(variances[name])
        return Estimate(value=value, low=max(0.0, value - reach), high=min(1.0, value + reach))

    return Intervals(
        lesions=int(groups.max()) + 1,
        scores={name: estimate(name) for name in ("bma", "accuracy", "macro_f1", "macro_auroc")},
        recalls={code: estimate(f"recall_{code}") for code in classes},
    )


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


def verdict(arm: str, entry: dict, baseline: str, focus_class: str, arms: int, lesions: int) -> str:
    """Whether the difference from the baseline is real, in one sentence.

    Args:
        arm: its name.
        entry: its scores and differences.
        baseline: the arm that it is compared with.
        focus_class: class whose recall is reported too.
        arms: number of arms compared with the baseline.
        lesions: of the focus class in the test set.
    """
    bma, recall = (entry["differences"][name] for name in ("bma", f"recall_{focus_class}"))
    p = bma["p_holm"]
    text = f"{arm}: BMA {entry['scores']['bma']['value']:.3f}, {_change(bma)} against {baseline}"
    evidence = f"{p_value(p)}, corrected for {arms} arms" if arms > 1 else p_value(p)
    if p < 0.05:
        text += f"; the {'gain' if bma['value'] > 0 else 'loss'} is real ({evidence})"
    else:
        text += f"; no difference can be shown ({evidence})"
    text += f". Recall of {focus_class} "
    if lesions < MIN_LESIONS:
        return f"{text}{recall['value']:+.3f}: too few test lesions to tell ({lesions})."
    return f"{text}{_change(recall)}, {'real' if recall['p_holm'] < 0.05 else 'not shown'}."


def _change(difference: dict[str, float]) -> str:
    return f"{difference['value']:+.3f} ({difference['low']:+.3f} to {difference['high']:+.3f})"


def lesions_of(classes: Sequence[str], labels: np.ndarray, groups: Sequence[Hashable]) -> dict[str, int]:
    """The number of test lesions, or patients, of each class that occurs."""
    names = np.asarray(groups, dtype=str)
    return {code: len(set(names[labels == c])) for c, code in enumerate(classes) if (labels == c).any()}


def lesion_variances(values: Mapping[str, np.ndarray], lesions: Mapping[str, int]) -> dict[str, float]:
    """Variance of each score over test lesions, from its bootstrap, enlarged for classes with few lesions.

    Resamples of a single lesion are all alike, and those without it are left out, so that its recall would seem
    certain. Recall has the variance of Wilson's interval, and BMA at least that of its classes together.

    Args:
        values: (1 + B,) of each score, first that of the test set itself; NaN where a class is missing.
        lesions: test lesions of each class.
    """
    variances = {name: _variance(samples[1:]) for name, samples in values.items()}
    for code, n in lesions.items():
        name = f"recall_{code}"
        recall = float(values[name][0])
        low, high = statistics.share_interval(recall, np.sqrt(variances[name]), n)
        variances[name] = (max(recall - low, high - recall) / stats.norm.ppf((1 + statistics.LEVEL) / 2)) ** 2
    of_classes = [variances[f"recall_{code}"] for code in lesions]
    return variances | {"bma": max(variances["bma"], float(np.mean(of_classes)) / len(lesions))}


def _scores(values: dict[str, np.ndarray], lesions: dict[str, int]) -> dict[str, dict[str, float]]:
    """Value, low and high of each score, from (S, 1 + B) values, first those of the test set itself."""
    variances = lesion_variances({name: samples.mean(0) for name, samples in values.items()}, lesions)
    estimates = {}
    for name, samples in values.items():
        estimate = statistics.mean_over_seeds(samples[:, 0], variances[name])
        estimates[name] = {"value": estimate.value, "low": max(0.0, estimate.low), "high": min(1.0, estimate.high)}
    return estimates


def _differences(
    values: dict[str, np.ndarray],
    gained: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[Hashable],
    classes: Sequence[str],
) -> dict[str, dict[str, float]]:
    """Value, low, high and p of each difference, from (S, 1 + B) values and the gain in the share of seeds that
    classify each image correctly, (N,)."""
    in_class = {f"recall_{code}": (labels == c) / (labels == c).sum() for c, code in enumerate(classes)}
    weights = in_class | {"bma": np.mean(list(in_class.values()), axis=0)}
    differences = {}
    for name, samples in values.items():
        if name in weights:
            variance, freedom = statistics.null_variance(gained * weights[name], groups)
        else:
            variance, freedom = _variance(samples[:, 1:].mean(0)), np.inf
        differences[name] = asdict(statistics.mean_over_seeds(samples[:, 0], variance, freedom))
    return differences


def _variance(resampled: np.ndarray) -> float:
    """Over the samples that are not NaN; NaN if there are fewer than two."""
    resampled = resampled[~np.isnan(resampled)]
    return float(np.var(resampled, ddof=1)) if len(resampled) > 1 else np.nan


def _is_correct(probabilities: Sequence[np.ndarray], labels: np.ndarray) -> np.ndarray:
    """1 where a seed classifies an image correctly, else 0, (S, N)."""
    return np.stack([p.argmax(1) == labels for p in probabilities]).astype(float)


def _confusion(probabilities: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (labels, probabilities.argmax(1)), 1)
    return counts


def _votes(probabilities: Sequence[np.ndarray], labels: np.ndarray, groups: Sequence[Hashable]) -> np.ndarray:
    """Whether each lesion is classified correctly by probabilities averaged over seeds and the lesion's images."""
    groups = np.array([f"{group}, class {label}" for group, label in zip(groups, labels, strict=True)])
    mean = pd.DataFrame(np.mean(probabilities, axis=0)).groupby(groups).mean()
    truth = pd.Series(labels).groupby(groups).first()
    return mean.to_numpy().argmax(1) == truth.to_numpy()
