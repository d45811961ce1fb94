"""The verdict of an audit: whether chance explains the number of copies."""

from scipy import stats

from dermgen.results.audit import CANNOT_TELL, FAILED, PASSED
from dermgen.statistics import LEVEL

RARE = (1 - LEVEL) / 2


def chance_of_alarms(quantile: float, images: int, lesions: int):
    """The distribution (a frozen one of scipy) of the share of honest images that are called copies.

    The threshold is the j-th smallest distance of n independent held-out images; the share of new images of the same
    kind below it has the distribution Beta(j, n + 1 - j). With few held-out images that share is often large.

    Args:
        quantile: that sets the threshold.
        images: held-out images.
        lesions: held-out lesions or patients, the independent observations.
    """
    order = 1 + int(quantile * (images - 1))
    order = max(1, order * lesions / images)
    return stats.beta(order, lesions + 1 - order)


def judge(copies: int, certain: int, n: int, chance, accepted: float) -> str:
    """The verdict on an audit: "passed", "failed" or "cannot tell".

    Up to the accepted share of copies an audit passes. Above it, it fails if honest images would reach that number in
    less than 2.5 % of audits, or if more than the accepted share are certain copies; otherwise chance may explain them.

    Args:
        copies: images below the threshold.
        certain: copies nearer than any honest image can be: the same file, or practically the same picture.
        n: number of images.
        chance: of false alarms, from `chance_of_alarms`.
        accepted: share of copies that passes.
    """
    if copies <= accepted * n:
        return PASSED
    by_chance = float(stats.betabinom.sf(copies - 1, n, *chance.args))
    return FAILED if by_chance < RARE or certain > accepted * n else CANNOT_TELL
