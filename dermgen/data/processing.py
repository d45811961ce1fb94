"""Photographs to squares: every file of a raw table read, cropped, resized and written, once for what it depends on."""

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from dermgen.config import whole_file
from dermgen.data import duplicates, preprocess

ODD_MASKS = ("full", "empty", "unclear")  # of one value, or of more values than lesion and skin
MIN_SIDE, MIN_SPREAD = 16, 2.0  # pixels; levels of 255


@dataclass(frozen=True)
class Steps:
    """The settings that decide what is made of a file."""

    resolution: int
    crop: str = "center"
    crop_margin: float = 0.25
    remove_hair: bool = False
    color_constancy: bool = False
    transparency: str = "white"
    bit_depth: int | None = None

    @classmethod
    def of(cls, config: Any) -> "Steps":
        """Of the settings of `dermgen prepare`."""
        return cls(**{field.name: getattr(config, field.name) for field in fields(cls)})


def process_all(table: pd.DataFrame, steps: Steps, folder: Path, num_workers: int) -> list[dict]:
    """Prepare every file on all cores; what an earlier run made of the same bytes with the same settings is kept.

    Args:
        table: rows with `image_id`, `path`, `mask_path` and `stem`, the name of the output.
        steps: what is done.
        folder: with `images` and `masks`.
        num_workers: processes.

    Returns:
        For each row `reason` ("" or why it cannot be used), and of a usable one `thumbnail` and `hashes` (for finding
        duplicates), `crop`, `mask` ("", "used" or one of `ODD_MASKS`) and `notes` (what was converted in reading).
    """
    log = folder / ".finished.jsonl"
    logged = log.read_text(errors="replace") if log.exists() else ""
    finished = {}
    for line in logged.splitlines():
        with suppress(json.JSONDecodeError):  # a line that a full disk or a power cut left half written
            note = json.loads(line)
            finished[note["image_id"]] = note
    jobs = [(row, finished.get(row["image_id"]), steps, folder) for row in table.to_dict("records")]
    results = []
    with (
        _workers(num_workers) as run_all,
        open(log, "a") as file,
        tqdm(total=len(jobs), desc="images", unit="image", dynamic_ncols=True) as progress,
    ):
        if logged and not logged.endswith("\n"):
            file.write("\n")
        for (row, kept, *_), result in zip(jobs, run_all(_process_file, jobs), strict=True):
            results.append(result)
            progress.update()
            if not result["reason"] and (kept is None or kept.get("key") != result["key"]):
                note = {name: result[name] for name in ("key", "crop", "mask", "notes")}
                file.write(json.dumps({"image_id": row["image_id"], **note}) + "\n")
                file.flush()
    return results


@dataclass(frozen=True)
class Processed:
    """What is made of a file.

    Attributes:
        image: uint8 (H, H, 3) RGB.
        mask: uint8 (H, H), 0 and 255; None without one, or where it tells nothing.
        crop: which crop it got.
        mask_kind: "", "used" or one of `ODD_MASKS`.
        notes: what was converted in reading.
    """

    image: np.ndarray
    mask: np.ndarray | None
    crop: str
    mask_kind: str
    notes: tuple[str, ...]


def process_file(path: str, mask_path: str, steps: Steps) -> Processed:
    """Read a photograph, with its mask unless that is "", and take it through the steps.

    Raises:
        preprocess.BadImage: if one of them cannot be used.
    """
    image, notes = preprocess.read_photo(Path(path), steps.transparency, steps.bit_depth)
    _check_picture(image)
    mask, kind = _read_mask(Path(mask_path), image.shape) if mask_path else (None, "")
    return Processed(*process_image(image, mask, steps), kind, tuple(notes))


def process_image(
    image: np.ndarray, mask: np.ndarray | None, steps: Steps
) -> tuple[np.ndarray, np.ndarray | None, str]:
    """One image through the switched-on steps: the square picture, its mask, and which crop it got."""
    height, width = image.shape[:2]
    crop, box = "center", preprocess.center_box(height, width)
    if steps.crop == "lesion":
        outline, crop = (mask, "mask") if mask is not None else (preprocess.segment_lesion(image), "segmentation")
        if outline is not None and (outline > 127).any():
            box = preprocess.lesion_box(outline, steps.crop_margin)
        else:
            crop = "center, no lesion found"
    top, left, side = box
    image = image[top : top + side, left : left + side]
    if steps.remove_hair:
        image = preprocess.remove_hair(image)
    if steps.color_constancy:
        image = preprocess.shades_of_grey(image)
    image = preprocess.resize(image, steps.resolution)
    if mask is not None:
        mask = preprocess.resize_mask(mask[top : top + side, left : left + side], steps.resolution)
    return image, mask, crop


