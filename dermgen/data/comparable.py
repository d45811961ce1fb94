"""Whether real images can judge a synthetic set: what that knows of them, and whether both are of one size."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from dermgen.blocks import counted
from dermgen.config import InputError
from dermgen.data import manifest
from dermgen.data.generated import Generated
from dermgen.data.image_files import read_each

if TYPE_CHECKING:
    import pandas as pd


class Fault(NamedTuple):
    """Why held-out images cannot judge a set, and an image of which it is true; ids may name patients, so apart."""

    reason: str
    example: str


def equal_files(real: "pd.DataFrame", synthetic: "pd.DataFrame") -> list[tuple[int, int]]:
    """Rows of synthetic images that are files of the real set, byte for byte, each with the real image's row."""
    real_row = {digest: i for i, digest in enumerate(manifest.hashes(real))}
    return [(i, real_row[digest]) for i, digest in enumerate(manifest.hashes(synthetic)) if digest in real_row]


def check(
    real: "pd.DataFrame", held_out: "pd.DataFrame", synthetic: "pd.DataFrame", folder: str | Path
) -> tuple[list[Fault], list[str]]:
    """Why held-out images cannot judge a synthetic set, and notes on what limits their judgement.

    Args:
        real: rows of the whole real set, with `path`.
        held_out: those that judge.
        synthetic: rows of the synthetic set, with `path`.
        folder: the synthetic set's, which records what its model was trained on.
    """
    faults, notes = [], _of_other_sizes(held_out["path"], synthetic["path"])
    real = real.assign(sha256=manifest.hashes(real))  # read once, for both comparisons below
    if equal := equal_files(real, synthetic):
        i, j = equal[0]
        splits = real["split"].iloc[[j for _, j in equal]].replace("", "no split").value_counts()
        named = ", ".join(f"{name}: {n}" for name, n in splits.items())
        which = f"of the {counted(len(synthetic), 'synthetic image')}"
        files = counted(len(equal), f"{which} is a file", f"{which} are files")
        reason = f"{files} of the real set ({named})"
        faults.append(Fault(reason, f"{synthetic['image_id'].iloc[i]}, which is {real['image_id'].iloc[j]}"))
    drawn_over = set(held_out["image_id"]) & set(synthetic.get("source_image_id", [])) - {""}
    if drawn_over:
        reason = f"some of the synthetic images were drawn over {counted(len(drawn_over), 'held-out image')}"
        faults.append(Fault(reason, min(drawn_over)))
    trained_on = Generated.read(folder, set(synthetic.get("model_sha256", []))).trained_on.sha256
    if trained_on is None:
        notes.append("the synthetic set does not record what its model was trained on: it may have been these images")
        return faults, notes
    seen = {i for i, digest in zip(real["image_id"], real["sha256"], strict=True) if digest in trained_on}
    if known := sorted(seen & set(held_out["image_id"])):
        faults.append(Fault(f"the model was trained on {counted(len(known), 'held-out image')}", known[0]))
    elif not seen:
        notes.append(
            "none of the images that the model was trained on is a file of the real set: if both were prepared from "
            "the same photographs in different ways, it may have been trained on held-out ones"
        )
    return faults, notes


def require(real: "pd.DataFrame", held_out: "pd.DataFrame", synthetic: "pd.DataFrame", folder: str | Path) -> list[str]:
    """The notes of `check`; raises `InputError` where it finds a fault."""
    faults, notes = check(real, held_out, synthetic, folder)
    if faults:
        raise InputError(
            f"{folder} cannot be judged by these held-out images: "
            + "; ".join(f"{reason} (as {example})" for reason, example in faults)
            + ". Remove such images, or generate from a model that was trained on the train split of this manifest"
        )
    return notes


def _of_other_sizes(real: Sequence[str], synthetic: Sequence[str]) -> list[str]:
    """A note if the images of the two sets have different sizes."""
    sides = []
    if not len(real):
        return []
    for paths in (real, synthetic):
        sides.append(round(statistics.median(read_each(_shorter_side, paths))))
    if max(sides) <= 1.1 * min(sides):
        return []
    return [
        f"the shorter side of the real images has {sides[0]} pixels, that of the synthetic ones {sides[1]}: a "
        "difference in sharpness counts as a difference in content"
    ]


def _shorter_side(path: str) -> int:
    with Image.open(path) as image:
        return min(image.size)
