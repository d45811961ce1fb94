"""What a run keeps beside its checkpoints: logged lines, the images it was trained on, the weights that scored best."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from dermgen.config import InputError
from dermgen.data import manifest
from dermgen.data.cache import hash_file

if TYPE_CHECKING:
    import pandas as pd

    from dermgen.training.run import Run


def logged(path: Path) -> list[dict]:
    """The whole lines of a metrics.jsonl, without one that a killed run left half written; none without the file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def cut(path: Path, step: int) -> None:
    """Drop the lines of a metrics.jsonl after `step`: the steps they tell of will be done again."""
    if path.exists():
        kept = [line for line in logged(path) if line["step"] <= step]
        partial = path.with_name(path.name + ".partial")
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
        os.replace(partial, path)


def keep_to_images(run: "Run", rows: "pd.DataFrame") -> None:
    """Write down what the run trains on, `training_set.csv`, or refuse to go on with other images.

    Args:
        run: the run.
        rows: with `image_id`, `dx`, `synthetic` and `path`; a row that is drawn twice as often occurs twice.

    Raises:
        InputError: if the run was begun with other images, by their ids, classes or bytes.
    """
    import pandas as pd

    table = rows[["image_id", "dx", "synthetic"]].assign(times=1)
    table = table.groupby(["image_id", "dx", "synthetic"], as_index=False, sort=False)["times"].sum()
    path_of = dict(zip(rows["image_id"], rows["path"], strict=True))
    with ThreadPoolExecutor() as pool:
        table["sha256"] = list(pool.map(hash_file, map(path_of.get, table["image_id"])))
    path = run.output_dir / "training_set.csv"
    # "" and missing must not differ: an image without a class is read back as it was written.
    if path.exists() and not pd.read_csv(path, dtype=str, keep_default_na=False).equals(table.astype(str)):
        raise InputError(
            f"{run.output_dir} was trained on other images, as its training_set.csv tells: choose a new output_dir"
        )
    run.accelerator.wait_for_everyone()
    if run.is_main and not path.exists():
        manifest.write_csv(table, path)
    run.accelerator.wait_for_everyone()


def best_step(scores: Mapping[int, float]) -> int:
    """The step with the highest score, the first of equals."""
    return max(scores, key=lambda step: (scores[step], -step))


def best_folder(run_dir: Path, step: int) -> Path:
    """Where the weights of that step are, if it was the best so far when it was measured."""
    return run_dir / "best" / f"step-{step}"


def keep_if_best(run: "Run", scores: Mapping[int, float], save: Callable[[Path], None]) -> None:
    """Save the weights if the step in progress is the best; on the main process.

    Those that neither this history nor a run resumed from the last checkpoint needs are removed.

    Args:
        run: the run.
        scores: of every step measured, that in progress among them; more is better.
        save: writes the weights into a folder that is there.
    """
    from dermgen.training.run import checkpoints

    if not run.is_main or best_step(scores) != run.step:
        return
    folder = best_folder(run.output_dir, run.step)
    partial = folder.with_name(folder.name + ".partial")
    for leftover in (partial, folder):  # of a killed run
        if leftover.exists():
            shutil.rmtree(leftover)
    partial.mkdir(parents=True)
    save(partial)
    partial.rename(folder)
    needed, found = {folder}, checkpoints(run.output_dir)
    if found:
        before = {step: score for step, score in scores.items() if step <= int(found[-1].name.split("-")[1])}
        needed |= {best_folder(run.output_dir, best_step(before))} if before else set()
    for old in folder.parent.glob("step-*"):
        if old not in needed:
            shutil.rmtree(old)
