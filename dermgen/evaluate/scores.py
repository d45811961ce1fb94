"""Scores of feature sets: arrays in, numbers out, each with the influence of every image, for its interval."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.special
import torch
from scipy import stats

from dermgen import statistics
from dermgen.blocks import counted
from dermgen.config import InputError
from dermgen.evaluate import products
from dermgen.settings.evaluate import MIN_IMAGES

PRECISION_K = 3  # Kynkäänniemi et al. 2019, arXiv:1904.06991
DENSITY_K = 5  # Naeem et al. 2020, arXiv:2002.09797
FID_RELIABLE = 2048


@dataclass(frozen=True)
class Score:
    """A value, and the influence of every image on it, up to a constant, from which its interval is computed."""

    value: float
    real: np.ndarray | None = None
    synthetic: np.ndarray | None = None
    bounds: tuple[float, float] = (-np.inf, np.inf)  # smallest and largest possible score
    is_share: bool = False  # of images, which is uncertain at 0 and 1 too

    def interval(self, groups: Sequence[Hashable] | None = None) -> tuple[float, float]:
        """95 % interval over new images on both sides, real ones by lesion if `groups` names the lesions.

        A share has Wilson's interval for the number of images that would give its standard error, at most that of the
        smaller side; every other score has Student's t.
        """
        sides = [
            statistics.standard_error(influence, names)
            for influence, names in ((self.real, groups), (self.synthetic, None))
            if influence is not None
        ]
        error, least = float(np.hypot.reduce([e for e, _ in sides])), min(n for _, n in sides)
        if self.is_share:
            return statistics.share_interval(self.value, error, least)
        reach = float(stats.t.ppf((1 + statistics.LEVEL) / 2, least - 1)) * error
        return max(self.bounds[0], self.value - reach), min(self.bounds[1], self.value + reach)


def compare(
    real: np.ndarray, synthetic: np.ndarray, device: torch.device | str = "cpu"
) -> tuple[dict[str, Score], products.Across]:
    """FID, KID, precision, recall, density and coverage of two feature sets, (N, D) and (M, D), from one pass.

    KID is the unbiased estimate over all images, which is what the average over subsets of any size estimates.
    Precision, recall, density and coverage count `<=` at the edge of a ball.

    An influence is what a score loses without that image. For density it is exact: the image's ball disappears, and the
    balls that it bounded grow. For the three shares balls do not grow: an image counts if it is in a ball, and a ball
    counts by the images that no other ball holds. `benchmarks/intervals.py` measures how often the intervals cover.

    Returns:
        The scores by name, and the pass, with each synthetic image's nearest real one.

    Raises:
        InputError: if a set has fewer than 7 images.
    """
    n, m = len(real), len(synthetic)
    if min(n, m) < MIN_IMAGES:
        raise InputError(f"scores need at least {MIN_IMAGES} images on each side, got {n} real and {m} synthetic")
    of_real = products.within(real, DENSITY_K + 1, device=device)
    of_synthetic = products.within(synthetic, PRECISION_K, device=device)
    both = products.across(
        real,
        synthetic,
        of_real.radius(PRECISION_K),
        of_synthetic.radius(PRECISION_K),
        of_real.radius(DENSITY_K),
        of_real.radius(DENSITY_K + 1),
        device=device,
    )
    scores = {
        "kid": _kid(of_real, of_synthetic, both, n, m),
        "fid": fid(real, synthetic),
        "precision": _share(both.in_real, n, of_real=False),
        "recall": _share(both.in_synthetic, m, of_real=True),
        "density": _density(of_real, both),
        "coverage": _share(both.covered, m, of_real=True),
    }
    return scores, both


def fid(real: np.ndarray, synthetic: np.ndarray) -> Score:
    """Fréchet distance of two feature sets, (N, D) and (M, D) (Heusel et al. 2017, arXiv:1706.08500, eq. 6).

    For sets larger than D the covariances are compared, for smaller ones the products of the images themselves, which
    give the same trace of the root of S₁S₂ as a sum of singular values without the root of a singular matrix.
    """
    if min(len(real), len(synthetic)) > real.shape[1]:
        return _fid_of_covariances(real, synthetic)
    a, mean_a = _centred(real)
    b, mean_b = _centred(synthetic)
    u, s, vt = scipy.linalg.svd(a @ b.T, full_matrices=False, check_finite=False)
    shift = mean_a - mean_b
    value = shift @ shift + (a**2).sum() + (b**2).sum() - 2 * s.sum()
    n, m = len(a), len(b)
    return Score(
        float(value),
        _fid_influence(a * np.sqrt(n - 1), shift, (n - 1) * (u**2 @ s)),
        _fid_influence(b * np.sqrt(m - 1), -shift, (m - 1) * (vt.T**2 @ s)),
        bounds=(0, np.inf),
    )


def inception_score(logits: np.ndarray) -> Score:
    """Inception Score of (N, C) logits, over all images at once (Salimans et al. 2016, arXiv:1606.03498)."""
    log_p = scipy.special.log_softmax(logits.astype(np.float64), axis=1)
    marginal = scipy.special.logsumexp(log_p, axis=0) - np.log(len(logits))
    divergence = (np.exp(log_p) * (log_p - marginal)).sum(1)
    value = float(np.exp(divergence.mean()))
    return Score(value, synthetic=value * divergence)


def recognised(logits: np.ndarray, classes: np.ndarray) -> Score:
    """Share of images, by (N, C) logits of a classifier, that it assigns to their class, an index (N,)."""
    hits = (logits.argmax(1) == classes).astype(np.float64)
    return Score(float(hits.mean()), synthetic=hits, is_share=True)


def vendi(features: np.ndarray) -> Score:
    """Vendi score: the effective number of different images, exp of the entropy of the cosine similarities' spectrum
    (Friedman & Dieng 2023, arXiv:2210.02410), of features (N, D)."""
    u = _normalized(features)
    n, width = u.shape
    if n <= width:
        values, vectors = scipy.linalg.eigh(u @ u.T / n, check_finite=False)
        weights = n * vectors**2 * values
    else:
        values, vectors = scipy.linalg.eigh(u.T @ u / n, check_finite=False)
        weights = (u @ vectors) ** 2
    kept = values > 1e-12
    logs = np.log(values[kept])
    value = float(np.exp(-(values[kept] * logs).sum()))
    return Score(value, synthetic=-value * (weights[:, kept] @ logs))


def mean_cosine(features: np.ndarray) -> Score:
    """Mean cosine similarity over all pairs of different images, of features (N, D); 1 is a set of copies."""
    u = _normalized(features)
    n = len(u)
    to_others = (u @ u.sum(0) - 1) / (n - 1)
    return Score(float(to_others.mean()), synthetic=2 * to_others)


def _share(hits: products.Hits, balls: int, of_real: bool) -> Score:
    """The share of real (or synthetic) images that are in one of the other side's balls."""
    points = (hits.count > 0).double().cpu().numpy()
    others = hits.alone(balls).cpu().numpy() * (balls / len(points))
    return Score(hits.share, *((points, others) if of_real else (others, points)), bounds=(0, 1), is_share=True)


