"""What other stages have found about the very images, or the very weights, that are to be published."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dermgen import stages


@dataclass
class Evidence:
    """Results that are about what is published, and why others were left out."""

    audit: dict | None = None
    audit_folder: Path | None = None
    scores: list[dict] = field(default_factory=list)
    studies: list[dict] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def gather(folders: Sequence[str | Path], hashes: frozenset[str] | None = None, model: str | None = None) -> Evidence:
    """The results in `folders` that are about certain images, or about any images of certain weights.

    An audit is taken if it looked at some of the images: which it missed is a gate's business. Scores and studies
    must be of all of them.

    Args:
        folders: of stages, or that hold such.
        hashes: SHA-256 of the images that are published.
        model: SHA-256 of the weights that are published; an audit of more of their images beats one of fewer.

    Raises:
        InputError: if a folder is missing.
    """
    found = Evidence()
    for folder in stages.find(folders):
        for stage in stages.of(folder):
            if stage not in ("audit", "scores", "study"):
                continue
            result = json.loads((folder / stages.RESULTS[stage]).read_text())
            reason = _mismatch(stage, result, hashes, model)
            if reason:
                found.left_out.append(f"{folder} ({stage}): {reason}")
            elif stage == "audit":
                if found.audit is None or result["n"] > found.audit["n"]:
                    found.audit, found.audit_folder = result, folder
            else:
                {"scores": found.scores, "study": found.studies}[stage].append(result)
    return found


def _mismatch(stage: str, result: dict, hashes: frozenset[str] | None, model: str | None) -> str | None:
    """Why a result says nothing of what is published; None if it does."""
    about = result.get("images")
    if about is None:
        return "it does not say of which images it is; run that command again"
    if model is not None:
        return None if about["models"] == [model] else "its images were drawn by other weights"
    shared = hashes & set(about["sha256"])
    if stage == "audit":
        return None if shared else "it is of other images"
    return None if shared == hashes else f"it is of {len(shared)} of the {len(hashes)} images that are published"
