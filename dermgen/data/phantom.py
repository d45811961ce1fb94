"""Drawn dermoscopy-like lesions with known class, mask and attributes: data that is always available.

They model no disease: seven kinds of pictures, each with the landmarks by which people recognise the class, so that
every stage can be tried, and tested, without a patient's photograph.
"""

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from dermgen.data import manifest
from dermgen.job import claim_folder
from dermgen.labels import HAM10000
from dermgen.settings.phantom import PhantomConfig

CANVAS = 384  # a lesion is drawn once on a square of skin this wide; its views are cut from it
RADIUS = 84  # of an average lesion on the canvas, in pixels
SITES = ("back", "face", "chest", "abdomen", "scalp", "hand", "foot", "lower extremity", "upper extremity")
# RGB of skin from very light to dark; the index is the skin_tone attribute, 1 to 6.
SKIN = np.array(
    [(246, 214, 198), (238, 196, 172), (222, 174, 142), (194, 142, 106), (148, 100, 70), (104, 68, 48)], np.float32
)


def write_phantoms(config: PhantomConfig) -> Path:
    """Draw the phantoms as `HAM10000_images_part_1`, `…_metadata.csv`, masks, and `phantom_attributes.csv`.

    Raises:
        InputError: if the output folder holds something else.
    """
    folder = Path(config.output_dir)
    claim_folder(folder, config)
    if (folder / "HAM10000_metadata.csv").exists():
        print(f"{folder} is complete already")
        return folder
    images, masks = folder / "HAM10000_images_part_1", folder / "HAM10000_segmentations_lesion_tschandl"
    for path in (images, masks):
        path.mkdir(exist_ok=True)
    codes = config.classes or list(HAM10000.codes)

    def write(lesion: int) -> list[dict]:
        code, rows = codes[lesion % len(codes)], []
        for view, (image, mask, attributes) in enumerate(draw_lesion(code, config.seed, lesion, config.height)):
            image_id = f"PHANTOM_{lesion:05d}_{view}"
            Image.fromarray(image).save(images / f"{image_id}.jpg", quality=95)
            Image.fromarray(mask).save(masks / f"{image_id}_segmentation.png")
            rows.append({"lesion_id": f"PHL_{lesion:05d}", "image_id": image_id, "dx": code, **attributes})
        return rows

    with ThreadPoolExecutor() as pool:  # NumPy, OpenCV and Pillow work outside Python's lock
        written = pool.map(write, range(config.num_lesions))
        progress = tqdm(written, desc="phantoms", unit="lesion", total=config.num_lesions, dynamic_ncols=True)
        table = pd.DataFrame(itertools.chain.from_iterable(progress))
    ham = ["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"]
    manifest.write_csv(table.drop(columns=ham[:1] + ham[2:]), folder / "phantom_attributes.csv")
    # The metadata comes last: a folder with it is whole.
    manifest.write_csv(table[ham], folder / "HAM10000_metadata.csv")
    return folder


def draw_lesion(code: str, seed: int, lesion: int, height: int) -> list[tuple[np.ndarray, np.ndarray, dict]]:
    """All views of one lesion.

    Args:
        code: a HAM10000 class code.
        seed: of the whole set.
        lesion: the lesion's number; with `seed` it determines everything.
        height: of a view in pixels; its width is 4/3 of that.

    Returns:
        For each of 1 to 4 views: uint8 (height, width, 3) RGB, uint8 (height, width) mask of 0 and 255, attributes.
    """
    rng = np.random.default_rng((seed, lesion))
    tone = int(rng.choice(6, p=(0.22, 0.28, 0.24, 0.14, 0.08, 0.04)))
    attributes = {
        "dx_type": "drawn",
        "age": float(rng.integers(4, 18) * 5),
        "sex": str(rng.choice(["female", "male"])),
        "localization": str(rng.choice(SITES)),
        "skin_tone": tone + 1,
    }
    skin = _skin(rng, SKIN[tone])
    inside, depth, shape = _outline(rng, code)
    canvas, drawn = _PAINTERS[code](rng, skin, inside, depth)
    attributes |= shape | drawn
    views = []
    for _ in range(int(rng.integers(1, 5))):
        image, mask = _view(rng, canvas, inside, height)
        hairs = int(rng.integers(3, 14)) if rng.random() < 0.3 else 0
        bubbles = int(rng.integers(1, 6)) if rng.random() < 0.2 else 0
        image = _bubbles(rng, _hairs(rng, image, hairs), bubbles)
        views.append(
            (image.clip(0, 255).round().astype(np.uint8), mask, {**attributes, "hairs": hairs, "bubbles": bubbles})
        )
    return views


