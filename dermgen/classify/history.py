"""The validations of a classifier, and what they decide: its learning rate, when it stops, its best weights."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from dermgen.settings.classifier import ClassifierConfig
from dermgen.training import metrics_log
from dermgen.training.best import Scores, keep_if_best
from dermgen.training.run import Run


class History:
    """All validations of a run, including those before it was resumed.

    Args:
        run: the run, resumed; its learning rate and its end follow the history.
        config: with the patience of both.
    """

    def __init__(self, run: Run, config: ClassifierConfig):
        self.run, self.config = run, config
        self.validations = validations(run.output_dir / "metrics.jsonl")
        self._follow()

    def add(self, measured: Mapping[str, float], save: Callable[[Path], None]) -> None:
        """Log a validation, and keep the weights, which `save` writes into a folder, if it is the best by BMA."""
        self.validations.append({"step": self.run.step, **measured})
        if self.run.is_main:
            keep_if_best(self.run.output_dir, self.run.step, self._scores(), save)
        self.run.write_metrics(**measured)
        self._follow()

    @property
    def best_step(self) -> int:
        """The step of the best validation."""
        return self._scores().best_step

    def _follow(self) -> None:
        losses = [v["val_loss"] for v in self.validations]
        self.run.lr_factor = plateau_factor(losses, self.config.reduce_on_plateau_patience)
        if exhausted([v["val_bma"] for v in self.validations], self.config.early_stopping_patience):
            self.run.finish()

    def _scores(self) -> Scores:
        return Scores({v["step"]: v["val_bma"] for v in self.validations}, lower_is_better=False)


def validations(path: Path) -> list[dict]:
    """The validations that a run has logged, in order."""
    return [line for line in metrics_log.read(path) if "val_bma" in line]


def plateau_factor(
    losses: Sequence[float], patience: int | None, factor: float = 0.1, threshold: float = 1e-4
) -> float:
    """The factor of the learning rate under `torch.optim.lr_scheduler.ReduceLROnPlateau` after these losses.

    A function of the history, so that resuming needs only the log; without patience it is 1.
    """
    if patience is None:
        return 1.0
    best, waited, scale = float("inf"), 0, 1.0
    for loss in losses:
        if loss < best * (1 - threshold):
            best, waited = loss, 0
        else:
            waited += 1
        if waited > patience:
            scale, waited = scale * factor, 0
    return scale


def exhausted(scores: Sequence[float], patience: int | None) -> bool:
    """Whether none of the last `patience` scores is better than the best before them."""
    return patience is not None and len(scores) > patience and len(scores) - 1 - int(np.argmax(scores)) >= patience