def _density(of_real: products.Within, both: products.Across) -> Score:
    """The mean number of real images' balls that a synthetic image is in, divided by k."""
    inside, larger = both.covered.count.double().cpu(), both.in_larger_ball.double().cpu()
    neighbours = of_real.neighbours[:, :DENSITY_K].cpu()
    n, m = len(inside), len(both.real_balls)
    # Without an image its own ball is gone, and each ball that it was a neighbour in reaches one neighbour further.
    grown = torch.zeros(n, dtype=torch.float64).index_add_(
        0, neighbours.flatten(), (larger - inside).repeat_interleave(DENSITY_K)
    )
    synthetic = both.real_balls.double().cpu().numpy() / DENSITY_K
    real = (inside - grown).numpy() * (n / (m * DENSITY_K))
    return Score(float(synthetic.mean()), real, synthetic, bounds=(0, np.inf))


def _kid(of_real: products.Within, of_synthetic: products.Within, both: products.Across, n: int, m: int) -> Score:
    rr, ss = (w.kernel_sums.cpu().numpy() / (size - 1) for w, size in ((of_real, n), (of_synthetic, m)))
    rs, sr = both.real_kernel_sums.cpu().numpy() / m, both.synthetic_kernel_sums.cpu().numpy() / n
    return Score(float(rr.mean() + ss.mean() - 2 * rs.mean()), 2 * (rr - rs), 2 * (ss - sr))


def _fid_of_covariances(real: np.ndarray, synthetic: np.ndarray) -> Score:
    mean_a, a = _moments(real)
    mean_b, b = _moments(synthetic)
    values, vectors = scipy.linalg.eigh(a, driver="evd", check_finite=False)
    floor = 1e-10 * values[-1]
    root = np.sqrt(values.clip(floor))
    half = (vectors * root).T  # half.T @ half = a
    squares, basis = scipy.linalg.eigh(half @ b @ half.T, driver="evd", check_finite=False)
    s = np.sqrt(squares.clip(0))
    shift = mean_a - mean_b
    value = shift @ shift + np.trace(a) + np.trace(b) - 2 * s.sum()
    # The maps that carry one normal distribution to the other: their quadratic forms are the root's derivatives.
    inverse = np.where(s > 1e-6 * s[-1], 1 / np.maximum(s, 1e-6 * s[-1]), 0)
    to_real = (half.T @ basis) * np.sqrt(inverse)
    to_synthetic = (vectors / root) @ basis * np.sqrt(s)
    return Score(
        float(value),
        _influence_by_blocks(real, mean_a, shift, to_synthetic),
        _influence_by_blocks(synthetic, mean_b, -shift, to_real),
        bounds=(0, np.inf),
    )


def _influence_by_blocks(x: np.ndarray, mean: np.ndarray, shift: np.ndarray, root: np.ndarray) -> np.ndarray:
    root = root.astype(np.float32)
    parts = []
    for i in range(0, len(x), 2048):
        centred = x[i : i + 2048] - mean.astype(np.float32)
        parts.append(_fid_influence(centred, shift, ((centred @ root) ** 2).sum(1)))
    return np.concatenate(parts)


def _fid_influence(centred: np.ndarray, shift: np.ndarray, quadratic: np.ndarray) -> np.ndarray:
    """Derivative of the Fréchet distance by the weight of each image, up to a constant."""
    return (centred.astype(np.float64) ** 2).sum(1) + 2 * centred @ shift - quadratic


def _centred(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x = x.astype(np.float64)
    mean = x.mean(0)
    return (x - mean) / np.sqrt(len(x) - 1), mean


def _moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and covariance (D, D) in float64, block by block."""
    blocks = range(0, len(x), 2048)
    mean = sum(x[i : i + 2048].sum(0, dtype=np.float64) for i in blocks) / len(x)
    covariance = np.zeros((x.shape[1], x.shape[1]))
    for i in blocks:
        centred = x[i : i + 2048].astype(np.float64) - mean
        covariance += centred.T @ centred
    return mean, covariance / (len(x) - 1)


def _normalized(features: np.ndarray) -> np.ndarray:
    features = features.astype(np.float64)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    if (lengths == 0).any():
        blank = counted(int((lengths == 0).sum()), "image has", "images have")
        raise InputError(f"{blank} no features at all: are they blank?")
    return features / lengths
