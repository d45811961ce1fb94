"""Requests to a model: images of classes, of a grid of attributes, or made from other images."""

import dataclasses
import itertools
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from dermgen.config import InputError, read_yaml
from dermgen.data import captions, manifest
from dermgen.data.image_files import folder_images
from dermgen.data.subsets import choose
from dermgen.labels import Taxonomy
from dermgen.settings.generate import GRID_FIELDS, GenerateConfig

OPTIONS = frozenset(field.name for field in dataclasses.fields(GenerateConfig))
NUMBER = 16  # images by default


@dataclass(frozen=True)
class InitImage:
    """An image that another is made from."""

    path: str
    image_id: str
    dx: str = ""
    license: str = ""
    lesion_id: str = ""


def read_init_images(folder: str | None, split: str, dx: str | None = None) -> list[InitImage]:
    """The images of a plain folder by name, or of one split, and perhaps one class, of a manifest; none for None.

    Raises:
        InputError: if there are none, or a manifest's images are synthetic.
    """
    if folder is None:
        return []
    if not Path(folder, "metadata.csv").exists():
        return [InitImage(path, image_id) for image_id, path in folder_images(folder, "init_images")]
    table = manifest.select(manifest.read_real(folder, need_classes=False), dx=dx, split=split, where=folder)
    columns = ("path", "image_id", "dx", "license", "lesion_id")
    return [InitImage(*row) for row in zip(*(table[c] for c in columns), strict=True)]


def random_subset(images: Sequence[InitImage], number: int, seed: int) -> list[InitImage]:
    """A random subset of this many; all, if there are no more."""
    ids, lesions, classes = ([getattr(image, name) for image in images] for name in ("image_id", "lesion_id", "dx"))
    return [images[i] for i in choose(ids, number, seed, lesions, classes)]


def refuse_unused(config: GenerateConfig, options: Collection[str], model: str) -> None:
    """Raise `InputError` for an option that is set and is not one of `options`, so that it would do nothing."""
    for field in dataclasses.fields(config):
        if field.name not in options and getattr(config, field.name) != field.default:
            raise InputError(f"--{field.name} has no meaning for {model}: leave it out")


def class_counts(text: str) -> list[tuple[str, int]]:
    """The pairs of `mel:500,df:300`; a class may have commas and colons. Raises `InputError` for anything else."""
    counts, rest = [], text
    while rest.strip():
        match = re.match(r"\s*(.+?)\s*:\s*([0-9]+)\s*(?:,|$)", rest)
        if not match or int(match[2]) < 1:
            raise InputError(f"--classes must be like mel:500,df:300, got {rest.strip()!r}")
        counts.append((match[1], int(match[2])))
        rest = rest[match.end() :]
    if not counts:
        raise InputError(f"--classes must be like mel:500,df:300, got {text!r}")
    return counts


def grid_rows(path: Path, template: str, taxonomy: Taxonomy) -> list[dict]:
    """Every combination of the lists in the grid's file, each with its prompt by the caption template."""
    lists = read_yaml(path, "the grid")
    if not isinstance(lists, dict) or not all(isinstance(v, list) and v for v in lists.values()):
        raise InputError(f"{path} must hold lists, as `dx: [mel, df]`")
    unknown = set(lists) - set(GRID_FIELDS)
    if unknown:
        raise InputError(
            f"{path}: unknown attribute {sorted(unknown)[0]!r}; the attributes are {', '.join(GRID_FIELDS)}"
        )
    if "skin_tone" in lists and "{skin_tone}" not in template:
        template += ", {skin_tone}"
    rows = (dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values()))
    return [{**row, "prompt": fill(template, row, taxonomy)} for row in rows]


def fill(template: str, row: dict, taxonomy: Taxonomy) -> str:
    """The caption template with the attributes of `row`, its class by name."""
    lesion = taxonomy[row["dx"]] if "dx" in row else None
    malignancy = lesion.malignancy if lesion else ""
    return captions.fill(template, {"malignancy": malignancy, **row, "dx": lesion.name if lesion else ""})
