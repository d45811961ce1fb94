"""The weights of a run's best validation, kept in `best/step-N/` in addition to the last ones."""

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dermgen.training import metrics_log
from dermgen.training.checkpoints import checkpoints, step_of


@dataclass(frozen=True)
class Scores:
    """What validations measured, by step, and which direction is better."""

    by_step: Mapping[int, float]
    lower_is_better: bool

    @property
    def best_step(self) -> int:
        """The step with the best score, the first of equals; NaN is the worst."""
        worst = math.inf if self.lower_is_better else -math.inf
        values = {step: worst if math.isnan(value) else value for step, value in self.by_step.items()}
        best = (min if self.lower_is_better else max)(values.values())
        return min(step for step, value in values.items() if value == best)


def best_folder(run_dir: Path, step: int) -> Path:
    """Where the weights of that step are, if it was the best so far when it was measured."""
    return run_dir / "best" / f"step-{step}"


def kept_scores(run_dir: Path, name: str) -> Scores:
    """The logged values of the loss or distance `name`, of the steps whose weights are kept.

    After resuming from an older checkpoint the log knows nothing of later steps, and some weights may be gone.
    """
    lines = [line for line in metrics_log.read(run_dir / "metrics.jsonl") if name in line]
    kept = {line["step"]: line[name] for line in lines if best_folder(run_dir, line["step"]).is_dir()}
    return Scores(kept, lower_is_better=True)


def keep_if_best(run_dir: Path, step: int, scores: Scores, save: Callable[[Path], None]) -> None:
    """Save the weights if this step is the best; called by one process.

    Those that neither this history nor a run resumed from the last checkpoint needs are removed.

    Args:
        run_dir: the run's folder.
        step: in progress.
        scores: of every step measured, this one among them.
        save: writes the weights into an existing folder.
    """
    if scores.best_step != step:
        return
    folder = best_folder(run_dir, step)
    partial = folder.with_name(folder.name + ".partial")
    for leftover in (partial, folder):  # of a killed run
        if leftover.exists():
            shutil.rmtree(leftover)
    partial.mkdir(parents=True)
    save(partial)
    partial.rename(folder)
    needed, whole = {folder}, checkpoints(run_dir)
    if whole:
        before = {s: score for s, score in scores.by_step.items() if s <= step_of(whole[-1])}
        if before:
            needed.add(best_folder(run_dir, Scores(before, scores.lower_is_better).best_step))
    for old in folder.parent.glob("step-*"):
        if old not in needed:
            shutil.rmtree(old)
