"""What other stages have found about the very images, or the very weights, that are to be published."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from dermgen import stages


@dataclass
class Evidence:
    """Results that are about what is published, and why others were left out.

    Several audits are one: a copy is what any of them calls so, and they have compared with what any of them has.
    `audit` is the one with the most copies, whose figures a card tells, with the folder that it lies in.
    """

    audit: dict | None = None
    audit_folder: Path | None = None
    audits: list[dict] = field(default_factory=list)
    scores: list[dict] = field(default_factory=list)
    studies: list[dict] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    real_folders: list[str] = field(default_factory=list)

    @property
    def compared(self) -> frozenset[str]:
        """SHA-256 of the real images that the audits compared with."""
        return frozenset(h for audit in self.audits for h in audit["train"])

    @property
    def copied(self) -> frozenset[str]:
        """SHA-256 of the images that are copies."""
        return frozenset(h for audit in self.audits for h in audit["copied"])

    @property
    def unknown_sources(self) -> frozenset[str]:
        """Ids of photographs that images were drawn over and that no audit knows."""
        sets = [set(audit["unknown_sources"]) for audit in self.audits]
        return frozenset(set.intersection(*sets)) if sets else frozenset()

    @property
    def leaky(self) -> bool:
        """Whether any of it was measured on data that was split by image."""
        return any(found["leaky"] for found in (*([self.audit] if self.audit else []), *self.scores, *self.studies))


def gather(folders: Sequence[str | Path], hashes: frozenset[str] | None = None, model: str | None = None) -> Evidence:
    """The results in `folders` that are about certain images, or about any images of certain weights.

    Args:
        folders: of stages, or that hold such.
        hashes: SHA-256 of the images that are published.
        model: SHA-256 of the weights that are published.

    Raises:
        InputError: if a folder is missing.
    """
    found = Evidence()
    audits: list[tuple[dict, Path]] = []
    for folder in stages.find(folders):
        for stage in stages.of(folder):
            if stage not in ("audit", "scores", "study"):
                continue
            result = json.loads((folder / stages.RESULTS[stage]).read_text())
            reason = _mismatch(stage, result, hashes, model)
            if reason:
                found.left_out.append(f"{folder} ({stage}): {reason}")
            elif stage == "audit":
                audits.append((result, folder))
            else:
                {"scores": found.scores, "study": found.studies}[stage].append(result)
    if audits:
        # One that has not seen all of it says nothing of the rest: it counts only where there is no other.
        whole = [pair for pair in audits if hashes is None or hashes <= set(pair[0]["images"]["sha256"])]
        audits = whole or [max(audits, key=lambda pair: len(hashes & set(pair[0]["images"]["sha256"])))]
        found.audits = [audit for audit, _ in audits]
        found.audit, found.audit_folder = max(audits, key=lambda pair: (pair[0]["copies"] / pair[0]["n"], pair[0]["n"]))
        settings = [yaml.safe_load((folder / "config.yaml").read_text()) for _, folder in audits]
        found.real_folders = sorted({of["real"] for of in settings})
    return found


def copies_among(evidence: Evidence, hashes: Collection[str] | None) -> tuple[int, int]:
    """Copies, and images, of those that are published; of the audit with the most copies where `hashes` is None."""
    if hashes is None:
        return evidence.audit["copies"], evidence.audit["n"]
    return len(set(hashes) & evidence.copied), len(set(hashes))


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
