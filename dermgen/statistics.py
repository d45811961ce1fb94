"""Intervals and tests: bootstrap over lesions and seeds, exact McNemar, Holm's correction, Wilson's interval."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95


def resampled_weights(groups: Sequence[Hashable], draws: int, seed: int) -> np.ndarray:
    """How often each image is in each bootstrap sample, whole groups drawn with replacement, (draws, N) float64.

    Images of one lesion are not independent observations, so lesions are drawn, not images.

    Args:
        groups: (N,) the lesion of each image.
        draws: bootstrap samples.
        seed: of the random numbers.
    """
    codes = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    count = int(codes.max()) + 1
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=draws)
    return drawn[:, codes].astype(np.float64)


def standard_error(influence: np.ndarray, groups: Sequence[Hashable] | None = None) -> tuple[float, int]:
    """Standard error of an estimate that is a mean of per-image influences, and its number of independent observations.

    For a mean this is the ordinary standard error; for a smooth statistic that of its linear part (the infinitesimal
    jackknife, Efron 1982), which needs each image's influence once and no recomputation.

    Args:
        influence: (N,) contribution of each image; centred here.
        groups: (N,) images of one group count as one observation; None counts each image.
    """
    centred = np.asarray(influence, np.float64) - np.mean(influence)
    if groups is not None:
        codes = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
        centred = np.bincount(codes, centred)
    n = len(centred)
    if n < 2:
        return np.inf, n
    return float(np.sqrt((centred**2).sum() * n / (n - 1)) / len(influence)), n


@dataclass(frozen=True)
class Estimate:
    """A mean over training seeds with its 95 % interval, and the p-value of the hypothesis that it is 0."""

    value: float
    low: float
    high: float
    p: float


def mean_over_seeds(of_seeds: np.ndarray, of_lesions: float, freedom: float = np.inf) -> Estimate:
    """A mean over few seeds as an estimate for new seeds and new lesions.

    Its variance is that over test lesions plus that of the mean of S seeds. With 3 seeds the latter is itself poorly
    known, so t with Satterthwaite's degrees of freedom replaces the normal distribution; resampling the seeds would
    call every difference real on which 3 seeds agree by chance.

    Args:
        of_seeds: (S,) the score, or the paired difference, of each seed on the whole test set.
        of_lesions: variance of their mean over test lesions.
        freedom: degrees of freedom of that variance.
    """
    value, seeds = float(np.mean(of_seeds)), len(of_seeds)
    of_training = float(np.var(of_seeds, ddof=1)) / seeds
    error = np.sqrt(of_lesions + of_training)
    if error == 0:
        return Estimate(value, value, value, 1.0 if value == 0 else 0.0)
    uncertain = of_lesions**2 / freedom + of_training**2 / (seeds - 1)
    freedom = (of_lesions + of_training) ** 2 / uncertain if uncertain else np.inf
    reach = float(stats.t.ppf((1 + LEVEL) / 2, freedom) * error)
    return Estimate(value, value - reach, value + reach, float(2 * stats.t.sf(abs(value) / error, freedom)))


def null_variance(contributions: np.ndarray, groups: Sequence[Hashable]) -> tuple[float, float]:
    """Variance of a sum of paired differences under the hypothesis of no difference, and its degrees of freedom.

    The differences are squared without centring (as in McNemar's test), since few lesions may agree by chance: a
    bootstrap of one lesion has no variance at all. The degrees of freedom are the number of lesions that differ,
    reduced for unequal weights, so that a t-test with them approximates the exact sign test.

    Args:
        contributions: (N,) contribution of each image to the sum.
        groups: (N,) the lesion of each image.
    """
    codes = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    squares = np.bincount(codes, contributions) ** 2
    variance = float(squares.sum())
    return variance, float(variance**2 / (squares**2).sum()) if variance else np.inf


def mcnemar(right_a: np.ndarray, right_b: np.ndarray) -> float:
    """Exact McNemar p-value of the hypothesis that two classifiers are equally often right on the same (N,) cases."""
    right_a, right_b = np.asarray(right_a, bool), np.asarray(right_b, bool)
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979)."""
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p)
    corrected = np.empty_like(p)
    corrected[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return corrected.tolist()


def wilson(count: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion; for dependent cases `n` is the effective number of independent ones."""
    z = stats.norm.ppf((1 + LEVEL) / 2)
    share, extra = count / n, z**2 / n
    middle = (share + extra / 2) / (1 + extra)
    reach = z / (1 + extra) * np.sqrt(share * (1 - share) / n + extra / (4 * n))
    return max(0.0, float(middle - reach)), min(1.0, float(middle + reach))


def share_interval(share: float, error: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, for the number of cases that would give its standard error, but at most n.

    It has a width at 0 and 1 too, where the estimated error is 0.
    """
    variance = share * (1 - share)
    n = min(n, variance / error**2) if variance and error else n
    low, high = wilson(share * n, n)
    return min(low, share), max(high, share)
