"""The result of `dermgen filter`: the share of a synthetic set that is kept, and its cost, `filter.json`."""

from dataclasses import dataclass, field
from pathlib import Path

from dermgen.blocks import Block, Picture, Table, Text, Warning, counted, number, percent
from dermgen.results.common import NEGATIVE_KID, label

BEST = {"precision": "higher", "recall": "higher", "coverage": "higher", "vendi": "higher", "kid": "lower"}
FLATTERED = (
    "the features that chose the kept images also measured their precision, coverage and KID, which flatters them"
)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Images of a class, and how many of them are kept."""

    n: int
    kept: int


@dataclass(frozen=True, kw_only=True)
class Share:
    """Share of a subgroup before and after the choice."""

    before: float
    after: float


@dataclass(frozen=True, kw_only=True)
class Filtered:
    """What `filter.json` holds.

    Attributes:
        scorer: what scored the quality of each image; `extractor` measured the cost of the choice.
        keep: share of each class that is kept; None with a threshold.
        cost: of all images, those kept, and a random subset of the same size: n, vendi, and with enough images recall,
            coverage, precision and kid.
        shares: of each value of each subgroup column.
    """

    FILE = "filter.json"

    scorer: str
    scorer_revision: str
    extractor: str
    extractor_revision: str
    judged_by_its_scorer: bool
    keep: float | None
    threshold: float | None
    n: int
    kept: int
    per_class: dict[str, Kept]
    cost: dict[str, dict[str, float]]
    shares: dict[str, dict[str, Share]]
    warnings: list[str] = field(default_factory=list)

    def blocks(self, folder: Path) -> list[Block]:
        """Everything, with the pictures in `folder`."""
        columns = ("all", "kept", "random")
        costs = [
            [label(name), *(number(self.cost[column].get(name)) for column in columns), best]
            for name, best in BEST.items()
            if name in self.cost["kept"]
        ]
        negative = any(self.cost[column].get("kid", 0) < 0 for column in columns)
        shares = [
            [f"{column}: {value}", percent(share.before), percent(share.after)]
            for column, of_column in self.shares.items()
            for value, share in of_column.items()
        ]
        return [
            *map(Warning, self.warnings),
            *([Warning(FLATTERED)] if self.judged_by_its_scorer else []),
            Text(
                f"{self.kept:,} of {counted(self.n, 'image')} kept by {self.scorer}. The cost, measured with "
                f"{self.extractor}; the random subset has the same number of images of each class:"
            ),
            Table(["score", "all", "kept", "random subset", "best"], costs),
            *([Text(NEGATIVE_KID)] if negative else []),
            Table(["share of", "before", "after"], shares),
            Picture(folder / "plots" / "quality.png", "Scores of kept and dropped images"),
            Picture(
                folder / "sheets" / "kept_and_dropped.png",
                "The best kept images, then the worst dropped ones",
                photographs=True,
            ),
        ]
