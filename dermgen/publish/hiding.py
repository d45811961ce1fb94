"""Ids of photographs and patients: which may be published, and which are looked for in what is sent."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dermgen.data import manifest
from dermgen.data.origins import Origin, origin
from dermgen.data.set_facts import SetFacts
from dermgen.publish.evidence import Evidence
from dermgen.publish.privacy import without_paths


def without_private(rows: pd.DataFrame, data: Sequence[SetFacts], evidence: Evidence) -> pd.DataFrame:
    """The rows without ids that may name a patient, and without paths.

    Ids of photographs stay only where all of those that the ids are of are in public collections: a clinic's may name
    a patient, and so may its file names, for which numbers stand in.

    Args:
        rows: of a manifest.
        data: facts of the images that the model was trained on, and of the real images.
        evidence: with the audits of the images.
    """
    public = _public(data)
    # The nearest image and the source are of the manifests that the audits were given.
    audited = bool(evidence.audits) and _public(audit.real_set for audit in evidence.audits)
    hidden = [] if public else ["lesion_id"]
    hidden += [] if public and audited else ["nearest_train_id"]
    hidden += [] if public and audited and not evidence.unknown_sources else ["source_image_id"]
    models = [without_paths(v) if isinstance(v, str) else "" for v in rows.get("model", [""] * len(rows))]
    rows = rows.drop(columns=[c for c in hidden if c in rows]).assign(model=models)
    if not public:
        kinds = np.where(rows["synthetic"] == "true", "synthetic", "real")
        rows = rows.assign(image_id=[f"{kind}_{i:06d}" for i, kind in enumerate(kinds)])
    return rows


def patient_ids(folders: Collection[str]) -> set[str]:
    """The patients of those of the manifests that are on this machine; a note is printed for each other one."""
    here = {folder for folder in folders if Path(folder, "metadata.csv").exists()}
    for folder in sorted(set(folders) - here):
        print(f"note: {folder} is not here, so the ids of its patients cannot be looked for in what is sent")
    return {i for folder in here for i in set(manifest.read(folder)["patient_id"]) - {""}}


def _public(data: Iterable[SetFacts]) -> bool:
    """Whether all photographs are of collections whose ids are public."""
    return all(entry.sources and Origin.OTHER not in {origin(source) for source in entry.sources} for entry in data)
