"""Tables as people have them: common encodings, separators and spellings, read as text if unambiguous."""

import io
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from dermgen.config import InputError

if TYPE_CHECKING:  # pandas takes 60 MiB, which training on a plain folder does not need
    import pandas as pd

# Spellings of an unknown value, in lower case.
UNKNOWN = frozenset(["", *"na n/a n.a. nan none null nil unknown unk missing undefined #n/a <na> - -- ? .".split()])
_SEX = {"m": "male", "male": "male", "man": "male", "f": "female", "female": "female", "woman": "female"}
_TRUE, _FALSE = frozenset("true t yes 1 1.0".split()), frozenset("false f no 0 0.0".split())


def read_table(path: Path) -> "pd.DataFrame":
    """A table as text: UTF-8, UTF-16 or Windows-1252; commas, semicolons or tabs; no blanks around a cell.

    Raises:
        InputError: if the file is a workbook, not a table, or names a column twice.
    """
    import pandas as pd

    lines = _text(path).lstrip("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if lines[:4].lower() == "sep=":  # Excel's own first line
        lines = lines.partition("\n")[2]
    header = lines.partition("\n")[0]
    separator = max(",", ";", "\t", key=header.count)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pd.errors.ParserWarning)
            table = pd.read_csv(io.StringIO(lines), sep=separator, dtype=str, keep_default_na=False)
            if not isinstance(table.index, pd.RangeIndex):  # rows have one cell more than the header
                if (table.iloc[:, -1].fillna("") == "").all():  # at the end: each line ends in a separator
                    table = pd.read_csv(
                        io.StringIO(lines), sep=separator, dtype=str, keep_default_na=False, index_col=False
                    )
                table = table.reset_index(drop=True)  # at the start: the row names of R
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"cannot read the table {path}: {error}") from error
    table.columns = [str(c).strip() for c in table.columns]
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise InputError(f"{path} has two columns called {twice[0]!r}: rename one of them")
    return table.fillna("").map(str.strip)


def _text(path: Path) -> str:
    data = path.read_bytes()
    if data[:4] in (b"PK\x03\x04", b"\xd0\xcf\x11\xe0"):
        raise InputError(f"{path} is an Excel workbook: save its sheet as CSV (UTF-8) and run again")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", errors="replace")
    if data[1:2] == b"\0":
        return data.decode("utf-16-le", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def known(text: str) -> str:
    """The text, or "" if it is a word for unknown."""
    return "" if text.strip().lower() in UNKNOWN else text.strip()


def sex(text: str) -> str:
    """`male`, `female`, or "" if the text is not certain."""
    return _SEX.get(text.strip().lower(), "")


def age(text: str) -> float:
    """In years, from 0 to 120; NaN if the text is not certain (`60+`, `85-90`, -1, 999)."""
    match = re.fullmatch(r"(\d+(?:[.,]\d+)?) ?(?:y|yrs?|years?)?(?: old)?", text.strip().lower())
    years = float(match[1].replace(",", ".")) if match else float("nan")
    return years if years <= 120 else float("nan")


def truth(text: str) -> str:
    """`true` or `false` for any usual spelling of them; other texts unchanged."""
    word = text.strip().lower()
    return "true" if word in _TRUE else "false" if word in _FALSE else text
