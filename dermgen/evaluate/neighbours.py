"""The training images nearest to an image in any orientation: candidates by features, the best of them by pixels."""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pandas as pd
from accelerate import Accelerator

from dermgen.config import InputError
from dermgen.data import manifest
from dermgen.data.duplicates import aligned_correlation, orient
from dermgen.data.loading import PixelSet
from dermgen.evaluate import features, products

THUMBNAIL = 128
COARSE_SCALES = (1, 0.95, 0.9, 0.85, 0.8, 1.06)
FINE_STEPS = (-0.03, -0.015, 0, 0.015, 0.03)
MIN_CONTRAST = 2.0  # standard deviation of grey levels, of 255
CLEARLY_DIFFERENT = 0.4  # beyond this, no finer alignment shows a copy
EXACT_UP_TO = 100_000


class Neighbours:
    """The training images, among which the nearest to an image is found.

    Args:
        train: rows of a manifest with `path`.
        extractor: proposes candidates.
        accelerator: its processes share the work.
        candidates: how many of them are compared pixel by pixel for each image.
        use_index: search for candidates with faiss.
        batch_size: images at a time.
        cache_dir: of features.
    """

    def __init__(
        self,
        train: pd.DataFrame,
        extractor: features.Extractor,
        accelerator: Accelerator,
        candidates: int = 8,
        use_index: bool = False,
        batch_size: int = 256,
        cache_dir: str | None = None,
    ):
        self.extractor, self.accelerator, self.use_index = extractor, accelerator, use_index
        self.batch_size, self.cache_dir = batch_size, cache_dir
        self.candidates = min(candidates, len(train))
        self.base = features.features(extractor, train, accelerator, batch_size, cache_dir=cache_dir).features
        self.thumbnails = thumbnails(train)

    def nearest(self, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`closest` for the images of `table`; rows are those of the training images."""
        table = table.assign(sha256=manifest.hashes(table))  # once for all orientations
        oriented = [
            features.features(self.extractor, table, self.accelerator, self.batch_size, k, self.cache_dir).features
            for k in range(8)
        ]
        rows, orientations = _candidates(oriented, self.base, self.candidates, self.use_index)
        return closest(thumbnails(table), self.thumbnails, rows, orientations)


def use_faiss(index: str, size: int) -> bool:
    """Whether the approximate index is used for a base of this size.

    Raises:
        InputError: if it is, and faiss is not installed.
    """
    if index == "exact" or (index == "auto" and size <= EXACT_UP_TO):
        return False
    try:
        import faiss  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"{size:,} training images are searched with faiss: pip install 'dermgen[faiss]', or --index exact (slower)"
        ) from error
    return True


def approximate_nearest(queries: np.ndarray, base: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """`products.nearest` by faiss: cells of similar images, of which the nearest 64 are searched."""
    import faiss

    cells = max(1, min(4096, int(np.sqrt(len(base)))))
    index = faiss.index_factory(base.shape[1], f"IVF{cells},Flat")
    base = np.ascontiguousarray(base, np.float32)
    index.train(base)
    index.add(base)
    index.nprobe = 64
    return index.search(np.ascontiguousarray(queries, np.float32), k)


def closest(
    queries: np.ndarray, base: np.ndarray, candidates: np.ndarray, orientations: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each query's candidates the one that matches it best pixel by pixel.

    All candidates are aligned at half the size, the best one again at full size and in finer steps of scale, so that
    a shift by a fraction of a pixel does not hide a copy.

    Args:
        queries: uint8 (M, 128, 128) grey thumbnails.
        base: uint8 (N, 128, 128).
        candidates: (M, K) rows of `base`.
        orientations: (M, K) orientation of the query in which the candidate was proposed.

    Returns:
        (M,) distances, 1 - the correlation of aligned fine structure, in [0, 2], NaN for a query without structure;
        (M,) rows of `base`; (M,) the query's orientation.
    """
    small = np.stack([_half(image) for image in base])

    def best(i: int) -> tuple[float, int, int]:
        half = _half(queries[i])
        if half.std() < MIN_CONTRAST:  # its correlations would mean nothing
            return np.nan, int(candidates[i, 0]), 0
        matches = [
            (
                aligned_correlation(np.ascontiguousarray(orient(half, t)), small[j], 0.7, 6, [scale]),
                scale,
                int(j),
                int(t),
            )
            for j, t in zip(candidates[i], orientations[i], strict=True)
            for scale in COARSE_SCALES
            if small[j].std() >= MIN_CONTRAST
        ]
        correlation, scale, j, t = max(matches, default=(0.0, 1, int(candidates[i, 0]), 0))
        if correlation > 1 - CLEARLY_DIFFERENT:
            turned = np.ascontiguousarray(orient(queries[i], t))
            scales = [scale + step for step in FINE_STEPS]
            correlation = max(correlation, aligned_correlation(turned, base[j], 1.4, 12, scales))
        return 1 - correlation, j, t

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # many small jobs: one thread each is faster than all threads on each
    try:
        with ThreadPoolExecutor() as pool:
            matches = list(pool.map(best, range(len(queries))))
    finally:
        cv2.setNumThreads(threads)
    return tuple(np.array(values) for values in zip(*matches, strict=True))


def _half(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, (THUMBNAIL // 2, THUMBNAIL // 2), interpolation=cv2.INTER_AREA)


def _candidates(oriented: list[np.ndarray], base: np.ndarray, k: int, faiss: bool) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest training images over 8 orientations of each query: rows of `base`, and the orientations, (M, k)."""
    search = approximate_nearest if faiss else products.nearest
    distances, rows = zip(*(search(np.asarray(queries), base, k) for queries in oriented), strict=True)
    order = np.argsort(np.concatenate(distances, axis=1), axis=1, kind="stable")[:, :k]
    return np.take_along_axis(np.concatenate(rows, axis=1), order, 1), order // k


def thumbnails(table: pd.DataFrame) -> np.ndarray:
    """Grey pictures, uint8 (N, 128, 128)."""
    dataset = PixelSet.of(table, THUMBNAIL)

    def grey(i: int) -> np.ndarray:
        return cv2.cvtColor(dataset[i]["pixels"].permute(1, 2, 0).numpy(), cv2.COLOR_RGB2GRAY)

    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(grey, range(len(table)))))
