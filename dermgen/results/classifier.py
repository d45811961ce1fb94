"""The result of training a classifier: its scores on validation and test images, `results.json`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dermgen.blocks import Block, Picture, Table, Text, Warning, counted, number
from dermgen.data.prepared import OLD_SPLIT
from dermgen.results.common import label, split_warnings

COLUMNS = ("recall", "precision", "f1", "specificity", "auroc", "sensitivity_at_95_specificity")


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

    def blocks(self, confusion: Path) -> list[Block]:
        """Everything, with the plot of the confusion matrix in the file `confusion`."""
        test = self.test
        rows = [
            [code, f"{figures['n']:,}", *(number(figures[column]) for column in COLUMNS)]
            for code, figures in test["per_class"].items()
        ]
        return [
            *map(Warning, split_warnings(self)),
            Text(
                f"Test split, {counted(test['n'], 'real image')}: balanced accuracy {test['bma']:.3f}, accuracy "
                f"{test['accuracy']:.3f}, AUROC {test['macro_auroc']:.3f}, calibration error "
                f"{test['calibration_error']:.3f}."
            ),
            Table(["class", "n", *map(label, COLUMNS)], rows),
            Picture(confusion, "Confusion matrix, shares of the true class"),
        ]
