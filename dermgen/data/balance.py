"""Whether splits are alike: their largest difference in each known column, and whether chance explains it."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from dermgen.data.manifest import SPLITS

COLUMNS = "dx_type localization sex age source".split()
AGES = {"under 20": 0, "20 to 39": 20, "40 to 59": 40, "60 to 79": 60, "80 and over": 80}
PERMUTATIONS = 999
# After Holm's correction over all columns: one fair split in a hundred gets the warning.
ALARM = 0.01


def compare(table: pd.DataFrame, groups: Sequence[int], seed: int) -> list[dict]:
    """How the splits of a table differ, compared with chance.

    Chance means whole groups permuted between the splits, within classes: images of one lesion are alike, so a test
    that counted them one by one would find differences that do not exist. The statistic of a column is Pearson's
    chi-squared of images against splits, that of the groups' size the variance between splits.

    Args:
        table: of a manifest, with `split`.
        groups: one group number per image; a group in several splits counts as a separate group in each.
        seed: of the permutations.

    Returns:
        An entry for "images a group", then one for each known column with at least two values: `column`, `value` (the
        one that differs most), `splits` (its share of each split's images, or the images a group), `difference`
        (largest less smallest), `p`, and `p_holm`, corrected for the number of entries.
    """
    from dermgen.statistics import holm  # SciPy costs each worker of `dermgen prepare`, which imports this, a second

    names = [name for name in SPLITS if (table["split"] == name).any()]
    groups = pd.factorize(pd.Series(list(groups), table.index).astype(str) + " " + table["split"])[0]
    numbers, first = np.unique(groups, return_index=True)
    split = pd.Categorical(table["split"].iloc[first], names).codes
    stratum = np.unique(_rarest_class(table["dx"], groups), return_inverse=True)[1]
    known = {c: pd.get_dummies(_values(table, c), dtype=int) for c in COLUMNS if c in table}
    known = {c: values for c, values in known.items() if values.shape[1] > 1}
    blocks = [np.ones((len(table), 1), int), *(values.to_numpy() for values in known.values())]
    holds = np.zeros((len(numbers), sum(block.shape[1] for block in blocks)))
    np.add.at(holds, np.searchsorted(numbers, groups), np.concatenate(blocks, axis=1))
    ends = np.cumsum([block.shape[1] for block in blocks])[:-1]
    per_split = np.bincount(split, minlength=len(names))

    def count(splits: np.ndarray) -> list[np.ndarray]:
        """The contents of (P, G) splits of the groups: for each block (P, splits, values)."""
        return np.split(np.stack([(splits == k) @ holds for k in range(len(names))], axis=1), ends, axis=2)

    p = _permutation_p(split, stratum, lambda splits: _unlikeness(count(splits), per_split), seed)
    counts = count(split[None])
    sums = [part[0] for part in counts]
    by_split = [("images a group", "", sums[0][:, 0] / per_split)]
    for (column, values), part in zip(known.items(), sums[1:], strict=True):
        shares = part / sums[0]
        most = int(np.ptp(shares, axis=0).argmax())
        by_split.append((column, values.columns[most], shares[:, most]))
    return [
        {
            "column": column,
            "value": value,
            "splits": dict(zip(names, map(float, numbers), strict=True)),
            "difference": float(np.ptp(numbers)),
            "p": float(alone),
            "p_holm": corrected,
        }
        for (column, value, numbers), alone, corrected in zip(by_split, p, holm(p), strict=True)
    ]


def _unlikeness(counts: list[np.ndarray], per_split: np.ndarray) -> np.ndarray:
    """How unlike the splits are, (P, columns): variance of the groups' size, then chi-squared of each column.

    Args:
        counts: images, (P, splits, 1), then images of each value of a column, (P, splits, values).
        per_split: groups in each split.
    """
    images, *of_columns = counts
    total = images[0].sum()
    size = (per_split * (images[..., 0] / per_split - total / per_split.sum()) ** 2).sum(axis=1)
    expected = [images * part.sum(axis=1, keepdims=True) / total for part in of_columns]
    chi2 = [((part - e) ** 2 / e).sum(axis=(1, 2)) for part, e in zip(of_columns, expected, strict=True)]
    return np.stack([size, *chi2], axis=1)


def _permutation_p(
    split: np.ndarray, stratum: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], seed: int
) -> np.ndarray:
    """P-value of each column of `statistic`: how often a permutation within strata gives at least as large a value.

    Args:
        split: (G,) of each group.
        stratum: (G,) whole numbers.
        statistic: of (P, G) splits, (P, columns).
        seed: of the permutations.
    """
    rng, within, at_once = np.random.default_rng(seed), np.argsort(stratum, kind="stable"), 2**20 // len(split) + 1
    observed, as_unlike = statistic(split[None]) * (1 - 1e-9), 1  # equal ones may differ by rounding
    for start in range(0, PERMUTATIONS, at_once):
        order = rng.random((min(at_once, PERMUTATIONS - start), len(split)))
        permuted = np.empty(order.shape, split.dtype)
        permuted[:, within] = split[np.argsort(order + stratum, axis=1)]
        as_unlike = as_unlike + (statistic(permuted) >= observed).sum(axis=0)
    return as_unlike / (1 + PERMUTATIONS)


def unlike(differences: Sequence[dict]) -> list[str]:
    """The columns in which the splits differ by more than chance explains."""
    return [d["column"] for d in differences if d["p_holm"] < ALARM]


def warning(differences: Sequence[dict]) -> str | None:
    """A warning if the splits differ by more than chance explains, else None."""
    columns = unlike(differences)
    if not columns:
        return None
    return f"the splits differ by more than chance explains in {', '.join(columns)}: scores on them are misleading"


def _rarest_class(dx: pd.Series, groups: Sequence[int]) -> np.ndarray:
    """The rarest class of each group."""
    number = dx.map(dx.value_counts()).to_numpy()
    order = np.lexsort((dx.to_numpy(str), number, groups))
    return dx.to_numpy(str)[order][np.unique(np.asarray(groups)[order], return_index=True)[1]]


def _values(table: pd.DataFrame, column: str) -> pd.Series:
    """The column's values, with ages in bands and "unknown" for blanks."""
    values = table[column]
    if column == "age":
        bands = pd.cut(values, [*AGES.values(), np.inf], right=False, labels=list(AGES)).astype(object)
        values = bands.where(values.notna(), "")
    return values.replace("", "unknown")
