"""An invisible mark in an image that says "drawn by dermgen": a keyed pattern in its low frequencies.

The pattern lies in the cosine transform of the luminance between 4 and 40 half-waves across the image, which JPEG
compression and resizing leave almost alone (spread-spectrum watermarking, Cox et al. 1997, doi:10.1109/83.650120). It
says nothing else, and it does not survive cropping or being painted over: that no mark is found proves nothing.
"""

import hashlib
from functools import cache

import numpy as np

from dermgen.config import InputError

LOWEST, HIGHEST = 4, 40  # half-waves across the image
TARGET = 12.0  # what the detector should say of a marked image
STRONGEST = 2.5  # root mean square of the change, in grey levels of 255
THRESHOLD = 6.0
SMALLEST = 64


def embed(image: np.ndarray) -> np.ndarray:
    """The image with the mark, as weak as lets the detector find it with a margin, never stronger than is unseen.

    Args:
        image: uint8 (H, W, 3), at least 64 pixels high and wide.

    Returns:
        uint8 (H, W, 3).

    Raises:
        InputError: if it is smaller.
    """
    import scipy.fft  # here, since settings ask this module for its smallest size, and must be quick to read

    height, width = image.shape[:2]
    require_room(height, width)
    spectrum = np.zeros((height, width))
    rows, columns = min(height, HIGHEST), min(width, HIGHEST)
    spectrum[:rows, :columns] = _key()[:rows, :columns]
    pattern = scipy.fft.idctn(spectrum, norm="ortho")
    pattern /= np.sqrt((pattern**2).mean())
    for strength in np.arange(0.5, STRONGEST + 0.01, 0.25):
        marked = (image + strength * pattern[..., None]).round().clip(0, 255).astype(np.uint8)
        if _score(marked) >= TARGET:
            break
    return marked


def require_room(height: int, width: int) -> None:
    """Raise `InputError` for images that are too small for the pattern."""
    if min(height, width) < SMALLEST:
        raise InputError(
            f"a watermark needs images of at least {SMALLEST} x {SMALLEST} pixels, these have {height} x {width}"
        )


def detect(image: np.ndarray) -> float:
    """How surely the mark is there: the largest score of the 8 orientations, since images are flipped and turned.

    Without a mark each score has mean 0 and variance 1, so the largest is above `THRESHOLD` less than once in 10^7
    images; the benchmark has the rate on photographs.

    Args:
        image: uint8 (H, W, 3).
    """
    turned = [np.rot90(image, k) for k in range(4)]
    return max(_score(view) for view in (*turned, *(view[:, ::-1] for view in turned)))


def _score(image: np.ndarray) -> float:
    """Correlation of the key with the whitened spectrum, in standard deviations of what chance gives."""
    import scipy.fft

    luminance = image.astype(np.float64) @ (0.299, 0.587, 0.114)
    spectrum = scipy.fft.dctn(luminance - luminance.mean(), norm="ortho")[:HIGHEST, :HIGHEST]
    key = _key()[: spectrum.shape[0], : spectrum.shape[1]]
    inside = key != 0
    # Lower frequencies are stronger in every picture; each ring counts the same, and no single wave counts for many.
    ring = _radius()[: spectrum.shape[0], : spectrum.shape[1]].astype(int)
    usual = np.ones(ring.shape)
    for r in np.unique(ring[inside]):
        of_ring = inside & (ring == r)
        usual[of_ring] = max(np.abs(spectrum[of_ring]).mean(), 1e-9)
    white = np.clip(spectrum / usual, -2, 2)[inside]
    return float((white * key[inside]).sum() / np.sqrt((white**2).sum() + 1e-12))


@cache
def _key() -> np.ndarray:
    """Signs (HIGHEST, HIGHEST), 0 outside of the band; from a hash, so that no library's generator may change them."""
    digests = b"".join(hashlib.sha256(f"dermgen watermark {i}".encode()).digest() for i in range(HIGHEST**2 // 256 + 1))
    signs = np.unpackbits(np.frombuffer(digests, np.uint8))[: HIGHEST**2].reshape(HIGHEST, HIGHEST) * 2.0 - 1
    return signs * ((_radius() >= LOWEST) & (_radius() < HIGHEST))


@cache
def _radius() -> np.ndarray:
    u = np.arange(HIGHEST)
    return np.hypot(u[:, None], u[None, :])
