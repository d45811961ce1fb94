"""Metrics of a classifier: torchmetrics over probabilities, overall and per class."""

from collections.abc import Sequence

import torch
from torchmetrics.functional import classification as M


def measure(probabilities: torch.Tensor, labels: torch.Tensor, classes: Sequence[str]) -> dict:
    """All metrics of one set of predictions.

    Args:
        probabilities: (N, C) float, rows sum to 1.
        labels: (N,) int64 class indices.
        classes: C codes.

    Returns:
        `n`, overall metrics by name, `per_class` metrics by code, and `confusion` (C x C counts, rows are true
        classes). A class without images has None for each metric and is left out of means over classes; `bma` is the
        mean recall. Calibration error uses 15 bins.
    """
    c = len(classes)
    present = torch.bincount(labels, minlength=c) > 0
    per_class = {
        "recall": M.multiclass_recall(probabilities, labels, c, average="none"),
        "precision": M.multiclass_precision(probabilities, labels, c, average="none"),
        "f1": M.multiclass_f1_score(probabilities, labels, c, average="none"),
        "specificity": M.multiclass_specificity(probabilities, labels, c, average="none"),
        "auroc": M.multiclass_auroc(probabilities, labels, c, average="none"),
        "average_precision": M.multiclass_average_precision(probabilities, labels, c, average="none"),
        "sensitivity_at_95_specificity": M.multiclass_sensitivity_at_specificity(probabilities, labels, c, 0.95)[0],
    }
    support = torch.bincount(labels, minlength=c)
    overall = {
        "accuracy": float((probabilities.argmax(1) == labels).double().mean()),
        "bma": float(per_class["recall"][present].mean()),
        **{f"macro_{name}": float(values[present].mean()) for name, values in per_class.items()},
        **{
            f"weighted_{name}": float((per_class[name] * support)[present].sum() / support.sum())
            for name in ("precision", "recall", "f1")
        },
        "calibration_error": float(M.multiclass_calibration_error(probabilities, labels, c, n_bins=15)),
    }
    return {
        "n": len(labels),
        **overall,
        "per_class": {
            code: {
                "n": int(support[i]),
                **{name: float(values[i]) if present[i] else None for name, values in per_class.items()},
            }
            for i, code in enumerate(classes)
        },
        "confusion": M.multiclass_confusion_matrix(probabilities, labels, c).tolist(),
    }
