"""Image steps: reading a photograph correctly, cropping to the lesion, hair removal, colour constancy, resizing.

Each step is pure: image in, image out. Images are uint8 RGB (H, W, 3), masks uint8 (H, W) of 0 and 255.
"""

import errno
import io
import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

MAX_PIXELS = 100_000_000
FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jfif": "JPEG",
    ".jpe": "JPEG",
    ".png": "PNG",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".gif": "GIF",
    ".jp2": "JPEG2000",
}
_TIFF_MAX_SAMPLE_VALUE = 281
METADATA = ("exif", "xmp", "photoshop", "XML:com.adobe.xmp", "Raw profile type exif", "Raw profile type iptc")
# Description, make, model, date, artist, copyright, and the blocks of EXIF, GPS and IPTC.
_CAMERA_TAGS = {270, 271, 272, 306, 315, 33432, 34665, 34853, 33723}


class BadImage(ValueError):
    """An unusable file, with the reason in a few words."""


class Unreadable(BadImage):
    """A file that cannot be read from disk, so that its content is unknown."""


def has_exif(image: Image.Image) -> bool:
    """Whether a loaded image carries EXIF or XMP of a camera; the tags that every TIFF needs do not count."""
    if any(name in image.info for name in METADATA):
        return True
    tags = set(_exif(image))
    return bool(tags & _CAMERA_TAGS) if image.format == "TIFF" else bool(tags)


def read_image(path: Path) -> np.ndarray:
    """`read_photo` without its notes."""
    return read_photo(path)[0]