# --- the parts of a picture; images are float32 (H, W, 3) in [0, 255], maps are float32 (H, W) in [0, 1] ---


def _noise(rng: np.random.Generator, scale: float, size: int = CANVAS) -> np.ndarray:
    """Smooth noise with blobs of about `scale` pixels, zero mean, unit variance."""
    small = max(4, int(size / scale * 2))
    field = rng.standard_normal((small, small)).astype(np.float32)
    field = cv2.GaussianBlur(cv2.resize(field, (size, size), interpolation=cv2.INTER_CUBIC), (0, 0), scale / 3)
    return (field - field.mean()) / field.std()


def _blend(image: np.ndarray, color, alpha: np.ndarray) -> np.ndarray:
    return image + alpha[..., None] * (np.asarray(color, np.float32) - image)


def _skin(rng, color) -> np.ndarray:
    shade = 1 + 0.035 * _noise(rng, 60) + 0.02 * _noise(rng, 5)
    return (color + rng.normal(0, 4, 3)).astype(np.float32) * shade[..., None]


def _outline(rng, code) -> tuple[np.ndarray, np.ndarray, dict]:
    """The lesion's exact mask, its depth (1 in the middle, 0 on the border, below 0 outside) and its shape numbers."""
    irregular = {"mel": 0.11, "akiec": 0.09, "bcc": 0.07, "bkl": 0.05, "nv": 0.02, "df": 0.03, "vasc": 0.05}[code]
    lobes = range(2, 9)
    amplitude = {k: irregular * rng.normal() / (1 if k < 4 else 1.6) for k in lobes}
    phase = {k: rng.uniform(0, 2 * np.pi) for k in lobes}
    elongation = rng.uniform(1.0, 1.5 if code == "mel" else 1.3)
    radius = RADIUS * rng.uniform(0.75, 1.2) * (0.85 if code == "df" else 1)
    y, x = np.mgrid[:CANVAS, :CANVAS].astype(np.float32) - CANVAS / 2
    x, y = x / np.sqrt(elongation), y * np.sqrt(elongation)
    angle = np.arctan2(y, x)
    border = radius * (1 + sum(amplitude[k] * np.cos(k * angle + phase[k]) for k in lobes))
    depth = (1 - np.hypot(x, y) / np.maximum(border, 0.3 * radius)).astype(np.float32)
    shape = {"elongation": round(elongation, 3), "irregularity": round(float(np.std(list(amplitude.values()))), 4)}
    return depth > 0, depth, shape


def _edge(depth: np.ndarray, softness: float) -> np.ndarray:
    return 1 / (1 + np.exp((-depth / softness).clip(-60, 60)))


def _network(rng, cell: float, disorder: float) -> np.ndarray:
    """A honeycomb of lines: 1 on a line, 0 in a hole, with cells `cell` pixels wide."""
    y, x = np.mgrid[:CANVAS, :CANVAS].astype(np.float32)
    x, y = x + disorder * cell * _noise(rng, 3 * cell), y + disorder * cell * _noise(rng, 3 * cell)
    k = 4 * np.pi / (np.sqrt(3) * cell)
    waves = sum(np.cos(k * (x * np.cos(a) + y * np.sin(a))) for a in (0.2, 0.2 + 2 * np.pi / 3, 0.2 + 4 * np.pi / 3))
    return 1 / (1 + np.exp((waves + 0.4) * 3))


def _spots(rng, where: np.ndarray, count: int, low: float, high: float, blur: float) -> np.ndarray:
    """`count` soft discs with radii in [low, high] pixels, centred where the mask `where` is true."""
    field = np.zeros((CANVAS, CANVAS), np.float32)
    ys, xs = np.nonzero(where)
    if len(ys):
        for i in rng.integers(len(ys), size=count):
            cv2.circle(field, (int(xs[i]), int(ys[i])), round(rng.uniform(low, high)), 1.0, -1, cv2.LINE_AA)
    return cv2.GaussianBlur(field, (0, 0), blur)


