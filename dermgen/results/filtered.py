"""The result of `dermgen filter`: the share of a synthetic set that is kept, and its cost, `filter.json`."""

from dataclasses import dataclass, field
from pathlib import Path

from dermgen.blocks import Block, Picture, Table, Text, Warning, counted, percent
from dermgen.results.common import NEGATIVE_KID, shown, with_unit

BETTER = {"kid": "↓", "precision": "↑", "recall": "↑", "coverage": "↑", "vendi": "↑"}
FLATTERED = "the features that chose the kept images also measured their scores, which flatters them"
NO_CLOSER = "by KID the kept images are no closer to the held-out ones than a random subset of the same size"


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
        warnings: what a reader must act on; in older versions also `NO_CLOSER`.
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

    @property
    def no_closer(self) -> bool:
        """Whether by KID a random subset of the same size is as close to the held-out images; False if unknown."""
        kept, chance = (self.cost[column].get("kid") for column in ("kept", "random"))
        return self.kept < self.n and kept is not None and chance is not None and kept >= chance

    def headline(self) -> str:
        """What the choice gained and cost, in a sentence."""
        kept, everything, chance = (self.cost[column] for column in ("kept", "all", "random"))
        names = [name for name in ("kid", "precision", "recall") if name in kept] or ["vendi"]
        changes = [
            f"{with_unit(name)} from {shown(name, everything.get(name))} to {shown(name, kept[name])} (random subset: "
            f"{shown(name, chance.get(name))})"
            for name in names
        ]
        gain = ", no closer to held-out real ones than a random subset of that size" if self.no_closer else ""
        return f"The filter kept {self.kept:,} of {counted(self.n, 'image')}{gain}: {', '.join(changes)}."

    def blocks(self, folder: Path) -> list[Block]:
        """Everything, with the pictures in `folder`."""
        columns = ("all", "kept", "random")
        costs = [
            [f"{with_unit(name)} {arrow}", *(shown(name, self.cost[column].get(name)) for column in columns)]
            for name, arrow in BETTER.items()
            if name in self.cost["kept"]
        ]
        negative = any(self.cost[column].get("kid", 0) < 0 for column in columns)
        shares = [
            [f"{column}: {value}", percent(share.before), percent(share.after)]
            for column, of_column in self.shares.items()
            for value, share in of_column.items()
        ]
        noted = {FLATTERED: self.judged_by_its_scorer, NO_CLOSER: self.no_closer, NEGATIVE_KID: negative}
        return [
            *(Warning(warning) for warning in self.warnings if warning != NO_CLOSER),
            Text(self.headline(), "verdict"),
            Text(
                f"Scorer: {self.scorer}. The scores below are measured with {self.extractor} features; the random "
                "subset has the same number of images of each class. ↓: lower is better; ↑: higher is better."
            ),
            Table(["score", "all", "kept", "random subset"], costs),
            *(Text(note, "note") for note, holds in noted.items() if holds),
            Table(["share of", "before", "after"], shares),
            Picture(folder / "plots" / "quality.png", "Scores of kept and dropped images"),
            Picture(
                folder / "sheets" / "kept_and_dropped.png",
                "The best kept images, then the worst dropped ones",
                photographs=True,
            ),
        ]