def read_photo(
    path: Path, transparency: str = "white", bit_depth: int | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read a photograph as sRGB, rotated by its EXIF orientation, with deep samples converted to 8 bits.

    Args:
        path: of a file in one of `FORMATS`.
        transparency: whether transparent parts are put on "white" or the file is refused ("refuse").
        bit_depth: significant bits of deep samples whose range the file does not declare.

    Returns:
        uint8 (H, W, 3), and the conversions that were made.

    Raises:
        BadImage: if the file is empty, truncated, not an image, over 100 megapixels, or its samples have an unknown
            range.
    """
    image, notes = _load(path)
    deep = image.mode.startswith("I;16") or image.mode in ("I", "F")
    white = _declared_white(image, bit_depth) if deep else None  # a rotated image has lost its tags
    upright = _upright(image)
    if deep:
        grey = _to_8_bits(np.asarray(upright), white)
        return np.repeat(grey[..., None], 3, axis=2), (*notes, "deep samples to 8 bits")
    if upright.mode in ("P", "PA", "La", "RGBa") or "transparency" in upright.info:
        upright = upright.convert("RGBA")
    upright, of_colour = _to_srgb(upright, image.info.get("icc_profile"))
    if upright.mode in ("RGBA", "LA"):
        layers = upright.convert("RGBA")
        if layers.getextrema()[3][0] < 255:
            if transparency == "refuse":
                raise BadImage("transparent parts")
            sheet = Image.new("RGBA", layers.size, "white")
            upright, of_colour = Image.alpha_composite(sheet, layers), (*of_colour, "transparent parts put on white")
    return np.asarray(upright.convert("RGB")), (*notes, *of_colour)


def read_mask(path: Path) -> np.ndarray:
    """Read a mask as one uint8 channel with its values unchanged; raises as `read_photo`."""
    mask = _upright(_load(path)[0])
    if mask.mode == "1":
        return np.asarray(mask.convert("L"))
    if mask.mode in ("L", "I;16", "I;16B", "I"):
        values = np.asarray(mask).astype(np.int64)
        return (values if values.max() < 256 else values * 255 // values.max()).clip(0).astype(np.uint8)
    return np.asarray(mask.convert("RGB")).max(axis=2)


def is_two_valued(pixels: np.ndarray) -> bool:
    """Whether (H, W) or (H, W, 3) looks like a mask: 95 % of pixels are near the minimum or maximum of each channel."""
    values = pixels.reshape(*pixels.shape[:2], -1).astype(np.int64)
    low, high = values.min(axis=(0, 1)), values.max(axis=(0, 1))
    near = 0.1 * (high - low).max()
    return bool(((values - low <= near) | (high - values <= near)).all(axis=2).mean() >= 0.95)


def is_whole_png(path: Path) -> bool:
    """Whether a file is a complete PNG: a power cut can leave it empty or truncated."""
    try:
        with Image.open(path, formats=["PNG"]) as image:  # other formats have no checksums, whatever the name
            image.verify()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False
    return True


def _load(path: Path) -> tuple[Image.Image, tuple[str, ...]]:
    """The decoded image, whatever the file's name, with notes on oddities of the file."""
    try:
        if path.stat().st_size == 0:
            raise BadImage("zero bytes")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit is ours, below
            image = Image.open(path, formats=list(dict.fromkeys(FORMATS.values())))
        if image.width * image.height > MAX_PIXELS:
            raise BadImage(f"{image.width} x {image.height} pixels are over {MAX_PIXELS // 10**6} megapixels")
        image.load()
    except FileNotFoundError as error:
        raise Unreadable("broken link" if path.is_symlink() else "missing from disk") from error
    except Image.DecompressionBombError as error:
        raise BadImage(f"over {MAX_PIXELS // 10**6} megapixels") from error
    except UnidentifiedImageError as error:
        raise BadImage("not an image") from error
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        if isinstance(error, BadImage):
            raise
        if getattr(error, "errno", None) not in (None, errno.EINVAL):  # EINVAL: an offset outside a damaged file
            raise Unreadable(f"cannot be read ({error.strerror})") from error
        raise BadImage(f"truncated or damaged ({error})") from error
    notes = []
    expected = FORMATS.get(path.suffix.lower())
    if image.format not in (expected, "MPO" if expected == "JPEG" else expected):
        notes.append(f"{image.format} data named {path.suffix or 'without an ending'}")
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        notes.append("first of several frames")
    return image, tuple(notes)


def _exif(image: Image.Image) -> Image.Exif:
    """The main EXIF tags; empty if the block is damaged."""
    try:
        return image.getexif()
    except (OSError, SyntaxError, ValueError, TypeError, struct.error):
        return Image.Exif()


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright(image: Image.Image) -> Image.Image:
    """The image rotated by its EXIF orientation. Pillow's own function rewrites the block and fails on an odd value."""
    try:
        orientation = _exif(image).get(0x0112)
    except (ValueError, TypeError, struct.error):
        orientation = None
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _to_srgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, tuple[str, ...]]:
    """An image with its colour profile applied; unchanged if it is sRGB already or has no profile."""
    if not profile:
        return image, ()
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower() and image.mode != "CMYK":
            return image, ()
        alpha = image.getchannel("A") if image.mode in ("RGBA", "LA") else None
        bare = image.convert(image.mode[:-1]) if alpha else image
        srgb = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(
            bare, source, srgb, ImageCms.Intent.RELATIVE_COLORIMETRIC, "RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )  # fmt: skip
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image, ("colour profile that does not fit, ignored",)
    if alpha:
        converted.putalpha(alpha)
    return converted, ("colour profile to sRGB",)


def _declared_white(image: Image.Image, bit_depth: int | None) -> float:
    """The sample value that means white: TIFF's MaxSampleValue, PNG's sBIT, the requested depth, else all 16 bits.

    Samples within a sixteenth of an undeclared 16-bit range are refused: their true range must be a smaller one.
    """
    white = getattr(image, "tag_v2", {}).get(_TIFF_MAX_SAMPLE_VALUE)
    if white is not None:
        return float(white[0] if isinstance(white, tuple) else white)
    if bits := _png_significant_bits(image):
        return 2**bits - 1
    if bit_depth:
        return 2**bit_depth - 1
    if image.mode == "F":
        raise BadImage("floating-point samples without a declared range")
    highest = image.getextrema()[1]
    if highest < 4096:
        raise BadImage(f"deep samples up to {highest} only, without a declared range: give --bit_depth (such as 12)")
    return 65535


def _to_8_bits(values: np.ndarray, white: float) -> np.ndarray:
    """One deep channel as uint8, `white` as 255."""
    values = values.astype(np.float64)
    if values.max() > white or values.min() < 0:
        raise BadImage(f"samples from {values.min():.0f} to {values.max():.0f} outside the declared 0 to {white:.0f}")
    return np.round(values * (255 / white)).astype(np.uint8)


def _png_significant_bits(image: Image.Image) -> int | None:
    """The sBIT chunk of a PNG, which Pillow discards: the number of significant bits of 16."""
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
        The mask, or None without a plausible region (between 1 % and 80 % of the picture).
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
    _, foreground = cv2.threshold(scaled, 0, 255, cv2.THRESH_OTSU)
    foreground = cv2.morphologyEx(foreground, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7)))
    count, labels, stats, centers = cv2.connectedComponentsWithStats(foreground)
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
    dark = (np.max(lines, axis=0) > 22).astype(np.uint8)
    # A hair is long and thin; dots and globules of the lesion are neither.
    count, labels, stats, _ = cv2.connectedComponentsWithStats(dark, connectivity=8)
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
    """Resize a square mask by area and threshold it at one half."""
    if mask.shape == (size, size):
        return mask
    smaller = np.asarray(Image.fromarray(mask).resize((size, size), Image.Resampling.BOX))
    return ((smaller > 127) * 255).astype(np.uint8)
