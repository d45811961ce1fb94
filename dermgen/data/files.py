"""The files of a download: which are photographs, which are masks, and which mask belongs to which photograph."""

import hashlib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dermgen.config import InputError
from dermgen.data.names import is_text, printable
from dermgen.data.preprocess import FORMATS, BadImage, is_two_valued, read_image

_MASK_STEM = re.compile(r"(.+)_(?:segmentation|mask|seg|lesion)", re.IGNORECASE)
OTHER_FILE, OTHER_KIND = "another file of its id is used", "not an image by its name"
_NOTES = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".md", ".xlsx", ".xls", ".pdf", ".html", ".xml", ".yaml")
_MASK_FOLDER = re.compile(r"segmentation|mask|_lesion$|_roi$", re.IGNORECASE)


@dataclass(frozen=True)
class Matched:
    """For each id its photograph and its mask ("" if missing), and the files that belong to no row (path, reason)."""

    photos: list[str]
    masks: list[str]
    unused: list[tuple[Path, str]]


def image_files(root: Path) -> list[Path]:
    """All files below a folder with an image's ending, by name; links are followed, hidden files left out.

    Folders that `dermgen prepare` wrote are not part of a download and are left out too.
    """
    return sorted(p for p in walk(root) if p.suffix.lower() in FORMATS and is_text(p))


def other_files(root: Path) -> list[tuple[str, str]]:
    """Files below a folder that are not images by their names, and the reason; system files and notes are left out."""
    others = []
    for path in sorted(walk(root)):
        name = printable(path)
        if not is_text(path):
            others.append((name, "file name is not UTF-8"))
        elif path.suffix.lower() not in (*FORMATS, *_NOTES) and path.name not in ("Thumbs.db", "desktop.ini"):
            others.append((name, f"{OTHER_KIND} ({path.suffix or 'no ending'})"))
    return others


def match_ids(ids: Sequence[str], root: Path, photo_folder: str) -> Matched:
    """Find the photograph and the mask of every id of a table.

    A mask has the name of one (`ID_segmentation`, `ID_mask`), or lies in a folder with such a name beside a photograph
    of the same id. Of several photographs the one in the collection's own folder counts.

    Args:
        ids: of the table.
        root: folder of the download.
        photo_folder: pattern for the names of the collection's folders of photographs.

    Raises:
        InputError: if an id has two candidates, and neither is in the collection's own folder.
    """
    own = re.compile(photo_folder, re.IGNORECASE)
    photos, named_masks, in_mask_folders = defaultdict(list), defaultdict(list), defaultdict(list)
    paths, wanted = image_files(root), {_key(i) for i in ids}
    for path in paths:
        key, as_mask = _key(path.stem), _MASK_STEM.fullmatch(path.stem)
        if as_mask and key not in wanted:
            named_masks[_key(as_mask[1])].append(path)
        elif _MASK_FOLDER.search(path.parent.name) and not own.fullmatch(path.parent.name) and path.parent != root:
            in_mask_folders[key].append(path)
        else:
            photos[key].append(path)
    matched_photos, matched_masks = [], []
    for image_id in ids:
        key = _key(image_id)
        candidates = photos[key] or [p for p in in_mask_folders[key] if not _is_grey(p)]
        exact = [p for p in candidates if p.stem.removesuffix("_downsampled") == image_id] or candidates
        official = [p for p in exact if any(own.fullmatch(part) for part in p.relative_to(root).parts[:-1])]
        photo = _only(official or exact, f"image of {image_id!r}")
        masks = named_masks[key] or [p for p in in_mask_folders[key] if p not in candidates]
        mask = _only(masks, f"mask of {image_id!r}") if photo else None
        matched_photos.append(str(photo or ""))
        matched_masks.append(str(mask or ""))
    used = {*matched_photos, *matched_masks}
    unused = [
        (p, OTHER_FILE if key in wanted else "missing from the table")
        for key, of_key in photos.items()
        for p in of_key
        if str(p) not in used
    ]
    return Matched(matched_photos, matched_masks, unused)


