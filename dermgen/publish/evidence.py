"""Results of other stages about exactly those images, or those weights, that are to be published."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dermgen import stages
from dermgen.config import InputError
from dermgen.job import saved_settings
from dermgen.results.audit import Audit
from dermgen.results.common import read
from dermgen.results.evaluation import Evaluation
from dermgen.results.study import Study


@dataclass
class Evidence:
    """Results about what is published, and the reasons why others were left out.

    Several audits count as one: an image is a copy if any of them says so, and was compared with the real images of all
    of them. `audit` is the one with the largest share of copies, which a card reports, and `audit_folder` its folder.
    """

    audit: Audit | None = None
    audit_folder: Path | None = None
    audits: list[Audit] = field(default_factory=list)
    scores: list[Evaluation] = field(default_factory=list)
    studies: list[Study] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    real_folders: list[str] = field(default_factory=list)

    @property
    def compared(self) -> frozenset[str]:
        """SHA-256 of the real images that the audits compared with."""
        return frozenset(h for audit in self.audits for h in audit.train)

    @property
    def copied(self) -> frozenset[str]:
        """SHA-256 of the images that are copies."""
        return frozenset(h for audit in self.audits for h in audit.copied)

    @property
    def unknown_sources(self) -> frozenset[str]:
        """Ids of photographs that images were made from and that no audit compared with."""
        sets = [set(audit.unknown_sources) for audit in self.audits]
        return frozenset(set.intersection(*sets)) if sets else frozenset()

    @property
    def leaky(self) -> bool:
        """Whether any result was measured on data that was split by image."""
        return any(r.leaky for r in (*([self.audit] if self.audit else []), *self.scores, *self.studies))


def gather(folders: Sequence[str | Path], hashes: frozenset[str] | None = None, model: str | None = None) -> Evidence:
    """The results in `folders` that are about certain images, or about any images of certain weights.

    Args:
        folders: result folders of stages, or folders that contain them.
        hashes: SHA-256 of the images that are published.
        model: SHA-256 of the weights that are published.

    Raises:
        InputError: if a folder is missing.
    """
    evidence = Evidence()
    audits: list[tuple[Audit, Path]] = []
    for folder in stages.find(folders):
        for stage in stages.of(folder):
            if stage not in ("audit", "scores", "study"):
                continue
            try:
                result = read(stages.RESULTS[stage], folder)
            except InputError as error:
                evidence.left_out.append(str(error))
                continue
            reason = _mismatch(result, hashes, model)
            if reason:
                evidence.left_out.append(f"{folder} ({stage}): {reason}")
            elif isinstance(result, Audit):
                audits.append((result, folder))
            else:
                (evidence.scores if isinstance(result, Evaluation) else evidence.studies).append(result)
    if audits:
        # An audit of some of the images says nothing about the rest: it counts only if there is no other.
        whole = [pair for pair in audits if hashes is None or hashes <= set(pair[0].images.sha256)]
        audits = whole or [max(audits, key=lambda pair: len(hashes & set(pair[0].images.sha256)))]
        evidence.audits = [audit for audit, _ in audits]
        evidence.audit, evidence.audit_folder = max(audits, key=lambda pair: (pair[0].copies / pair[0].n, pair[0].n))
        evidence.real_folders = sorted({saved_settings(folder)["real"] for _, folder in audits})
    return evidence


def copies_among(evidence: Evidence, hashes: Collection[str] | None) -> tuple[int, int]:
    """Copies and images among those that are published; those of `evidence.audit` if `hashes` is None."""
    if hashes is None:
        return evidence.audit.copies, evidence.audit.n
    return len(set(hashes) & evidence.copied), len(set(hashes))


def _mismatch(result: Audit | Evaluation | Study, hashes: frozenset[str] | None, model: str | None) -> str | None:
    """Why a result is not about what is published; None if it is."""
    if result.images is None:
        return "it does not record its images; run that command again"
    if model is not None:
        return None if result.images.models == [model] else "its images were generated with other weights"
    shared = hashes & set(result.images.sha256)
    if isinstance(result, Audit):
        return None if shared else "it is about other images"
    return None if shared == hashes else f"it covers {len(shared)} of the {len(hashes)} published images"
