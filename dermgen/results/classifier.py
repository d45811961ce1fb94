"""The result of training a classifier: its scores on validation and test images, `results.json`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dermgen.blocks import Block, Picture, Table, Text, Warning, counted, interval, number
from dermgen.data.prepared import OLD_SPLIT
from dermgen.results.common import Estimate, label, split_warnings

COLUMNS = ("precision", "f1", "specificity", "auroc", "sensitivity_at_95_specificity")


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """Scores of the test split by name, and recall by class, with intervals over its lesions or patients."""

    lesions: int
    scores: dict[str, Estimate]
    recalls: dict[str, Estimate]


@dataclass(frozen=True, kw_only=True)
class ClassifierResult:
    """What `results.json` holds.

    Attributes:
        training_images: counts by class, of "real" and "synthetic" images.
        val, test: `metrics.measure` of the images of that split.
    """

    FILE = "results.json"

    classes: list[str]
    best_step: int
    last_step: int
    max_train_steps: int
    leaky: bool
    split_method: str = OLD_SPLIT
    training_images: dict[str, dict[str, int]]
    val: dict[str, Any]
    test: dict[str, Any]

    def headline(self, intervals: Intervals) -> str:
        """How good the classifier is, in a sentence."""
        bma, images = intervals.scores["bma"], self.training_images
        n = {kind: sum(images.get(kind, {}).values()) for kind in ("real", "synthetic")}
        trained_on = [f"{counted(count, f'{kind} image')}" for kind, count in n.items() if count]
        return (
            f"Trained on {' and '.join(trained_on)}, it reaches a BMA of {number(bma.value)} (95 % CI "
            f"{interval(bma.low, bma.high)}; chance {number(1 / len(self.classes))}) on "
            f"{counted(self.test['n'], 'held-out real image')}."
        )

    def blocks(self, intervals: Intervals, confusion: Path) -> list[Block]:
        """Everything, with the plot of the confusion matrix in the file `confusion`."""
        return [
            *map(Warning, split_warnings(self)),
            *self.score_blocks(intervals),
            *self.class_blocks(intervals),
            Picture(confusion, "Confusion matrix, shares of the true class"),
        ]

    def score_blocks(self, intervals: Intervals) -> list[Block]:
        """Figures of the test split as a whole."""
        rows = [
            [label(name), number(score.value), interval(score.low, score.high)]
            for name, score in intervals.scores.items()
        ]
        return [
            Text(self.headline(intervals), "verdict"),
            Text(
                f"Test split: {counted(self.test['n'], 'real image')} of {counted(intervals.lesions, 'lesion')} or "
                "patients that it was neither trained nor chosen on; 95 % confidence intervals by resampling those. "
                f"BMA is the balanced multiclass accuracy. Calibration error {number(self.test['calibration_error'])}."
            ),
            Table(["score", "value", "95 % CI"], rows),
        ]

    def class_blocks(self, intervals: Intervals) -> list[Block]:
        """Figures of each class."""
        rows = []
        for code, figures in self.test["per_class"].items():
            recall = intervals.recalls[code]
            others = [number(figures[column]) for column in COLUMNS]
            rows.append([code, f"{figures['n']:,}", number(recall.value), interval(recall.low, recall.high), *others])
        return [Table(["class", "images", label("recall"), "95 % CI", *map(label, COLUMNS)], rows)]
