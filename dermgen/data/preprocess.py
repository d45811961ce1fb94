"""Image steps: reading a photograph as it is meant, cropping to the lesion, hair removal, colour constancy, resizing.

Each step is pure: image in, image out. Images are uint8 RGB (H, W, 3), masks uint8 (H, W) of 0 and 255.
"""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 100_000_000
FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
_TIFF_MAX_SAMPLE_VALUE = 281
METADATA = ("exif", "xmp", "photoshop", "XML:com.adobe.xmp", "Raw profile type exif", "Raw profile type iptc")
# Description, make, model, date, artist, copyright, and the blocks of EXIF, GPS and IPTC.
_CAMERA_TAGS = {270, 271, 272, 306, 315, 33432, 34665, 34853, 33723}


class BadImage(ValueError):
    """A file that cannot be used, with the reason in a few words."""


def has_exif(image: Image.Image) -> bool:
    """Whether a loaded image carries EXIF or XMP of a camera; the tags that every TIFF needs are none."""
    if any(name in image.info for name in METADATA):
        return True
    tags = set(image.getexif())
    return bool(tags & _CAMERA_TAGS) if image.format == "TIFF" else bool(tags)


def read_image(path: Path) -> np.ndarray:
    """Read a photograph as RGB, turned as its EXIF orientation says, 16 bits brought to 8 by their declared range.

    Raises:
        BadImage: if the file is empty, truncated, not an image, named as another format, or over 100 megapixels.
    """
    if path.stat().st_size == 0:
        raise BadImage("zero bytes")
    expected = FORMATS.get(path.suffix.lower())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit is ours, below
            image = Image.open(path)
        if expected is None or image.format not in (expected, "MPO" if expected == "JPEG" else expected):
            raise BadImage(f"wrong extension: {image.format} data named {path.suffix or 'without one'}")
        if image.width * image.height > MAX_PIXELS:
            raise BadImage(f"{image.width} x {image.height} pixels are over {MAX_PIXELS // 10**6} megapixels")
        image.load()
    except Image.DecompressionBombError as error:
        raise BadImage(f"over {MAX_PIXELS // 10**6} megapixels") from error
    except UnidentifiedImageError as error:
        raise BadImage("not an image") from error
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, BadImage):
            raise
        raise BadImage(f"truncated or damaged ({error})") from error
    deep = image.mode.startswith("I;16") or image.mode in ("I", "F")
    white = _declared_white(image) if deep else None  # a turned image has lost its tags
    image = ImageOps.exif_transpose(image)
    if deep:
        return np.repeat(_to_8_bits(np.asarray(image), white)[..., None], 3, axis=2)
    return np.asarray(image.convert("RGB"))


def _declared_white(image: Image.Image) -> float:
    """The sample value that means white: TIFF's MaxSampleValue, PNG's sBIT, else the full 16 bits."""
    white = getattr(image, "tag_v2", {}).get(_TIFF_MAX_SAMPLE_VALUE)
    if white is not None:
        return float(white[0] if isinstance(white, tuple) else white)
    if bits := _png_significant_bits(image):
        return 2**bits - 1
    if image.mode == "F":
        raise BadImage("floating-point samples without a declared range")
    return 65535


def _to_8_bits(values: np.ndarray, white: float) -> np.ndarray:
    """One deep channel as uint8, `white` as 255."""
    values = values.astype(np.float64)
    if values.max() > white or values.min() < 0:
        raise BadImage(f"samples from {values.min():.0f} to {values.max():.0f} outside the declared 0 to {white:.0f}")
    return np.round(values * (255 / white)).astype(np.uint8)


def _png_significant_bits(image: Image.Image) -> int | None:
    """The sBIT chunk of a PNG, which Pillow does not keep: how many of the 16 bits hold the picture."""
    if image.format != "PNG" or not getattr(image, "filename", ""):
        return None
    head = Path(image.filename).read_bytes()[:4096]
    at = head.find(b"sBIT")
    return head[at + 4] if at > 0 else None


def center_box(height: int, width: int) -> tuple[int, int, int]:
    """Top, left and side of the largest centred square."""
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side


