"""Train, validation and test splits that keep groups (lesions, patients, near-duplicates) whole."""

from collections.abc import Hashable, Sequence

import numpy as np
import pandas as pd


def join_groups(*keys: Sequence[Hashable], pairs: Sequence[tuple[int, int]] = ()) -> np.ndarray:
    """Connected components of images that share a value in any key, or are a pair.

    Args:
        keys: each with one value per image, as lesion ids or patient ids; "" is unknown and joins nothing.
        pairs: indices of images to be joined besides.

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
    """Give each group to one split, so that every class comes close to the asked fractions.

    Groups are dealt from the rarest class to the commonest, shuffled within a class with the largest first, each to the
    split whose share of the class is furthest behind.

    Args:
        labels: one class per image.
        groups: one group number per image.
        fractions: split name to fraction; they sum to 1.
        seed: of the shuffle.

    Returns:
        (N,) split names.
    """
    table = pd.DataFrame({"label": list(labels), "group": list(groups)})
    sizes = table.groupby("label").size().sort_values(kind="stable")
    counts = table.groupby(["group", "label"]).size().unstack(fill_value=0)[sizes.index]
    names, targets = list(fractions), np.array(list(fractions.values()))
    have = {name: np.zeros(len(sizes)) for name in names}
    shuffled = counts.iloc[np.random.default_rng(seed).permutation(len(counts))]
    of_group = {}
    for c, label in enumerate(sizes.index):
        mine = shuffled[shuffled[label] > 0]
        mine = mine[~mine.index.isin(of_group)]
        for group, row in mine.iloc[np.argsort(-mine.sum(axis=1).to_numpy(), kind="stable")].iterrows():
            behind = [t * sizes[label] - have[name][c] for name, t in zip(names, targets, strict=True)]
            name = names[int(np.argmax(behind))]
            of_group[group] = name
            have[name] += row.to_numpy()
    return np.array([of_group[g] for g in table["group"]])


def crossing_groups(splits: Sequence[str], groups: Sequence[int]) -> int:
    """How many groups have images in more than one split."""
    return int((pd.Series(list(splits)).groupby(list(groups)).nunique() > 1).sum())
