"""Image files where they lie: which of a folder's files they are, their ids, and whether they can be read."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from dermgen.blocks import counted
from dermgen.config import InputError
from dermgen.data import preprocess
from dermgen.data.names import image_ids, is_text, printable


def folder_images(folder: str | Path, what: str) -> list[tuple[str, str]]:
    """All images of a folder by name, as (image id, path); hidden files and `Thumbs.db` are not images.

    Raises:
        InputError: if the folder is missing or has no images.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{what}: no such folder: {folder}")
    paths = image_files(folder)
    if not paths:
        raise InputError(f"{what}: {folder} has no images ({', '.join(sorted(preprocess.FORMATS))})")
    if odd := [p for p in paths if not is_text(p)]:
        raise InputError(f"{what}: the file name {printable(odd[0])} is not UTF-8: rename the file")
    return list(zip(image_ids([p.name for p in paths]), map(str, paths), strict=True))


def image_files(folder: Path) -> list[Path]:
    """Files of a folder with an image's ending, by name, hidden ones left out.

    Raises:
        InputError: if folders inside it have images too, which nobody would read.
    """
    inside = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    for deeper in (p for p in inside if p.is_dir()):
        lost = next((p for p in deeper.rglob("*") if p.suffix.lower() in preprocess.FORMATS), None)
        if lost:
            raise InputError(
                f"{folder} has images in folders inside it (as {lost.relative_to(folder)}), which are not read: put "
                "them all into one folder, or make a manifest with `dermgen prepare`"
            )
    return [p for p in inside if p.suffix.lower() in preprocess.FORMATS and not p.is_dir()]


def check_readable(paths: Sequence[str]) -> None:
    """Raise `InputError` that names files which are missing or not whole images; each is read to its end.

    A PNG by its checksums, any other format by decoding it, since a JPEG does not tell that it was cut off.
    """

    def problem(path: str) -> str:
        if Path(path).suffix.lower() == ".png" and preprocess.is_whole_png(Path(path)):
            return ""
        try:
            preprocess.read_image(Path(path))
        except preprocess.BadImage as error:
            return f"{path} ({error})"
        return ""

    with ThreadPoolExecutor() as pool:
        bad = [text for text in pool.map(problem, paths) if text]
    if bad:
        raise InputError(
            f"{len(bad)} of {counted(len(paths), 'image')} cannot be read: {', '.join(bad[:3])}; replace or remove them"
        )


def read_pixels(path: str | Path) -> np.ndarray:
    """The pixels of an image file, uint8 (H, W, 3) RGB.

    Raises:
        InputError: naming the file, if it is missing or not a whole image.
    """
    try:
        return preprocess.read_image(Path(path))
    except (preprocess.BadImage, OSError) as error:
        raise InputError(f"{path}: {error}") from error


def read_each(read: Callable[[str], Any], paths: Sequence[str]) -> list:
    """What `read` finds in each file, several at a time.

    Raises:
        InputError: naming a file that cannot be read.
    """

    def of(path: str):
        try:
            return read(path)
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error}): replace it, or remove it from metadata.csv") from error

    with ThreadPoolExecutor() as pool:
        return list(pool.map(of, paths))
