"""Ids and classes as file names: the only place where a user's text becomes part of a path."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

MAX_BYTES = 120  # leaves room for an ending and a number within 255 bytes, or 143 on encrypted file systems
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # Windows


def file_stems(texts: Sequence[str], dots: bool = True) -> list[str]:
    """File names without ending, one for each text: the text itself if every file system accepts it, or one like it.

    A changed name ends in a hash of the text, so different texts never share a file, even if a file system ignores
    case. No name contains a folder, and with `dots=False` none contains a dot.
    """
    stems = [text if _is_safe(text) and (dots or "." not in text) else _safe_name(text) for text in texts]
    times = Counter(stem.casefold() for stem in dict(zip(texts, stems, strict=True)).values())
    return [
        stem if times[stem.casefold()] == 1 or stem != text else _safe_name(text)
        for text, stem in zip(texts, stems, strict=True)
    ]


def file_stem(text: str) -> str:
    """`file_stems` of a single text."""
    return file_stems([text])[0]


def image_ids(names: Sequence[str]) -> list[str]:
    """An id for each relative file name: without its ending and with `_` between folders, or the name itself where
    that would be the id, or the name, of another file."""
    short = [PurePosixPath(name.replace("\\", "/")).with_suffix("").as_posix().replace("/", "_") for name in names]
    times, full = Counter(short), set(names)
    return [s if times[s] == 1 and s not in full - {name} else name for s, name in zip(short, names, strict=True)]


def leaves_folder(name: str) -> bool:
    """Whether a file name in a table points outside the table's folder, on any operating system."""
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    return posix.is_absolute() or bool(windows.drive or windows.root) or ".." in (*posix.parts, *windows.parts)


def is_text(path: Path) -> bool:
    """Whether a path can be written into a table: names on disk are bytes in any encoding."""
    return not re.search("[\ud800-\udfff]", str(path))


def printable(path: Path) -> str:
    """A path for a terminal or a table, with bytes that are not UTF-8 escaped."""
    return str(path).encode(errors="backslashreplace").decode()


def _is_safe(text: str) -> bool:
    return (
        re.fullmatch(r"[\w(][\w ()+,.=@-]*", text) is not None
        and text[-1] not in " ."
        and unicodedata.is_normalized("NFC", text)
        and len(text.encode()) <= MAX_BYTES
        and not _RESERVED.fullmatch(text)
    )


def _safe_name(text: str) -> str:
    words = re.sub(r"[^\w+=@-]+", "_", unicodedata.normalize("NFC", text)).strip("_")
    short = words.encode(errors="ignore")[: MAX_BYTES - 17].decode(errors="ignore")
    return f"{short or 'unnamed'}-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:16]}"
