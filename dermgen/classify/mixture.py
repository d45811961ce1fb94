"""The training images of a classifier: real and synthetic ones in some proportion, rare classes repeated or not."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dermgen.blocks import counted
from dermgen.config import InputError
from dermgen.data import manifest

if TYPE_CHECKING:
    import pandas as pd


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
    """The rows that a classifier trains on; a repeated image has several rows.

    Args:
        real: the training split.
        synthetic: images that may be added; None adds none.
        use_real: include the real images; otherwise they only define the classes.
        ratio: synthetic images per real one, in each of `synthetic_classes`; None takes all of them.
        synthetic_classes: classes that get synthetic images; None means all of the synthetic set.
        only_kept: take only synthetic images that the quality filter kept.
        oversample: repeat the images of each class until it is as large as the largest.
        seed: of the choice of synthetic images and of repeats; with the same seed, the images of a smaller ratio are
            among those of a larger one.

    Raises:
        InputError: if there are too few synthetic images, or a class has no images.
    """
    import pandas as pd

    rng = np.random.default_rng(seed)
    parts = [real] if use_real else []
    if synthetic is not None:
        parts.append(choose(real, synthetic, ratio, synthetic_classes, only_kept, rng))
    rows = pd.concat(parts, ignore_index=True)
    missing = sorted(set(real["dx"]) - set(rows["dx"]))
    if missing:
        raise InputError(
            f"no training image of {', '.join(missing)}: the synthetic set must have every class, or add real images"
        )
    if oversample:
        largest = rows["dx"].value_counts().max()
        parts = []
        for _, part in rows.groupby("dx"):
            whole, rest = divmod(largest, len(part))
            parts += [part] * whole + [part.iloc[rng.permutation(len(part))[:rest]]]
        rows = pd.concat(parts, ignore_index=True)
    return rows


def choose(
    real: "pd.DataFrame",
    synthetic: "pd.DataFrame",
    ratio: float | None,
    classes: Sequence[str] | None,
    only_kept: bool,
    rng: np.random.Generator,
) -> "pd.DataFrame":
    """The synthetic images that are added; arguments and errors as in `training_rows`."""
    if only_kept:
        if "kept" not in synthetic.columns:
            raise InputError("the synthetic set has no column `kept`: make one with `dermgen filter`")
        synthetic = manifest.kept(synthetic, "the synthetic set")
    unknown = sorted(set(synthetic["dx"]) - set(real["dx"]))
    if unknown:
        raise InputError(f"the synthetic set has classes that the real one lacks: {', '.join(map(repr, unknown))}")
    known = sorted(set(synthetic["dx"]))
    if classes is not None and (absent := sorted(set(classes) - set(known))):
        raise InputError(f"the synthetic set has no images of {', '.join(absent)}; it has {', '.join(known) or 'none'}")
    parts = []
    for code in sorted(classes or known):
        available = synthetic[synthetic["dx"] == code]
        needed = len(available) if ratio is None else round(ratio * int((real["dx"] == code).sum()))
        if needed > len(available):
            raise InputError(
                f"{code} needs {counted(needed, 'synthetic image')} ({ratio:g} per real one), but "
                f"{'the filter kept' if only_kept else 'the set has'} {len(available)}: generate more, or use a "
                "smaller ratio"
            )
        parts.append(available.iloc[rng.permutation(len(available))[:needed]])
    import pandas as pd

    return pd.concat(parts, ignore_index=True)
