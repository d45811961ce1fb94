"""Intervals and tests: bootstrap over lesions and seeds, exact McNemar, Holm's correction, Wilson's interval."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95


def resampled_weights(groups: Sequence[Hashable], draws: int, seed: int) -> np.ndarray:
    """How often each image is in each bootstrap sample, whole groups drawn with replacement, (draws, N) float64.

    Images of one lesion are no independent observations, so lesions are drawn, not images.

    Args:
        groups: (N,) the lesion of each image.
        draws: bootstrap samples.
        seed: of the draw.
    """
    codes = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    count = int(codes.max()) + 1
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=draws)
    return drawn[:, codes].astype(np.float64)


def percentile_interval(values: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The middle `level` of bootstrap values."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_errors(
    influence: np.ndarray, groups: Sequence[Hashable] | None = None, draws: int = 1000, seed: int = 0
) -> np.ndarray:
    """Bootstrap draws of the error of an estimate that is a mean of per-image influences, (draws,).

    For a mean this is the ordinary bootstrap; for a smooth statistic its linear part (the infinitesimal jackknife,
    Efron 1982), which needs each image's influence once and no recomputation.

    Args:
        influence: (N,) what each image contributes beyond the mean; centred here.
        groups: (N,) images of one group are drawn together; None draws each alone.
        draws: bootstrap samples.
        seed: of the draw.
    """
    centred = np.asarray(influence, np.float64) - np.mean(influence)
    rng = np.random.default_rng(seed)
    if groups is not None:
        codes = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
        centred = np.bincount(codes, centred)
    n = len(centred)
    errors = np.empty(draws)
    for i in range(draws):
        errors[i] = centred[rng.integers(n, size=n)].sum()
    return errors / len(influence)


@dataclass(frozen=True)
class Estimate:
    """A mean over training seeds with its 95 % interval, and the p-value of its being 0."""

    value: float
    low: float
    high: float
    p: float


def mean_over_seeds(of_seeds: np.ndarray, resampled: np.ndarray) -> Estimate:
    """What a mean over few seeds says of seeds and lesions to come.

    Its variance is that over test lesions, from the bootstrap, plus that of the mean of S seeds. With 3 seeds the
    latter is itself poorly known, so t with Satterthwaite's degrees of freedom replaces the normal distribution;
    drawing seeds with replacement would find every difference real on which 3 seeds agree by chance.

    Args:
        of_seeds: (S,) the score, or the paired difference, of each seed on the whole test set.
        resampled: (B,) its mean over seeds on bootstrap samples of the test set.
    """
    value, seeds = float(np.mean(of_seeds)), len(of_seeds)
    of_lesions = float(np.var(resampled, ddof=1))
    of_training = float(np.var(of_seeds, ddof=1)) / seeds
    error = np.sqrt(of_lesions + of_training)
    if error == 0:
        return Estimate(value, value, value, 1.0 if value == 0 else 0.0)
    freedom = (of_lesions + of_training) ** 2 * (seeds - 1) / of_training**2 if of_training else np.inf
    reach = float(stats.t.ppf((1 + LEVEL) / 2, freedom) * error)
    return Estimate(value, value - reach, value + reach, float(2 * stats.t.sf(abs(value) / error, freedom)))


def mcnemar(right_a: np.ndarray, right_b: np.ndarray) -> float:
    """Exact McNemar p-value of two classifiers being right equally often on the same (N,) cases."""
    from statsmodels.stats.contingency_tables import mcnemar

    right_a, right_b = np.asarray(right_a, bool), np.asarray(right_b, bool)
    table = [[int((x & y).sum()) for y in (right_b, ~right_b)] for x in (right_a, ~right_a)]
    return float(mcnemar(table, exact=True).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979)."""
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p)
    corrected = np.empty_like(p)
    corrected[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return corrected.tolist()


def wilson(count: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(count, n, alpha=1 - LEVEL, method="wilson")
    return float(low), float(high)
