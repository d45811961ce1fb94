"""Random subsets of images: by seed, lesion by lesion, spread over classes, whatever the order of the table."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

Spread = Literal["shares", "turns", "each"]


def subset(table: "pd.DataFrame", number: int, seed: int, spread: Spread = "shares") -> "pd.DataFrame":
    """Some rows of a manifest, in the table's order; arguments as in `choose`."""
    return table.iloc[choose(table["image_id"], number, seed, table["lesion_id"], table["dx"], spread)]


def choose(
    ids: Sequence[str],
    number: int,
    seed: int,
    lesions: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    spread: Spread = "shares",
) -> np.ndarray:
    """The images of a random subset: in each class, one image per lesion before second images of any.

    The same images in any order give the same subset for the same seed, and a larger subset contains a smaller one.

    Args:
        ids: of the images.
        number: of images, or all if there are fewer; with "each" the number per class.
        seed: of the choice.
        lesions: an id for each image, "" if unknown.
        classes: of the images.
        spread: classes keep their shares, take turns until exhausted, or have `number` images each.

    Returns:
        Positions in ascending order.
    """
    ids = np.asarray(ids, str)
    lesions = np.full(len(ids), "") if lesions is None else np.asarray(lesions, str)
    classes = np.full(len(ids), "") if classes is None else np.asarray(classes, str)
    order = np.argsort(ids, kind="stable")[np.random.default_rng(seed).permutation(len(ids))]
    # The prefix keeps an image of unknown lesion apart from a lesion of that name.
    lesions = np.where(lesions == "", np.char.add("image ", ids), np.char.add("lesion ", lesions))
    order = order[np.argsort(_turns(lesions[order]), kind="stable")]
    turns = _turns(classes[order])
    if spread == "each":
        return np.sort(order[turns < number])
    key = turns
    if spread == "shares":
        _, codes, sizes = np.unique(classes[order], return_inverse=True, return_counts=True)
        key = (turns + 0.5) / sizes[codes]
    return np.sort(order[np.argsort(key, kind="stable")][:number])


def _turns(values: np.ndarray) -> np.ndarray:
    """How often each value has occurred before its position."""
    codes = np.unique(values, return_inverse=True)[1]
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], codes[order])
    turns = np.empty(len(codes), int)
    turns[order] = np.arange(len(codes)) - starts
    return turns
