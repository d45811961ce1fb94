"""What `dermgen prepare` records beside a manifest, `prepare.json`: how it was split, and what became of the files."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dermgen import typed
from dermgen.config import write_json
from dermgen.data import tables

# How a manifest was split; versions older than the first of these did not record it.
BY_GROUPS, BY_IMAGE, NO_GROUPS = "groups, by relative deficit", "images", "images, since no groups are known"
AS_GIVEN = "as the folder came"
OLD_SPLIT = "groups, by absolute deficit"


@dataclass(frozen=True)
class Split:
    """How a manifest was split, recorded wherever something is trained or measured on it.

    Attributes:
        leaky: whether it was split by image, on request.
        split_method: one of the constants above; "" where others split it and know lesions.
    """

    leaky: bool = False
    split_method: str = ""

    @classmethod
    def of(cls, folder: str | Path) -> "Split":
        """How the manifest in a folder was split."""
        prepared = Prepared.read(folder) if Prepared.is_one(folder) else None
        if prepared and prepared.split_method is not None:
            return cls(prepared.leaky, prepared.split_method)
        if not _knows_groups(Path(folder, "metadata.csv")):
            return cls(bool(prepared and prepared.leaky), NO_GROUPS)
        return cls(prepared.leaky, OLD_SPLIT) if prepared else cls()

    def warnings(self) -> list[str]:
        """What must be said beside every score on the split."""
        if self.leaky:
            return ["LEAKY: the data was split by image, so that one lesion is in several splits; do not trust scores"]
        if self.split_method == OLD_SPLIT:
            return [
                "OLD SPLIT: an earlier version split this data and gave nearly all lesions with several images to "
                "train; scores on it are not comparable with those on data that is prepared now"
            ]
        if self.split_method == NO_GROUPS:
            return ["NO GROUPS: without lesion or patient ids nobody can tell whether one lesion is in several splits"]
        return []

    def to_json(self) -> dict[str, Any]:
        """By name, to stand among other facts."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class SplitAudit:
    """What the splits hold, and whether they are alike.

    Attributes:
        groups: number of lesions or patients, each with its near-duplicates.
        near_duplicate_pairs: under different ids.
        groups_joined: by near-duplicates.
        groups_crossing_splits: None where no groups are known.
        class_off_by: of each class the largest difference between a split's share and the one requested.
        differences: what `balance.compare` gives.
    """

    images: int
    groups: int
    near_duplicate_pairs: int
    groups_joined: int = 0
    images_of_unknown_group: int = 0
    groups_crossing_splits: int | None
    images_per_split: dict[str, int]
    class_off_by: dict[str, float] = field(default_factory=dict)
    differences: list[dict[str, Any]] = field(default_factory=list)
    images_per_class: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What `prepare.json` holds.

    Attributes:
        taxonomy: name of the one that its classes are of.
        leaky: see `Split`.
        split_method: see `Split`; None if an earlier version split it.
        audit: of the split.
        rejected: number of files by the reason why they were left out.
        split_kept: whether the data came with its split.
        partial: whether a part of a download was meant.
        notes: of the reader.
        read_as_unknown: by column, the number of cells of each text that was taken as unknown.
        masks: number of masks of each kind.
        odd_masks: ids of images whose mask is not as it should be.
        converted: number of images by what was changed to read them.
        crops: number of images by how they were cropped.
        near_duplicates: pairs of ids.
    """

    FILE = "prepare.json"

    taxonomy: str | None = None
    leaky: bool = False
    split_method: str | None = None
    audit: SplitAudit | None = None
    rejected: dict[str, int] = field(default_factory=dict)
    split_kept: bool = False
    partial: bool = False
    notes: list[str] = field(default_factory=list)
    read_as_unknown: dict[str, dict[str, int]] = field(default_factory=dict)
    masks: dict[str, int] = field(default_factory=dict)
    odd_masks: list[str] = field(default_factory=list)
    converted: dict[str, int] = field(default_factory=dict)
    crops: dict[str, int] = field(default_factory=dict)
    near_duplicates: list[list[str]] = field(default_factory=list)

    @classmethod
    def read(cls, folder: str | Path) -> "Prepared":
        """The record in a folder; `InputError` if there is none, or it is damaged."""
        return typed.read(cls, Path(folder, cls.FILE))

    @classmethod
    def is_one(cls, folder: str | Path) -> bool:
        """Whether `dermgen prepare` made the manifest in a folder."""
        return Path(folder, cls.FILE).exists()

    def write(self, folder: Path) -> None:
        """Write the record."""
        write_json(folder / self.FILE, typed.to_value(self))


def _knows_groups(path: Path) -> bool:
    """Whether a table tells the lesion or patient of any of its real images; true where it has none to tell of."""
    if not path.exists():
        return True
    table = tables.read_table(path)
    if not {"synthetic", "lesion_id", "patient_id"} <= set(table):
        return True
    real = [tables.truth(text) == "false" for text in table["synthetic"]]
    ids = table.loc[real, ["lesion_id", "patient_id"]]
    return ids.empty or any(tables.known(text) for text in ids.to_numpy().ravel())