def lesion_box(mask: np.ndarray, margin: float) -> tuple[int, int, int]:
    """Top, left and side of a square around the lesion, `margin` of its size wider on each side, inside the image.

    Args:
        mask: (H, W), lesion above 127; not empty.
        margin: as a fraction of the lesion's longer side.
    """
    rows, columns = np.nonzero((mask > 127).any(1))[0], np.nonzero((mask > 127).any(0))[0]
    height, width = mask.shape
    longest = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    side = int(min(round(longest * (1 + 2 * margin)), height, width))
    middle = (rows[0] + rows[-1] + 1) / 2, (columns[0] + columns[-1] + 1) / 2
    top = int(np.clip(round(middle[0] - side / 2), 0, height - side))
    left = int(np.clip(round(middle[1] - side / 2), 0, width - side))
    return top, left, side


def segment_lesion(image: np.ndarray) -> np.ndarray | None:
    """A mask of the lesion: Otsu's threshold on the colour distance from the skin along the border.

    Returns:
        The mask, or None where no single plausible region stands out (under 1 % or over 80 % of the picture).
    """
    import cv2

    scale = 256 / max(image.shape[:2])
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(cv2.medianBlur(small, 5), cv2.COLOR_RGB2LAB).astype(np.float32)
    rim = max(2, min(lab.shape[:2]) // 16)
    border = np.concatenate([part.reshape(-1, 3) for part in (lab[:rim], lab[-rim:], lab[:, :rim], lab[:, -rim:])])
    distance = np.linalg.norm(lab - np.median(border, axis=0), axis=2)
    distance = cv2.GaussianBlur(distance, (0, 0), 2)
    scaled = np.clip(distance / max(float(distance.max()), 1e-6) * 255, 0, 255).astype(np.uint8)
    _, found = cv2.threshold(scaled, 0, 255, cv2.THRESH_OTSU)
    found = cv2.morphologyEx(found, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7)))
    count, labels, stats, centers = cv2.connectedComponentsWithStats(found)
    if count < 2:
        return None
    middle = np.array(labels.shape[::-1]) / 2
    off_center = np.linalg.norm((centers[1:] - middle) / middle, axis=1)
    chosen = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA] * np.exp(-2 * off_center**2)))
    share = stats[chosen, cv2.CC_STAT_AREA] / labels.size
    if not 0.01 <= share <= 0.8:
        return None
    mask = (labels == chosen).astype(np.uint8) * 255
    return cv2.resize(mask, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)


def remove_hair(image: np.ndarray) -> np.ndarray:
    """Paint over dark hair (as DullRazor, Lee et al. 1997): a black top-hat finds thin lines, inpainting fills them."""
    import cv2

    size = max(9, round(min(image.shape[:2]) / 24) | 1)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    lines = [
        cv2.morphologyEx(grey, cv2.MORPH_BLACKHAT, kernel)
        for kernel in (_line_kernel(size, angle) for angle in (0, 45, 90, 135))
    ]
    found = (np.max(lines, axis=0) > 22).astype(np.uint8)
    # A hair is long and thin; dots and globules of the lesion are neither.
    count, labels, stats, _ = cv2.connectedComponentsWithStats(found, connectivity=8)
    length = np.hypot(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT])
    thin = stats[:, cv2.CC_STAT_AREA] < 0.25 * length**2
    hairs = np.isin(labels, [i for i in range(1, count) if length[i] > 1.5 * size and thin[i]]).astype(np.uint8)
    if not hairs.any():
        return image
    return cv2.inpaint(image, cv2.dilate(hairs, np.ones((3, 3), np.uint8)), 3, cv2.INPAINT_TELEA)


def _line_kernel(size: int, angle: int) -> np.ndarray:
    import cv2

    kernel = np.zeros((size, size), np.uint8)
    offset = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))]) * (size // 2)
    ends = [tuple(np.round(size // 2 + sign * offset).astype(int).tolist()) for sign in (-1, 1)]
    return cv2.line(kernel, *ends, 1)


def shades_of_grey(image: np.ndarray, norm: int = 6) -> np.ndarray:
    """Colour constancy by the Minkowski p-norm of each channel (Finlayson and Trezzi 2004); p = 6 is their value."""
    values = image.astype(np.float64)
    light = np.power(np.mean(np.power(values, norm), axis=(0, 1)), 1 / norm)
    if (light == 0).any():
        return image
    gain = light.mean() / light
    return np.clip(np.round(values * gain), 0, 255).astype(np.uint8)


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Resize a square RGB image with antialiasing (Lanczos)."""
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS))


def resize_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """Resize a square mask by area and cut it at one half."""
    if mask.shape == (size, size):
        return mask
    smaller = np.asarray(Image.fromarray(mask).resize((size, size), Image.Resampling.BOX))
    return ((smaller > 127) * 255).astype(np.uint8)
