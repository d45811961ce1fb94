"""Train, validation and test splits that keep groups (lesions, patients, near-duplicates) whole."""

from collections.abc import Hashable, Sequence

import numpy as np
import pandas as pd

from dermgen.blocks import counted
from dermgen.config import InputError


def join_groups(*keys: Sequence[Hashable], pairs: Sequence[tuple[int, int]] = ()) -> np.ndarray:
    """Connected components of images that share a value in any key, or are a pair.

    Args:
        keys: each with one value per image, such as lesion ids or patient ids; "" is unknown and joins nothing.
        pairs: indices of further images to join.

    Returns:
        (N,) int64 group numbers, 0, 1, … in order of first appearance.
    """
    size = len(keys[0])
    parent = list(range(size))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for key in keys:
        first: dict[Hashable, int] = {}
        for i, value in enumerate(key):
            if value != "":
                parent[root(i)] = root(first.setdefault(value, i))
    for i, j in pairs:
        parent[root(i)] = root(j)
    return pd.factorize(np.array([root(i) for i in range(size)]))[0]


def split_groups(labels: Sequence[str], groups: Sequence[int], fractions: dict[str, float], seed: int) -> np.ndarray:
    """Assign each group to one split, so that splits differ by chance only and every class is close to its fractions.

    Groups are assigned from the rarest class to the most common, shuffled within a class with the largest first. Each
    goes to the split that has, relative to its size, least of what the group holds: images of each class, and groups.
    By absolute numbers the largest split would lack most for a long time and take all large groups before the others.

    Args:
        labels: one class per image.
        groups: one group number per image.
        fractions: split name to fraction; they sum to 1.
        seed: of the shuffle and of ties.

    Returns:
        (N,) split names.
    """
    table = pd.DataFrame({"label": list(labels), "group": list(groups)})
    sizes = table.groupby("label").size().sort_values(kind="stable")
    counts = table.groupby(["group", "label"]).size().unstack(fill_value=0)[sizes.index]
    rng = np.random.default_rng(seed)
    counts = counts.iloc[rng.permutation(len(counts))]
    images = counts.to_numpy()
    order = np.lexsort((-images.sum(axis=1), images.astype(bool).argmax(axis=1)))  # by rarest class, then by size
    holds = np.column_stack([images / images.sum(axis=0), np.full(len(images), 1 / len(images))])
    names = [name for name, fraction in fractions.items() if fraction > 0]
    parts = np.array([fractions[name] for name in names])[:, None]
    have = np.zeros((len(names), holds.shape[1]))
    of_group = {}
    for i in order:
        # Webster's method of apportionment: half of the new group counts, which favours neither large nor small splits.
        filled = ((have + holds[i] / 2) / parts) @ holds[i]
        chosen = rng.choice(np.flatnonzero(filled <= filled.min() + 1e-12))
        have[chosen] += holds[i]
        of_group[counts.index[i]] = names[chosen]
    return np.array([of_group[g] for g in table["group"]])


def check_shares(
    splits: Sequence[str], groups: Sequence[int], fractions: dict[str, float], taken: Sequence[str] = ()
) -> None:
    """Refuse a split with less than half or more than twice its requested share.

    Args:
        splits: one name per image.
        groups: one group number per image.
        fractions: split name to fraction.
        taken: sentences about the columns that the groups come from.

    Raises:
        InputError: naming the split, and the largest group, which is usually the reason.
    """
    shares = pd.Series(list(splits)).value_counts(normalize=True)
    for name, requested in fractions.items():
        share = shares.get(name, 0.0)
        if requested and not requested / 2 <= share <= requested * 2:
            sizes = pd.Series(list(groups)).value_counts()
            columns = f" ({'; '.join(taken)})" if taken else ""
            raise InputError(
                f"the split {name} would hold {share:.1%} of {counted(len(splits), 'image')} instead of "
                f"{requested:.0%}: they are {counted(len(sizes), 'group')} of lesions, patients and near-duplicates, "
                f"the largest with {counted(sizes.iloc[0], 'image')}; check the ids{columns}, add images, or request "
                "other fractions with --split"
            )


def crossing_groups(splits: Sequence[str], groups: Sequence[int]) -> int:
    """The number of groups with images in more than one split."""
    return int((pd.Series(list(splits)).groupby(list(groups)).nunique() > 1).sum())
