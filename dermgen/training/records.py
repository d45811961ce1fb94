"""What is in a run folder: checkpoints, logged lines, the weights that scored best."""

import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from dermgen.config import whole_file

STATE_FILE = "dermgen_state.json"


def checkpoints(output_dir: Path) -> list[Path]:
    """Whole checkpoints, oldest first: those renamed into place with a state file."""
    numbered = [p for p in Path(output_dir).glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdigit()]
    return sorted((p for p in numbered if (p / STATE_FILE).exists()), key=lambda p: int(p.name.split("-")[1]))


def logged(path: Path) -> list[dict]:
    """The whole lines of a metrics.jsonl, without one that a killed run left half written; none without the file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def cut(path: Path, step: int) -> None:
    """Drop the lines of a metrics.jsonl after `step`: the steps they tell of will be done again."""
    if path.exists():
        kept = [line for line in logged(path) if line["step"] <= step]
        with whole_file(path) as partial:
            partial.write_text("".join(json.dumps(line) + "\n" for line in kept))


def best_step(scores: Mapping[int, float]) -> int:
    """The step with the highest score, the first of equals; NaN is the lowest."""
    return max(scores, key=lambda step: (-math.inf if math.isnan(scores[step]) else scores[step], -step))


def best_folder(run_dir: Path, step: int) -> Path:
    """Where the weights of that step are, if it was the best so far when it was measured."""
    return run_dir / "best" / f"step-{step}"


def kept_scores(run_dir: Path, name: str) -> dict[int, float]:
    """Minus the logged values of `name`, by step, of the steps whose weights are kept; more is better.

    After going back to an older checkpoint the log knows nothing of later steps, and some weights may be gone.
    """
    lines = logged(run_dir / "metrics.jsonl")
    return {line["step"]: -line[name] for line in lines if name in line and best_folder(run_dir, line["step"]).is_dir()}


def keep_if_best(run_dir: Path, step: int, scores: Mapping[int, float], save: Callable[[Path], None]) -> None:
    """Save the weights if this step is the best; called by one process.

    Those that neither this history nor a run resumed from the last checkpoint needs are removed.

    Args:
        run_dir: the run's folder.
        step: in progress.
        scores: of every step measured, this one among them; more is better.
        save: writes the weights into a folder that is there.
    """
    if best_step(scores) != step:
        return
    folder = best_folder(run_dir, step)
    partial = folder.with_name(folder.name + ".partial")
    for leftover in (partial, folder):  # of a killed run
        if leftover.exists():
            shutil.rmtree(leftover)
    partial.mkdir(parents=True)
    save(partial)
    partial.rename(folder)
    needed, found = {folder}, checkpoints(run_dir)
    if found:
        last = int(found[-1].name.split("-")[1])
        before = {step: score for step, score in scores.items() if step <= last}
        needed |= {best_folder(run_dir, best_step(before))} if before else set()
    for old in folder.parent.glob("step-*"):
        if old not in needed:
            shutil.rmtree(old)