def match_class_folder(folder: Path, elsewhere: Sequence[Path] = ()) -> list[tuple[Path, str]]:
    """The photographs of a class folder, each with its mask or "".

    A file called `NAME_mask`, `NAME_segmentation` or `NAME_lesion`, or in a subfolder with such a name, is the mask of
    the photograph NAME. Without such a photograph, or with the colours of a photograph, it is a photograph itself.

    Args:
        folder: of one class.
        elsewhere: masks of all classes that lie outside it.
    """
    paths = image_files(folder)
    stems = defaultdict(list)
    for path in paths:
        stems[_key(path.stem)].append(path)
    masks = defaultdict(list)
    for path in paths:
        base = mask_of(path, folder)
        partners = [p for p in stems[base] if p != path and mask_of(p, folder) is None] if base else []
        if (partners and not _is_photograph(path)) or path.parent.name.endswith("_roi"):
            masks[base].append(path)
    for path in elsewhere:
        masks[mask_of(path, path.parent.parent) or _key(path.stem)].append(path)
    taken = {p for of_base in masks.values() for p in of_base}
    matched = []
    for path in (p for p in paths if p not in taken):
        mine = masks.get(_key(path.stem), [])
        near = [p for p in mine if p.parent == path.parent] or [p for p in mine if folder.name in p.parts] or mine
        same_name = [p for p in stems[_key(path.stem)] if p not in taken and p != path]
        if near and same_name:
            raise InputError(
                f"{near[0]} may be the mask of {path} or of {same_name[0]}: rename one of the two and its mask"
            )
        matched.append((path, str(_only(near, f"mask of {path}") or "")))
    return matched


def mask_of(path: Path, root: Path) -> str | None:
    """The key of the photograph whose mask a file is, by its name; None for any other file."""
    if as_mask := _MASK_STEM.fullmatch(path.stem):
        return _key(as_mask[1])
    return _key(path.stem) if path.parent != root and _MASK_FOLDER.search(path.parent.name) else None


def is_mask_folder(folder: Path, stems: Iterable[str]) -> bool:
    """Whether a folder beside class folders holds masks: it has such a name, and each file matches a photograph's."""
    if not _MASK_FOLDER.search(folder.name):
        return False
    keys = {_key(stem) for stem in stems}
    return all((mask_of(p, folder) or _key(p.stem)) in keys for p in image_files(folder))


def find_names(root: Path, names: Sequence[str]) -> list[Path]:
    """The files that a table's `file_name` refers to, with either slash and either form of Unicode."""
    listed: dict[str, list[Path]] = {}
    paths = []
    for name in names:
        path = root / name
        if not path.is_file():
            if not listed:
                for p in walk(root):
                    listed.setdefault(_key(p.relative_to(root).as_posix()), []).append(p)
            near = listed.get(_key(name.replace("\\", "/").removeprefix("./")), [])
            path = near[0] if len(near) == 1 else path
        paths.append(path)
    return paths


def walk(root: Path) -> Iterator[Path]:
    """All files below a folder except hidden ones and those that `dermgen prepare` wrote; links are followed."""
    seen = set()
    for name, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(name)
        if real in seen or (name != str(root) and {"prepare.json", "metadata.csv"} <= set(files)):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__MACOSX")
        yield from (Path(name, f) for f in files if not f.startswith("."))


def _only(paths: list[Path], what: str) -> Path | None:
    """The only candidate, or the first of several with the same bytes."""
    if len(paths) > 1 and len({hashlib.sha256(p.read_bytes()).digest() for p in paths}) > 1:
        raise InputError(f"two files may be the {what}, {paths[0]} and {paths[1]}: keep one of them in the data folder")
    return paths[0] if paths else None


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold().removesuffix("_downsampled")


def _is_photograph(path: Path) -> bool:
    """Whether a file with the name of a mask is a photograph after all: in colour, with more than two values."""
    if _is_grey(path) or not _MASK_STEM.fullmatch(path.stem):
        return False
    try:
        return not is_two_valued(read_image(path)[::4, ::4])
    except BadImage:
        return False  # it is refused with a reason when it is read


def _is_grey(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return image.mode in ("1", "L", "P", "LA", "I", "I;16")
    except (OSError, SyntaxError, ValueError):
        return False  # it is refused with a reason when it is read
