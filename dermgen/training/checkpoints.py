"""The checkpoints of a run folder: each is written completely or not at all, and old ones of the run are removed."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator
from safetensors import SafetensorError

from dermgen.config import InputError

STATE_FILE = "dermgen_state.json"


def checkpoints(output_dir: Path) -> list[Path]:
    """Whole checkpoints, oldest first: those renamed into place with a state file."""
    numbered = [p for p in Path(output_dir).glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdigit()]
    return sorted((p for p in numbered if (p / STATE_FILE).exists()), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint folder is named by."""
    return int(checkpoint.name.split("-")[1])


def last_whole(output_dir: Path) -> str:
    """The newest checkpoint, for a message."""
    whole = checkpoints(output_dir)
    return str(whole[-1]) if whole else "none yet"


def read_state(checkpoint: Path) -> dict:
    """What the run saved about itself: `run`, `step`, `images_per_step`, `pending`, `pending_steps`, `seconds`."""
    return json.loads((checkpoint / STATE_FILE).read_text())


def to_resume(output_dir: Path, requested: str | None) -> Path | None:
    """The checkpoint to resume from: the requested one, or the newest; None if there is none.

    Args:
        output_dir: the run folder.
        requested: a checkpoint, of which only the name counts, as in diffusers' scripts; None and "latest" are the
            newest.

    Raises:
        InputError: if the requested one is not a complete checkpoint.
    """
    whole = checkpoints(output_dir)
    if requested in (None, "latest"):
        return whole[-1] if whole else None
    path = output_dir / Path(requested).name
    if path not in whole:
        names = ", ".join(p.name for p in whole) or "none"
        raise InputError(f"resume_from_checkpoint: {path} is not a complete checkpoint; choose one of: {names}")
    return path


@contextmanager
def whole_checkpoint(output_dir: Path, step: int, accelerator: Accelerator) -> Iterator[Path]:
    """Within the block all processes write to the folder given; it becomes `checkpoint-<step>` once they are done.

    Raises:
        InputError: if the block cannot write; the unfinished folder is removed.
    """
    final = output_dir / f"checkpoint-{step}"
    partial = final.with_name(final.name + ".partial")
    try:
        if accelerator.is_main_process and partial.exists():
            shutil.rmtree(partial)  # a killed run left it unfinished
        accelerator.wait_for_everyone()
        yield partial
        accelerator.wait_for_everyone()
    except (OSError, RuntimeError, SafetensorError) as error:
        free = shutil.disk_usage(output_dir).free / 2**20
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)  # a partial checkpoint only uses the space we lack
        raise InputError(
            f"{final} could not be written ({error}; {free:,.0f} MiB free); the last whole checkpoint is "
            f"{last_whole(output_dir)}: free some space and run the same command again"
        ) from error
    if accelerator.is_main_process:
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)


def rotate(output_dir: Path, run_id: str, step: int, limit: int | None) -> None:
    """Remove this run's oldest checkpoints beyond `limit`, and any after `step`.

    After resuming from an older checkpoint, later ones belong to an abandoned course.
    """
    own = _of_run(output_dir, run_id)
    _remove([path for s, path in own.items() if s > step] + _surplus(own, step, limit))


def clear_unfinished(output_dir: Path, run_id: str, step: int, limit: int | None) -> None:
    """Remove what a killed run left: an unfinished checkpoint, or old ones up to `step` that were to be removed."""
    for path in output_dir.glob("checkpoint-*.partial"):
        if path.name.removeprefix("checkpoint-").removesuffix(".partial").isdigit():
            shutil.rmtree(path)
    _remove(_surplus(_of_run(output_dir, run_id), step, limit))


def _of_run(output_dir: Path, run_id: str) -> dict[int, Path]:
    """Whole checkpoints of this run, by step."""
    states = {path: read_state(path) for path in checkpoints(output_dir)}
    return {state["step"]: path for path, state in states.items() if state["run"] == run_id}


def _surplus(own: dict[int, Path], step: int, limit: int | None) -> list[Path]:
    """The oldest up to `step` beyond the newest `limit`."""
    past = sorted(s for s in own if s <= step)
    return [own[s] for s in past[:-limit]] if limit else []


def _remove(folders: Sequence[Path]) -> None:
    for folder in folders:
        # Killed halfway, this leaves nothing that looks like a checkpoint; the next start clears it.
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(folder.rename(partial))
