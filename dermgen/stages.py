"""Which stage wrote a folder, by the files in it."""

from collections.abc import Sequence
from pathlib import Path

from dermgen.config import InputError
from dermgen.data.prepared import Prepared
from dermgen.results.audit import Audit
from dermgen.results.classifier import ClassifierResult
from dermgen.results.common import is_one
from dermgen.results.evaluation import Evaluation
from dermgen.results.filtered import Filtered
from dermgen.results.study import Study

# In the order of the work.
RESULTS = {"scores": Evaluation, "audit": Audit, "filter": Filtered, "classifier": ClassifierResult, "study": Study}
STAGES = ("data", "training", "generated", *RESULTS)


def of(folder: Path) -> list[str]:
    """The stages of `STAGES` whose results a folder holds; "training" and "generated" only where it holds no other."""
    stages = ["data"] if Prepared.is_one(folder) else []
    stages += [stage for stage, kind in RESULTS.items() if is_one(kind, folder)]
    if not stages and (folder / "metrics.jsonl").exists():
        return ["training"]
    if not stages and (folder / "metadata.csv").exists():
        return ["generated"]
    return stages


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
