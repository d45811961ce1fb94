"""The runs and sets that a page shows, read anew as they change: their names, records, logs and sample grids."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dermgen import stages
from dermgen.app import folders
from dermgen.app.progress import FirstSeen, Progress, progress_of
from dermgen.training import metrics_log
from dermgen.training.run_record import RunRecord

SETS = {
    "data": "Real images",
    "generated": "Generated images",
    "scores": "Scores",
    "audit": "Audit",
    "filter": "Filtered images",
    "classifier": "Classifier",
    "study": "Study",
}


@dataclass(frozen=True)
class WatchedRun:
    """A run as it is now; `lines` are those of its metrics.jsonl, `grids` its sample grids, oldest first."""

    record: RunRecord
    lines: Sequence[dict]
    progress: Progress

    @property
    def grids(self) -> list[Path]:
        numbered = [p for p in (self.record.folder / "samples").glob("step-*.png") if step_of(p) is not None]
        return sorted(numbered, key=step_of)


class Watched:
    """The folders inside the places given.

    Raises:
        InputError: if there is no run and no set in them.
    """

    def __init__(self, places: Sequence[str]):
        self.places = list(places)
        self._read: dict[Path, tuple[list[int], RunRecord, list[dict]]] = {}
        self._first_seen: FirstSeen = {}
        if not self.folders():
            raise folders.nothing_in(places)

    def folders(self) -> list[Path]:
        """Those of runs and sets at present."""
        return folders.find(self.places, lambda folder: bool(stages.of(folder)) or _is_begun(folder))

    def names(self) -> dict[str, Path]:
        """The folders by name: the path inside its place, with the place where there are several."""
        names = {}
        for folder in self.folders():
            place = next(Path(p) for p in self.places if folder.is_relative_to(p))
            inside = folder.relative_to(place if len(self.places) == 1 else place.parent)
            names[str(inside) if inside.parts else folder.resolve().name] = folder
        return names

    def run(self, folder: Path) -> WatchedRun | None:
        """The run in a folder; None for a set."""
        if not is_run(folder):
            return None
        files = (folder / name for name in ("config.yaml", "provenance.json", "metrics.jsonl"))
        changed = [path.stat().st_mtime_ns for path in files if path.exists()]
        if self._read.get(folder, [None])[0] != changed:
            self._read[folder] = (changed, RunRecord.read(folder), metrics_log.read(folder / "metrics.jsonl"))
        _, record, lines = self._read[folder]
        return WatchedRun(record, lines, progress_of(record, lines, time.time(), self._first_seen))

    def newest(self) -> Path:
        """The folder to show first: the run that was last active, a run in progress before others."""
        runs = {folder: run.progress for folder in self.folders() if (run := self.run(folder))}
        active = [folder for folder, progress in runs.items() if progress.state in ("starting", "training")]
        return max(active or runs, key=lambda folder: runs[folder].last_sign, default=self.folders()[0])


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run, begun or finished."""
    return (folder / "metrics.jsonl").exists() or _is_begun(folder)


def step_of(grid: Path) -> int | None:
    """The step of a sample grid by its name; None for another picture."""
    number = grid.stem.removeprefix("step-")
    return int(number) if number.isdigit() else None


def _is_begun(folder: Path) -> bool:
    """Whether a run has begun there and has logged nothing yet: the folder of a model has the record of its end."""
    if not RunRecord.is_one(folder):
        return False
    record = RunRecord.read(folder)
    return record.run is not None and record.finished_step is None
