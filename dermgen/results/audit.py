"""The result of `dermgen audit`: how many synthetic images copy a training image, `audit.json`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dermgen.blocks import Block, Picture, Table, Text, Warning, counted, number, percent
from dermgen.data.prepared import OLD_SPLIT
from dermgen.data.set_facts import SetFacts
from dermgen.results.common import ImageSet, split_warnings

PASSED, FAILED, CANNOT_TELL = "passed", "failed", "cannot tell"
ENOUGH_HELD_OUT = 300  # with so many, chance alone rarely calls 1 % of honest images copies


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Copies among `n` images, their share and its 95 % interval (Wilson)."""

    n: int
    copies: int
    copy_rate: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class MedianDistance:
    """Median distance to the nearest training image, 1 - correlation."""

    synthetic: float
    held_out: float


@dataclass(frozen=True, kw_only=True)
class ExactCopy:
    """A synthetic image that is the same file as a real one, and that one's split."""

    image_id: str
    real_id: str
    split: str


@dataclass(frozen=True, kw_only=True)
class Audit(Rate):
    """What `audit.json` holds.

    Attributes:
        threshold: distance below which an image is a copy.
        false_alarms: mean share of honest images below it.
        most_false_alarms: the largest share that chance explains (97.5 %).
        featureless: images without structure, which cannot be compared.
        max_copy_rate: the accepted share of copies.
        certain_copies: copies nearer than any honest image can be.
        verdict: "passed", "failed" or "cannot tell".
        drawn_over_real: images that were made from a real one; `unknown_sources` are the ids of such real images that
            are missing from the audit's real set.
        median_source_distance: of these images from their own source.
        train: SHA-256 of the training images that were compared with.
        real: facts of the manifest of real images; None for a plain folder.
        copied: SHA-256 of the copies.
    """

    FILE = "audit.json"

    extractor: str
    extractor_revision: str
    threshold: float
    false_alarms: float
    most_false_alarms: float | None = None
    featureless: int = 0
    train_images: int
    held_out_images: int
    median_distance: MedianDistance
    per_class: dict[str, Rate]
    max_copy_rate: float
    certain_copies: int = 0
    exact_copies: list[ExactCopy] = field(default_factory=list)
    verdict: str | None = None
    passed: bool
    drawn_over_real: int = 0
    unknown_sources: list[str] = field(default_factory=list)
    median_source_distance: float | None
    leaky: bool
    split_method: str = OLD_SPLIT
    images: ImageSet | None = None
    train: list[str] = field(default_factory=list)
    real: dict[str, Any] | None = None
    copied: list[str] = field(default_factory=list)

    def __post_init__(self):
        if self.verdict is None:  # earlier versions had two verdicts
            object.__setattr__(self, "verdict", PASSED if self.passed else FAILED)

    @property
    def explanation(self) -> str:
        """What the verdict of an audit that did not pass means."""
        if not self.cannot_tell:
            return f"FAILED: more than {percent(self.max_copy_rate)} are copies"
        return (
            f"CANNOT TELL: of {self.held_out_images} held-out images, chance alone may call up to "
            f"{percent(self.most_false_alarms)} of honest images copies"
        )

    @property
    def remedy(self) -> str:
        """What to do about a set whose audit did not pass."""
        more = (
            f" Look at the closest pairs, and hold out more real images, {ENOUGH_HELD_OUT} or more (`dermgen prepare "
            "--split`)."
        )
        return "Do not share this set as it is." + (more if self.cannot_tell else "")

    @property
    def real_set(self) -> SetFacts:
        """Facts of the real images, of which a plain folder tells none."""
        return SetFacts.of_plain_folder(0) if self.real is None else SetFacts.from_json(self.real)

    @property
    def cannot_tell(self) -> bool:
        return self.verdict == CANNOT_TELL

    def headline(self) -> str:
        """Whether the images copy training images, in a sentence."""
        rate = (
            f"{percent(self.copy_rate)}, 95 % CI {percent(self.low)} to {percent(self.high)}; at most "
            f"{percent(self.max_copy_rate)} is accepted"
        )
        what = f"{self.copies} of {counted(self.n, 'synthetic image')}"
        if self.passed:
            return f"Passed: {what} {'is a copy' if self.copies == 1 else 'are copies'} of a training image ({rate})."
        if self.cannot_tell:
            return (
                f"Cannot tell: {what} {'looks' if self.copies == 1 else 'look'} copied from a training image ({rate}), "
                f"which chance alone can explain with only {self.held_out_images:,} held-out images."
            )
        return f"Failed: {what} {'copies' if self.copies == 1 else 'copy'} a training image ({rate})."

    def blocks(self, folder: Path) -> list[Block]:
        """Everything, with the pictures in `folder`."""
        pictures = [
            Picture(
                folder / "sheets" / "closest.png",
                "The closest pairs: synthetic image on the left (in its best-matching orientation), training image on "
                "the right",
                photographs=True,
            ),
            Picture(folder / "plots" / "distances.png", "Distances; copies lie left of the dashed line"),
        ]
        return [*self.rate_blocks(), *([] if self.passed else [Text(self.remedy, "verdict")]), *pictures]

    def rate_blocks(self) -> list[Block]:
        """Warnings, the share of copies and what it was compared with."""
        blocks: list[Block] = [Warning(text) for text in split_warnings(self)]
        by_chance = ""
        if self.most_false_alarms is not None:
            by_chance = f", and by chance up to {percent(self.most_false_alarms)}"
        if not self.passed:
            blocks.append(Warning(self.explanation))
        if self.exact_copies:
            example = "; ".join(f"{e.image_id} is {e.real_id} (split: {e.split})" for e in self.exact_copies[:5])
            files = counted(len(self.exact_copies), "synthetic image is a file", "synthetic images are files")
            blocks.append(Warning(f"{files} of the real set", example))
        blocks += [
            Text(self.headline(), "verdict"),
            Text(
                f"An image is called a copy if its distance to the nearest of "
                f"{counted(self.train_images, 'training image')}, allowing for flips, rotations, crops and colour "
                f"shifts, is below {self.threshold:.3f}. This threshold, set with "
                f"{counted(self.held_out_images, 'held-out real image')}, calls {percent(self.false_alarms)} of honest "
                f"images copies on average{by_chance}. Median distance to the nearest training image: "
                f"{number(self.median_distance.synthetic)}; for held-out real images "
                f"{number(self.median_distance.held_out)}."
            ),
        ]
        if self.per_class:
            rows = [
                [dx, f"{r.n:,}", str(r.copies), percent(r.copy_rate), f"{percent(r.low)} to {percent(r.high)}"]
                for dx, r in self.per_class.items()
            ]
            blocks.append(Table(["class", "images", "copies", "rate", "95 % CI"], rows))
        if self.featureless:
            without = counted(self.featureless, "image has", "images have")
            blocks.append(Text(f"{without} no structure (blank?) and cannot be compared", "note"))
        if self.drawn_over_real:
            distance = self.median_source_distance
            from_source = "" if distance is None else f"; median distance to their own source: {number(distance)}"
            images = counted(self.drawn_over_real, "image was", "images were")
            blocks.append(Text(f"{images} made from real ones (source_image_id){from_source}."))
        return blocks
