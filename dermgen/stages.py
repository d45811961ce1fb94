"""Which stage wrote a folder: told by the files in it."""

from collections.abc import Sequence
from pathlib import Path

from dermgen.config import InputError

# In the order of the work.
RESULTS = {
    "data": "prepare.json",
    "scores": "evaluation.json",
    "audit": "audit.json",
    "filter": "filter.json",
    "classifier": "results.json",
    "study": "study.json",
}


def of(folder: Path) -> list[str]:
    """The stages whose results a folder has: of `RESULTS`, else "training" or "generated"; none for other folders."""
    found = [stage for stage, name in RESULTS.items() if (folder / name).exists()]
    if not found and (folder / "metrics.jsonl").exists():
        return ["training"]
    if not found and (folder / "metadata.csv").exists():
        return ["generated"]
    return found


def find(folders: Sequence[str | Path], leave_out: Path | None = None) -> list[Path]:
    """Folders of stages: those given, or those inside of them.

    Raises:
        InputError: if one is missing.
    """
    found: list[Path] = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise InputError(f"no such folder: {folder}")
        inside = [p for p in sorted(folder.iterdir()) if p.is_dir()]
        chosen = [folder] if of(folder) else [p for p in inside if of(p)]
        found += [p for p in chosen if p not in found and (leave_out is None or p.resolve() != leave_out.resolve())]
    return found
