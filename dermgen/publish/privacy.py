"""What must not be published: EXIF, patients' ids, paths of this machine, tokens."""

import io
import json
import re
import tarfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import get_token
from PIL import Image

from dermgen.data import preprocess
from dermgen.data.preprocess import FORMATS

TEXTS = (".json", ".jsonl", ".yaml", ".yml", ".md", ".txt", ".csv")
# Any absolute path of two or more parts; a URL has no blank or quote before its slashes.
PATH = re.compile(r"""(?:^|[\s"'=:,(\[`>])((?:/|~/|[A-Za-z]:[\\/]{1,2}|\\{2,4})[\w.@+-]+(?:[/\\][^\s"'`<>,)\]]+)+)""")
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}\b")
DRIVE = re.compile(r"[A-Za-z]:[\\/]")
# Columns in which a bare number can be a patient's id: names and other ids are full of numbers.
DESCRIBING = ("caption", "prompt", "prompt_read", "negative_prompt", "negative_prompt_read")
LONGEST_TEXT = 64 * 2**20


@dataclass(frozen=True)
class Finding:
    """Something in a file that must not be published."""

    kind: str  # EXIF, patient id, path or token
    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind} in {self.file}" + (f" ({self.what})" if self.what else "")


def without_paths(value: Any) -> Any:
    """Settings or facts with each path of this machine reduced to its last name."""
    if isinstance(value, dict):
        return {key: without_paths(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(part) for part in value]
    if not isinstance(value, str):
        return value
    name, equals, rest = value.partition("=")
    if equals and name.startswith("--"):
        return f"{name}={without_paths(rest)}"
    if value.startswith(("/", "~", "./", "../")) or DRIVE.match(value):
        return re.split(r"[\\/]", value.rstrip("\\/"))[-1] or value
    # A relative path must exist to count as one: Hub ids have a slash too.
    return Path(value).name if "/" in value and len(value) < 1000 and Path(value).exists() else value


def without_paths_in(text: str) -> str:
    """A text in which each word that is a path is reduced to its last name."""
    return " ".join(without_paths(word) for word in text.split(" "))


def scan(folder: Path, patient_ids: Collection[str] = ()) -> list[Finding]:
    """Everything in the files of `folder` that must not be published, at most one finding of each kind per file."""
    ids = _Ids(patient_ids)
    token = get_token()
    findings = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        file = path.relative_to(folder).as_posix()
        seen = set()
        for kind, what in _in_file(path, file, ids, token):
            if kind not in seen:
                seen.add(kind)
                findings.append(Finding(kind, file, what))
    return findings


def _in_file(path: Path, file: str, ids: "_Ids", token: str | None) -> Iterator[tuple[str, str]]:
    yield from _in_text(file, ids, token)
    suffix = path.suffix.lower()
    if suffix in FORMATS:
        yield from _in_image(path.read_bytes(), ids, token)
    elif suffix == ".parquet":
        yield from _in_parquet(path, ids, token)
    elif suffix == ".tar":
        with tarfile.open(path) as tar:
            for member in tar:
                content = tar.extractfile(member).read()
                yield from _in_text(member.name, ids, token)
                if Path(member.name).suffix.lower() in FORMATS:
                    yield from _in_image(content, ids, token)
                else:
                    yield from _in_text(content.decode(), ids, token)
    elif suffix == ".safetensors":
        yield from _in_text(json.dumps(_safetensors_metadata(path)), ids, token)
    elif suffix in TEXTS and path.stat().st_size <= LONGEST_TEXT:
        yield from _in_text(path.read_text(encoding="utf-8", errors="replace"), ids, token)


def _in_text(text: str, ids: "_Ids", token: str | None, described: bool = False) -> Iterator[tuple[str, str]]:
    """`described`: the text describes an image, so that a bare number in it can be a patient's."""
    if TOKEN.search(text) or (token and token in text):
        yield "token", ""  # never repeated
    path = PATH.search(text)
    if path:
        yield "path of this machine", path[1][:80]
    patient = ids.first_in(text, described)
    if patient:
        yield "patient id", patient


def _in_image(content: bytes, ids: "_Ids", token: str | None) -> Iterator[tuple[str, str]]:
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        if preprocess.has_exif(image):
            yield "EXIF", ""
        texts = [v if isinstance(v, str) else v.decode("utf-8", "replace") for v in image.info.values() if _is_text(v)]
    for text in texts:
        yield from _in_text(text, ids, token)


def _is_text(value: Any) -> bool:
    return isinstance(value, str | bytes)  # a JPEG's comment is bytes


def _in_parquet(path: Path, ids: "_Ids", token: str | None) -> Iterator[tuple[str, str]]:
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(path).iter_batches(batch_size=64):
        for row in batch.to_pylist():
            for name, value in row.items():
                if isinstance(value, str):
                    yield from _in_text(value, ids, token, described=name in DESCRIBING)
                    if name == "patient_id" and value:
                        yield "patient id", "column patient_id"
                elif isinstance(value, dict) and value.get("bytes"):
                    yield from _in_text(value.get("path") or "", ids, token)
                    yield from _in_image(value["bytes"], ids, token)


def _safetensors_metadata(path: Path) -> dict:
    """The text metadata in a safetensors file's header (https://github.com/huggingface/safetensors#format)."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(size)).get("__metadata__", {})


class _Ids:
    """Patients' ids, matched in texts as whole words whatever separates their parts.

    `P-0042` matches `photo_p_0042.jpg`. Ids of under 3 letters or digits occur in every text and are not searched for;
    bare numbers only in descriptions of an image.
    """

    def __init__(self, ids: Collection[str]):
        parts = {tuple(self._parts(i)) for i in ids}
        self.of_parts = {p for p in parts if sum(map(len, p)) >= 3}
        self.words = {p for p in self.of_parts if not "".join(p).isdigit()}

    def first_in(self, text: str, described: bool) -> str | None:
        wanted = self.of_parts if described else self.words
        if not wanted:
            return None
        words = self._parts(text)
        for length in sorted({len(p) for p in wanted}):
            for i in range(len(words) - length + 1):
                if tuple(words[i : i + length]) in wanted:
                    return "_".join(words[i : i + length])
        return None

    @staticmethod
    def _parts(text: str) -> list[str]:
        return re.findall(r"[^\W_]+", text.lower())
