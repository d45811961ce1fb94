"""Near-duplicate photographs: a perceptual hash in the 8 orientations proposes pairs, a pixel check decides.

The pixel check aligns two thumbnails by scale and shift and correlates their fine structure. Its threshold lies in a
wide gap, measured on HAM10000: recompressed, resized, brightened, turned and up to 6 % cropped copies score above 0.94,
the closest of photographs of different lesions 0.84.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import imagehash
import numpy as np
from PIL import Image

THUMBNAIL = 128
MAX_HASH_DISTANCE = 14  # of 64 bits; a 6 % crop moves 4 % of images further
MIN_COARSE = 0.75  # unaligned correlation of blurred thumbnails
MIN_ALIGNED = 0.86  # at 64 pixels, three scales
MIN_FINE = 0.92  # at 128 pixels, nine scales


def fingerprint(image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """A grey thumbnail, uint8 (128, 128), and the 64-bit pHash of its 8 orientations, uint64 (8,)."""
    thumbnail = np.asarray(image.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))
    small = cv2.resize(thumbnail, (64, 64), interpolation=cv2.INTER_AREA)
    hashes = [imagehash.phash(Image.fromarray(np.ascontiguousarray(orient(small, k)))).hash for k in range(8)]
    return thumbnail, np.packbits(np.array(hashes).reshape(8, 64), axis=1).view(">u8")[:, 0].astype(np.uint64)


def orient(image: np.ndarray, k: int) -> np.ndarray:
    """The k-th of the 8 orientations of an image: k % 4 quarter turns, then a mirror for k >= 4."""
    turned = np.rot90(image, k % 4)
    return turned[:, ::-1] if k >= 4 else turned


def find_pairs(
    thumbnails: np.ndarray, hashes: np.ndarray, groups: Sequence[int], block: int = 512
) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of near-duplicates in different groups.

    Args:
        thumbnails: uint8 (N, 128, 128).
        hashes: uint64 (N, 8), both as `fingerprint` gives them.
        groups: one integer per image; pairs inside a group are not searched for.
        block: rows compared at a time; memory is about 10 x block x N bytes.
    """
    groups = np.asarray(groups)
    small = np.stack([cv2.resize(t, (64, 64), interpolation=cv2.INTER_AREA) for t in thumbnails])
    coarse = np.stack([[_coarse(orient(image, k)) for k in range(8)] for image in small])
    pairs = []
    for start in range(0, len(hashes), block):
        nearest = np.full((len(hashes[start : start + block]), len(hashes)), 65, np.uint8)
        orientation = np.zeros(nearest.shape, np.uint8)
        for k in range(8):
            distance = np.bitwise_count(hashes[start : start + block, :1] ^ hashes[None, :, k])
            orientation[distance < nearest] = k
            np.minimum(nearest, distance, out=nearest)
        i, j = np.nonzero(nearest <= MAX_HASH_DISTANCE)
        k, i = orientation[i, j], i + start
        keep = (i < j) & (groups[i] != groups[j])
        i, j, k = i[keep], j[keep], k[keep]
        keep = np.einsum("nd,nd->n", coarse[i, 0], coarse[j, k]) > MIN_COARSE
        candidates = list(zip(i[keep].tolist(), j[keep].tolist(), k[keep].tolist(), strict=True))

        def is_copy(candidate: tuple[int, int, int]) -> bool:
            i, j, k = candidate
            if aligned_correlation(small[i], orient(small[j], k), 0.5, 6, (1, 0.95, 1.05)) < MIN_ALIGNED:
                return False
            scales = (1, 0.97, 0.94, 0.91, 0.88, 1.03, 1.06, 1.09, 1.12)
            return aligned_correlation(thumbnails[i], orient(thumbnails[j], k), 1, 4, scales) > MIN_FINE

        with ThreadPoolExecutor() as pool:  # OpenCV works outside Python's lock
            verdicts = pool.map(is_copy, candidates)
            pairs += [(i, j) for (i, j, _), copy in zip(candidates, verdicts, strict=True) if copy]
    return pairs


def _band(image: np.ndarray, fine: float, coarse: float) -> np.ndarray:
    image = image.astype(np.float32)
    return cv2.GaussianBlur(image, (0, 0), fine) - cv2.GaussianBlur(image, (0, 0), coarse)


def _coarse(image: np.ndarray) -> np.ndarray:
    values = cv2.resize(_band(image, 1.5, 5), (16, 16), interpolation=cv2.INTER_AREA)[1:-1, 1:-1].ravel()
    values = values - values.mean()
    return values / max(float(np.linalg.norm(values)), 1e-6)


def aligned_correlation(a: np.ndarray, b: np.ndarray, fine: float, coarse: float, scales: Sequence[float]) -> float:
    """Best correlation of the middle 70 % of `a`, at some scale and shift, with a part of `b`, in [-1, 1].

    Args:
        a: uint8 (H, H) grey.
        b: uint8 (H, H) grey.
        fine: standard deviation in pixels of the blur that structure must survive.
        coarse: of the blur that it must not survive, so that light and shade do not count.
        scales: sizes of `a` to try; at least 0.7, so that its middle remains.
    """
    size = len(a)
    a, b = _band(a, fine, coarse), _band(b, fine, coarse)
    window = int(size * 0.7)
    best = -1.0
    for scale in scales:
        width = round(size * scale)
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        scaled = a if scale == 1 else cv2.resize(a, (width, width), interpolation=interpolation)
        at = (width - window) // 2
        middle = scaled[at : at + window, at : at + window]
        best = max(best, float(cv2.matchTemplate(b, middle, cv2.TM_CCOEFF_NORMED).max()))
    return best