def _vessels(rng, where: np.ndarray, count: int, branches: int, width: float) -> np.ndarray:
    """`count` winding lines that start inside `where` and branch `branches` times, thinner each time."""
    field = np.zeros((CANVAS, CANVAS), np.float32)
    ys, xs = np.nonzero(where)

    def grow(x, y, angle, length, thick, left):
        points = [(x, y)]
        for _ in range(int(length / 4)):
            angle += rng.normal(0, 0.25)
            x, y = x + 4 * np.cos(angle), y + 4 * np.sin(angle)
            points.append((x, y))
        line = np.round(np.array(points) * 8).astype(np.int32)
        cv2.polylines(field, [line], False, 1.0, max(1, round(thick)), cv2.LINE_AA, shift=3)
        for bend in (-0.6, 0.6) if left else ():
            grow(x, y, angle + bend + rng.normal(0, 0.2), length * 0.7, thick * 0.7, left - 1)

    for i in rng.integers(len(ys), size=count):
        grow(float(xs[i]), float(ys[i]), rng.uniform(0, 2 * np.pi), RADIUS * 0.45, width, branches)
    return cv2.GaussianBlur(field, (0, 0), 0.8) * where


# --- one painter per class: (rng, skin, inside, depth) -> canvas and attributes ---


def _nevus(rng, skin, inside, depth):
    # A nevus is darker than the skin around it, on dark skin too.
    brown = np.minimum(np.array((128, 82, 52), np.float32), skin.mean((0, 1)) * 0.6) * rng.uniform(0.8, 1.15)
    alpha = _edge(depth, 0.05) * (0.75 + 0.12 * np.clip(depth * 2, 0, 1))
    canvas = _blend(skin, brown, alpha)
    canvas = _blend(
        canvas, brown * 0.6, 0.55 * alpha * _network(rng, rng.uniform(9, 12), 0.1) * np.clip(1.3 - depth, 0, 1)
    )
    return canvas, {"network": "regular", "colors": 1}


def _melanoma(rng, skin, inside, depth):
    alpha = _edge(depth, 0.02)
    canvas = _blend(skin, (92, 56, 38), 0.95 * alpha)
    palette = [(28, 18, 18), (70, 84, 116), (172, 60, 52), (150, 96, 58), (226, 206, 200)]
    chosen = [0, 1, *rng.choice([2, 3, 4], size=2, replace=False)]
    for i in chosen:
        patch = _edge(_noise(rng, rng.uniform(45, 75)) - 0.55, 0.12)
        canvas = _blend(canvas, palette[i], (0.8 if i < 2 else 0.65) * alpha * patch)
    dark = _network(rng, rng.uniform(11, 16), 0.5) * _edge(_noise(rng, 60), 0.2)
    canvas = _blend(canvas, (24, 14, 12), 0.6 * alpha * dark)
    canvas = _blend(canvas, (16, 10, 10), 0.85 * _spots(rng, inside & (depth < 0.35), 26, 2, 5, 0.8) * alpha)
    return canvas, {"network": "atypical", "colors": len(chosen) + 1}


def _keratosis(rng, skin, inside, depth):
    tan = np.array((176, 130, 76), np.float32) * rng.uniform(0.85, 1.1)
    alpha = _edge(depth, 0.012)
    canvas = _blend(skin, tan, 0.92 * alpha)
    ridges = _edge(np.sin(_noise(rng, 26) * 5), 0.5)
    canvas = _blend(canvas, tan * 0.62, 0.5 * alpha * ridges)
    canvas = _blend(canvas, (62, 40, 24), 0.9 * _spots(rng, depth > 0.1, int(rng.integers(8, 16)), 3, 6, 0.9) * alpha)
    canvas = _blend(
        canvas, (250, 240, 214), 0.95 * _spots(rng, depth > 0.1, int(rng.integers(10, 20)), 2, 4, 0.9) * alpha
    )
    return canvas, {"network": "none", "colors": 3}


def _basal(rng, skin, inside, depth):
    alpha = _edge(depth, 0.06)
    canvas = _blend(skin, (232, 158, 154), 0.75 * alpha)
    canvas = _blend(canvas, (250, 214, 208), 0.5 * alpha * _edge(_noise(rng, 40) - 0.5, 0.2))
    nests = _spots(rng, (depth > 0.05) & (depth < 0.8), int(rng.integers(6, 11)), 8, 15, 2.0)
    canvas = _blend(canvas, (84, 86, 118), 0.85 * np.clip(nests, 0, 1))
    vessels = _vessels(rng, inside, int(rng.integers(5, 8)), 3, 3.4)
    return _blend(canvas, (196, 24, 38), 0.9 * vessels), {"network": "none", "colors": 3}