@contextmanager
def _workers(number: int) -> Iterator[Callable]:
    """A `map` over fresh processes: forked ones would inherit locks that threads of this one hold. One works here."""
    if number == 1:
        yield map
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(number, spawn, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        yield partial(pool.map, chunksize=16)


def _process_file(job: tuple[dict, dict | None, Steps, Path]) -> dict:
    """Prepare one file, unless its output is there, whole, and of the same bytes; what comes back is small."""
    row, kept, steps, folder = job
    path, mask_path = row["path"], row["mask_path"]
    target, mask_target = (folder / kind / f"{row['stem']}.png" for kind in ("images", "masks"))
    try:
        key = _key(path, mask_path, steps)
        image = _kept_output(target, mask_target, kept, steps.resolution) if kept and kept.get("key") == key else None
        if image is None:
            made = process_file(path, mask_path, steps)
            image = made.image
            mask_target.unlink(missing_ok=True)
            if made.mask is not None:
                _write_png(mask_target, made.mask)
            _write_png(target, image)
            kept = {"key": key, "crop": made.crop, "mask": made.mask_kind, "notes": list(made.notes)}
    except preprocess.BadImage as error:
        if not isinstance(error, preprocess.Unreadable):
            for stale in (target, mask_target):  # of an earlier run, when the file was another one
                stale.unlink(missing_ok=True)
        return {"reason": str(error)}
    thumbnail, hashes = duplicates.fingerprint(Image.fromarray(image))
    of_file = {name: kept[name] for name in ("key", "crop", "mask", "notes")}
    return {"reason": "", "thumbnail": thumbnail, "hashes": hashes, **of_file}


def _key(path: str, mask_path: str, steps: Steps) -> str:
    """Of all that an output depends on: the bytes of the photograph and of its mask, and the settings."""
    digest = hashlib.sha256(repr(steps).encode())
    for name in (path, mask_path):
        try:
            digest.update(hashlib.sha256(Path(name).read_bytes()).digest() if name else b"none")
        except OSError as error:
            raise preprocess.Unreadable(f"cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def _kept_output(target: Path, mask_target: Path, kept: dict, resolution: int) -> np.ndarray | None:
    """The output of an earlier run; None where it is missing or not whole, as after a power cut."""
    try:
        image = preprocess.read_image(target)
        if kept["mask"] in ("used", "full") and preprocess.read_image(mask_target).shape != image.shape:
            return None
    except preprocess.BadImage:
        return None
    return image if image.shape == (resolution, resolution, 3) else None


def _check_picture(image: np.ndarray) -> None:
    height, width = image.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise preprocess.BadImage(f"too small: under {MIN_SIDE} pixels")
    if image.std(axis=(0, 1)).max() < MIN_SPREAD:
        raise preprocess.BadImage("featureless: one colour")


def _read_mask(path: Path, shape: tuple) -> tuple[np.ndarray | None, str]:
    """The mask as 0 and 255, and whether it is used, full, empty or unclear; None for one that tells nothing."""
    mask = preprocess.read_mask(path)
    if mask.shape != shape[:2]:
        raise preprocess.BadImage(f"mask is {mask.shape[1]} x {mask.shape[0]}, image is {shape[1]} x {shape[0]}")
    low, high = int(mask.min()), int(mask.max())
    if low == high:
        return (np.full_like(mask, 255), "full") if high else (None, "empty")
    # Numbers of regions, most likely, or a photograph.
    if (high - low < 64 and len(np.unique(mask)) > 2) or not preprocess.is_two_valued(mask):
        return None, "unclear"
    return (mask > (low + high) / 2).astype(np.uint8) * 255, "used"


def _write_png(path: Path, image: np.ndarray) -> None:
    """Write an image, without any of the source's metadata.

    It is flushed to the disk, 1 ms beside 50 ms of work on it: the manifest, written last, then names no image that a
    power cut could still take.
    """
    data = cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
    with whole_file(path) as unfinished:
        unfinished.write_bytes(data)
