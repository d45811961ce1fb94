"""Ids and classes as file names: the one place where a text of a user's becomes part of a path."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

MAX_BYTES = 120  # leaves room for an ending and a number under the 255 of file systems and the 143 of encrypted ones
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # Windows


def file_stems(texts: Sequence[str], dots: bool = True) -> list[str]:
    """File names without ending, one for each text: the text itself where every file system takes it, else near it.

    A changed name ends in a hash of the text, so different texts never share a file, not even where a file system
    ignores case. No name has a folder in it, and with `dots=False` none has a dot.
    """
    stems = [text if _is_safe(text) and (dots or "." not in text) else _near(text) for text in texts]
    times = Counter(stem.casefold() for stem in dict(zip(texts, stems, strict=True)).values())
    return [
        stem if times[stem.casefold()] == 1 or stem != text else _near(text)
        for text, stem in zip(texts, stems, strict=True)
    ]


def file_stem(text: str) -> str:
    """`file_stems` of a single text."""
    return file_stems([text])[0]


def leaves_folder(name: str) -> bool:
    """Whether a file name of a table points out of the table's folder, on any operating system."""
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    return posix.is_absolute() or bool(windows.drive or windows.root) or ".." in (*posix.parts, *windows.parts)


def is_text(path: Path) -> bool:
    """Whether a path can stand in a table: names on disk are bytes, of any encoding."""
    return not re.search("[\ud800-\udfff]", str(path))


def printable(path: Path) -> str:
    """A path for a terminal or a table, with the bytes that are no UTF-8 spelled out."""
    return str(path).encode(errors="backslashreplace").decode()


def _is_safe(text: str) -> bool:
    return (
        re.fullmatch(r"[\w(][\w ()+,.=@-]*", text) is not None
        and text[-1] not in " ."
        and unicodedata.is_normalized("NFC", text)
        and len(text.encode()) <= MAX_BYTES
        and not _RESERVED.fullmatch(text)
    )


def _near(text: str) -> str:
    words = re.sub(r"[^\w+=@-]+", "_", unicodedata.normalize("NFC", text)).strip("_")
    short = words.encode(errors="ignore")[: MAX_BYTES - 17].decode(errors="ignore")
    return f"{short or 'unnamed'}-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:16]}"