def _actinic(rng, skin, inside, depth):
    alpha = _edge(depth, 0.12)
    canvas = _blend(skin, (206, 92, 78), 0.75 * alpha)
    strawberry = _network(rng, rng.uniform(13, 17), 0.25)
    canvas = _blend(canvas, (246, 190, 166), 0.75 * alpha * (1 - strawberry))
    scales = _edge(_noise(rng, 18) - 0.75, 0.08)
    canvas = _blend(canvas, (250, 240, 206), 0.95 * alpha * scales)
    return canvas, {"network": "strawberry", "colors": 3}


def _vascular(rng, skin, inside, depth):
    alpha = _edge(depth, 0.02)
    canvas = _blend(skin, (176, 40, 52), 0.9 * alpha)
    for color, count in (((112, 12, 40), 26), ((70, 16, 66), 12), ((214, 40, 48), 16)):
        lacunae = np.clip(_spots(rng, depth > 0.08, count, 8, 17, 1.5), 0, 1)
        canvas = _blend(canvas, color, 0.9 * lacunae * alpha)
    canvas = _blend(canvas, (232, 196, 196), 0.5 * alpha * _edge(0.05 - np.abs(np.sin(_noise(rng, 50) * 2.5)), 0.02))
    return canvas, {"network": "none", "colors": 3}


def _fibroma(rng, skin, inside, depth):
    alpha = _edge(depth, 0.1)
    canvas = _blend(skin, (164, 110, 80), 0.75 * alpha)
    ring = alpha * np.clip(1 - depth / 0.5, 0, 1)
    canvas = _blend(canvas, (104, 64, 42), 0.7 * ring * _network(rng, rng.uniform(9, 12), 0.15))
    scar = _edge(depth + 0.08 * _noise(rng, 30) - 0.5, 0.035)
    return _blend(canvas, (250, 238, 232), 0.95 * scar), {"network": "delicate ring", "colors": 2}


_PAINTERS = {
    "nv": _nevus,
    "mel": _melanoma,
    "bkl": _keratosis,
    "bcc": _basal,
    "akiec": _actinic,
    "vasc": _vascular,
    "df": _fibroma,
}


def _view(rng, canvas, inside, height) -> tuple[np.ndarray, np.ndarray]:
    """Cut one photograph from the canvas: rotated, shifted, scaled, and lit slightly differently."""
    width = height * 4 // 3
    scale = height / CANVAS * rng.uniform(1.15, 1.5)
    matrix = cv2.getRotationMatrix2D((CANVAS / 2, CANVAS / 2), rng.uniform(0, 360), scale)
    matrix[:, 2] += np.array((width, height)) / 2 - CANVAS / 2 + rng.normal(0, 0.04 * height, 2)
    image = cv2.warpAffine(canvas, matrix, (width, height), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT)
    mask = cv2.warpAffine(inside.astype(np.uint8) * 255, matrix, (width, height), flags=cv2.INTER_NEAREST)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    radius = np.hypot((x - width / 2) / width, (y - height / 2) / height)
    light = rng.uniform(0.92, 1.08) * (1 - rng.uniform(0, 0.35) * radius**2)
    image = image * light[..., None] * rng.normal(1, 0.015, 3)
    return (image + rng.normal(0, 1.5, image.shape)).astype(np.float32), mask


def _hairs(rng, image, count) -> np.ndarray:
    height, width = image.shape[:2]
    field = np.zeros((height, width), np.float32)
    for _ in range(count):
        start, bend = rng.uniform((0, 0), (width, height)), rng.normal(0, 0.12 * height, 2)
        angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.1) * height
        t = np.linspace(0, 1, 24)[:, None]
        curve = start + t * length * np.array((np.cos(angle), np.sin(angle))) + bend * 4 * t * (1 - t)
        line = np.round(curve * 8).astype(np.int32)
        cv2.polylines(field, [line], False, 1.0, max(1, height // 160), cv2.LINE_AA, shift=3)
    return _blend(image, (38, 26, 20), 0.85 * field)


def _bubbles(rng, image, count) -> np.ndarray:
    height, width = image.shape[:2]
    for _ in range(count):
        center, radius = rng.uniform((0, 0), (width, height)), rng.uniform(0.02, 0.06) * height
        y, x = np.mgrid[:height, :width].astype(np.float32)
        distance = np.hypot(x - center[0], y - center[1])
        image = _blend(image, (255, 255, 250), 0.5 * np.exp(-((distance - radius) ** 2) / 2))
        shine = np.hypot(x - center[0] + radius * 0.4, y - center[1] + radius * 0.4)
        image = _blend(image, (255, 255, 255), 0.8 * np.exp(-(shine**2) / (0.05 * radius**2 + 1)))
    return image
