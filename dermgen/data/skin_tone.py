"""Skin tone of a photograph by the individual typology angle of the skin around the lesion."""

import math

import numpy as np

from dermgen.data import preprocess

# Del Bino & Bernerd 2013, Br. J. Dermatol. 169 (suppl. 3); the angle is in degrees.
TONES = ((55, "very light"), (41, "light"), (28, "intermediate"), (10, "tan"), (-30, "brown"), (-math.inf, "dark"))


def typology_angle(image: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Individual typology angle, arctan((L* - 50) / b*) in degrees, of the median colour of the skin.

    Args:
        image: uint8 (H, W, 3) RGB.
        mask: uint8 (H, W), lesion above 127; without one the lesion is segmented, and if that fails only the image's
            rim counts as skin.

    Returns:
        The angle, NaN if under 2 % of the image is skin. Black corners of a dermoscope are not skin.
    """
    import cv2

    if mask is None:
        mask = preprocess.segment_lesion(image)
    height, width = image.shape[:2]
    if mask is not None:
        radius = max(1, round(0.03 * min(height, width)))
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        skin = cv2.dilate(mask, kernel) <= 127
    else:
        skin = np.ones((height, width), bool)
        rim = max(1, min(height, width) // 8)
        skin[rim:-rim, rim:-rim] = False
    skin &= image.max(axis=2) > 40
    if skin.mean() < 0.02:
        return math.nan
    color = np.median(image[skin], axis=0).astype(np.float32)[None, None] / 255
    lightness, _, b = cv2.cvtColor(color, cv2.COLOR_RGB2LAB)[0, 0]
    return math.degrees(math.atan2(float(lightness) - 50, float(b)))


def tone(angle: float) -> str:
    """The angle's band in a word; "" for NaN."""
    return "" if math.isnan(angle) else next(name for low, name in TONES if angle > low)
