"""How far a run is: its state, its pace and the time left, by what it has written so far."""

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dermgen.training.checkpoints import STATE_FILE, checkpoints, read_state, step_of
from dermgen.training.run_record import RunRecord

QUIET = 600.0  # seconds without a new file, or 20 times those between two lines, after which a run seems interrupted
LINES = 20

# Of each run the first step that was seen, and when it was logged.
FirstSeen = MutableMapping[Path, tuple[int, float]]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is.

    Attributes:
        state: "silent" is a run that seems interrupted, "stopped" one that has ended before its last step.
        step: the last that was logged, or of the last checkpoint; 0 before the first.
        total: number of steps; None where the number of epochs decides it.
        seconds_per_step: None where it is not known yet.
        last_sign: when the run last wrote a file, in seconds since 1970.
    """

    state: Literal["starting", "training", "silent", "stopped", "finished"]
    step: int
    total: int | None
    seconds_per_step: float | None
    last_sign: float

    @property
    def share(self) -> float | None:
        """Of the steps that are done, in [0, 1]."""
        return None if self.total is None else min(1.0, self.step / self.total)

    @property
    def seconds_left(self) -> float | None:
        """Until the last step, at the present pace; None where it is not known, or the run is not training."""
        if self.state != "training" or self.total is None or self.seconds_per_step is None:
            return None
        return max(0, self.total - self.step) * self.seconds_per_step


def progress_of(record: RunRecord, lines: Sequence[dict], now: float, first_seen: FirstSeen) -> Progress:
    """The progress of a run.

    Args:
        record: of the run.
        lines: of its metrics.jsonl.
        now: seconds since 1970.
        first_seen: by which the pace is known before the first checkpoint; the same in every call.
    """
    folder, settings = record.folder, record.settings
    log, whole = folder / "metrics.jsonl", checkpoints(folder)
    step = max(lines[-1]["step"] if lines else 0, step_of(whole[-1]) if whole else 0)
    pace = _pace(folder, whole, step, log, first_seen)
    total = settings.get("max_train_steps")
    signs = [folder, log, folder / "samples", *(path / STATE_FILE for path in whole[-1:])]
    last_sign = max(path.stat().st_mtime for path in signs if path.exists())
    if record.finished_step is not None and record.finished_step >= step:
        state, total = "finished", record.finished_step
    elif total is not None and step >= total:
        state = "finished"  # of a version that did not record it
    elif _stopped(whole, log, settings.get("checkpointing_steps")):
        state = "stopped"
    elif now - last_sign > max(QUIET, LINES * (pace or 0) * settings.get("logging_steps", 1)):
        state = "silent"
    else:
        state = "training" if lines else "starting"
    return Progress(state=state, step=step, total=total, seconds_per_step=pace, last_sign=last_sign)


def _pace(folder: Path, whole: list[Path], step: int, log: Path, first_seen: FirstSeen) -> float | None:
    """Seconds per step: the mean up to the last checkpoint, which knows of interruptions, or else of what was seen."""
    if whole:
        state = read_state(whole[-1])
        if state.get("seconds"):
            return state["seconds"] / state["step"]
    if not log.exists():
        return None
    logged = log.stat().st_mtime
    if first_seen.get(folder, (step + 1, 0.0))[0] > step:  # not seen yet, or begun again
        first_seen[folder] = (step, logged)
    first, then = first_seen[folder]
    return (logged - then) / (step - first) if step > first else None


def _stopped(whole: list[Path], log: Path, every: int | None) -> bool:
    """Whether the last thing a run did was the checkpoint that Ctrl-C or SIGTERM makes it write."""
    if not whole or not every or step_of(whole[-1]) % every == 0:
        return False
    return not log.exists() or (whole[-1] / STATE_FILE).stat().st_mtime >= log.stat().st_mtime
