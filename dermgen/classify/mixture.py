"""Which images a classifier trains on: real ones, synthetic ones, in what proportion, rare classes repeated or not."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dermgen.config import InputError
from dermgen.data import manifest, splits

if TYPE_CHECKING:
    import pandas as pd


def read_real(folder: str | Path) -> "pd.DataFrame":
    """A manifest of real images, with `path` for each; whole lesions in each split, unless it is marked leaky.

    Raises:
        InputError: if an image is synthetic or does not say, a class is unknown, or a lesion is in two splits.
    """
    table = _with_paths(folder)
    if (table["synthetic"] != "false").any():
        bad = table.loc[table["synthetic"] != "false"].iloc[0]
        raise InputError(
            f"{folder} must hold real images only, but {bad['image_id']} has synthetic = {bad['synthetic']!r}"
        )
    if (table["dx"] == "").any():
        raise InputError(f"{folder}: {(table['dx'] == '').sum()} images have no dx, which a classifier needs")
    groups = splits.join_groups(table["lesion_id"], table["patient_id"])
    crossing = splits.crossing_groups(table["split"], groups)
    if crossing and not manifest.is_leaky(folder):
        raise InputError(
            f"{folder}: {crossing} lesions or patients are in more than one split, which makes every score worthless: "
            "split it with `dermgen prepare`"
        )
    return table


def read_synthetic(folder: str | Path) -> "pd.DataFrame":
    """A manifest of synthetic images, with `path` for each.

    Raises:
        InputError: if an image is real or does not say.
    """
    table = _with_paths(folder)
    if (table["synthetic"] != "true").any():
        bad = table.loc[table["synthetic"] != "true"].iloc[0]
        raise InputError(
            f"{folder} must hold synthetic images only, but {bad['image_id']} has synthetic = {bad['synthetic']!r}: "
            "is it the folder of a real set?"
        )
    return table


def training_rows(
    real: "pd.DataFrame",
    synthetic: "pd.DataFrame | None",
    use_real: bool = True,
    ratio: float | None = None,
    synthetic_classes: Sequence[str] | None = None,
    only_kept: bool = False,
    oversample: bool = False,
    seed: int = 0,
) -> "pd.DataFrame":
    """The rows that a classifier trains on; a row that is drawn twice as often occurs twice.

    Args:
        real: the training split.
        synthetic: what may be added; None adds nothing.
        use_real: whether the real images are in it, or only give the classes.
        ratio: synthetic images per real one, in each of `synthetic_classes`; None takes all there are.
        synthetic_classes: that get synthetic images; None means those of the synthetic set.
        only_kept: of the synthetic images take those that the quality filter kept.
        oversample: repeat the images of each class until it is as large as the largest.
        seed: of the choice of synthetic images and of repeats; of the same seed, a smaller ratio's are among a
            larger one's.

    Raises:
        InputError: if there are too few synthetic images, or a class has none at all.
    """
    import pandas as pd

    rng = np.random.default_rng(seed)
    parts = [real] if use_real else []
    if synthetic is not None:
        parts.append(_choose(real, synthetic, ratio, synthetic_classes, only_kept, rng))
    rows = pd.concat(parts, ignore_index=True)
    missing = sorted(set(real["dx"]) - set(rows["dx"]))
    if missing:
        raise InputError(f"no training image of {', '.join(missing)}: the synthetic set alone must have every class")
    if oversample:
        largest = rows["dx"].value_counts().max()
        parts = []
        for _, part in rows.groupby("dx"):
            whole, rest = divmod(largest, len(part))
            parts += [part] * whole + [part.iloc[rng.permutation(len(part))[:rest]]]
        rows = pd.concat(parts, ignore_index=True)
    return rows


def _choose(real, synthetic, ratio, classes, only_kept, rng) -> "pd.DataFrame":
    if only_kept:
        if "kept" not in synthetic.columns:
            raise InputError("the synthetic set has no column `kept`: make one with `dermgen filter`")
        synthetic = synthetic[synthetic["kept"] == "true"]
    unknown = sorted(set(synthetic["dx"]) - set(real["dx"]))
    if unknown:
        raise InputError(f"the synthetic set has classes that the real one lacks: {', '.join(map(repr, unknown))}")
    known = sorted(set(synthetic["dx"]))
    if classes is not None and (absent := sorted(set(classes) - set(known))):
        raise InputError(f"the synthetic set has no images of {', '.join(absent)}; it has {', '.join(known) or 'none'}")
    parts = []
    for code in sorted(classes or known):
        there = synthetic[synthetic["dx"] == code]
        wanted = len(there) if ratio is None else round(ratio * int((real["dx"] == code).sum()))
        if wanted > len(there):
            raise InputError(
                f"{wanted} synthetic images of {code} are needed ({ratio:g} per real one), {len(there)} exist"
                f"{' that the filter kept' if only_kept else ''}: generate more, or take a smaller ratio"
            )
        parts.append(there.iloc[rng.permutation(len(there))[:wanted]])
    import pandas as pd

    return pd.concat(parts, ignore_index=True)


def _with_paths(folder: str | Path) -> "pd.DataFrame":
    table = manifest.read(folder)
    return table.assign(path=[str(Path(folder, name)) for name in table["file_name"]])
