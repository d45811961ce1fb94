"""The result of `dermgen evaluate`: scores of a synthetic set, `evaluation.json`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dermgen.blocks import Block, Picture, Table, Text, Warning, counted, interval, number
from dermgen.data.prepared import OLD_SPLIT
from dermgen.results.common import (
    ARROWS,
    NEGATIVE_KID,
    Estimate,
    ImageSet,
    heading,
    label,
    shown,
    split_warnings,
    with_unit,
)
from dermgen.settings.evaluate import MIN_IMAGES

HEADLINE = ("precision", "recall", "recognised")  # after KID
OF_GROUPS = ("kid", "precision", "recall", "coverage", "recognised")  # the last where a classifier judges


@dataclass(frozen=True, kw_only=True)
class Extractor:
    """The network whose features were compared."""

    name: str
    revision: str
    resolution: int
    resize: str


@dataclass(frozen=True, kw_only=True)
class Score(Estimate):
    """A score of synthetic images against held-out real ones.

    Attributes:
        train: against as many training images.
        floor: of real images in place of the synthetic ones.
        at_floor_n: of as many synthetic images as the floor has real ones.
    """

    train: float | None
    floor: float | None
    at_floor_n: float | None


@dataclass(frozen=True, kw_only=True)
class TooFew:
    """A class or subgroup with too few images for scores of its own."""

    scope: str
    group: str
    n_real: int
    n_synthetic: int

    def described(self) -> str:
        """With its numbers of images, which are those of classes that both sides show often enough."""
        counts = f"{self.n_real} real, {self.n_synthetic} synthetic"
        if not self.n_real:
            counts = f"no class with {MIN_IMAGES} images on each side"
        return f"{self.scope} {self.group} ({counts})"


@dataclass(frozen=True, kw_only=True)
class Group:
    """All images (scope "all"), a class or a subgroup, with its scores by name."""

    scope: str
    group: str
    n_real: int
    n_synthetic: int
    n_train: int
    n_floor: int
    n_floor_reference: int
    fid_reliable: bool
    scores: dict[str, Score]

    @property
    def name(self) -> str:
        return f"{self.scope}: {self.group}".strip(": ")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The real images that the synthetic ones were compared with."""

    sources: list[str]
    splits: list[str]
    sha256: list[str]


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Pixel similarities by name, medians over image pairs.

    Attributes:
        n: synthetic images.
        n_floor: held-out real images.
        resolution: at which they are compared, in pixels.
        resize: the filter.
        against: "train" or "stand_in", the real images that the nearest is taken from.
        nearest: of synthetic images and their nearest real image.
        floor: of held-out real images and theirs.
        random: of synthetic images and a random real image of the class.
        nearest_per_class: as `nearest`, by class.
    """

    n: int
    n_floor: int
    resolution: int
    resize: str
    against: str
    nearest: dict[str, Estimate]
    floor: dict[str, Estimate]
    random: dict[str, Estimate]
    nearest_per_class: dict[str, dict[str, Estimate]]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What `evaluation.json` holds.

    Attributes:
        real, synthetic: the folders.
        methods: how each score is computed.
        warnings: what a reader must act on.
        examples: an image for each of the first warnings; unlike the warnings these cannot be published.
        notes: what helps to read the scores; older versions had them among the warnings.
        groups: first that of all images.
    """

    FILE = "evaluation.json"

    real: str
    synthetic: str
    extractor: Extractor
    methods: dict[str, str] = field(default_factory=dict)
    leaky: bool
    split_method: str = OLD_SPLIT
    images: ImageSet | None = None
    reference: Reference | None = None
    warnings: list[str]
    examples: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    groups: list[Group]
    too_few: list[TooFew]
    pairs: Pairs

    @property
    def overall(self) -> Group:
        return self.groups[0]

    def headline(self) -> str:
        """How good the images are beside real ones, in a sentence."""
        about, kid = self.overall, self.overall.scores["kid"]
        images = counted(about.n_synthetic, "synthetic image")
        verdict = f"{images} compared with held-out real ones"
        if kid.floor is not None and kid.low is not None:
            are = "is" if about.n_synthetic == 1 else "are"
            verdict = f"{images} {are} further from held-out real ones than other real images are"
            if kid.low <= kid.floor:
                verdict = f"KID shows no difference between {images} and held-out real ones"
        of_kid = f"{with_unit('kid')} is {shown('kid', kid.value)} (95 % CI {shown('kid', kid.low)} to"
        against = "" if kid.floor is None else f" against {shown('kid', kid.floor)} for real images"
        return (
            f"{verdict}: {of_kid} {shown('kid', kid.high)}){against} (lower is better), "
            f"{_in_words([_against_real(name, about) for name in HEADLINE if name in about.scores])} "
            f"(features: {self.extractor.name})."
        )

    def blocks(self, folder: Path) -> list[Block]:
        """Everything, with the plots in `folder`."""
        plots = [
            Picture(
                folder / "plots" / f"{name}.png", f"{label(name)} of the synthetic images and of the real reference"
            )
            for name in ("kid", "recall", "precision", "coverage")
        ]
        return [*self.scores_blocks(), *self.group_blocks(), *plots, *self.pair_blocks()]

    def scores_blocks(self) -> list[Block]:
        """Warnings, the headline, and the scores of all images with what helps to read them."""
        about, e = self.overall, self.extractor
        # The examples belong to the first warnings.
        examples = dict(zip(self.warnings, self.examples, strict=False))
        rows = [
            [
                heading(name),
                shown(name, score.value),
                f"{shown(name, score.low)} to {shown(name, score.high)}",
                shown(name, score.floor),
                shown(name, score.at_floor_n),
                shown(name, score.train),
            ]
            for name, score in about.scores.items()
        ]
        return [
            *(
                Warning(warning, examples.get(warning, ""))
                for warning in dict.fromkeys([*split_warnings(self), *self.warnings])
            ),
            Text(self.headline(), "verdict"),
            Text(
                f"{counted(about.n_synthetic, 'synthetic image')} against {about.n_real:,} held-out real images. "
                f"Features: {e.name} (revision {e.revision}) at {e.resolution} px, resized {e.resize}. The "
                f"reference is the same score for {about.n_floor:,} real images instead of the synthetic ones: no "
                "generator should be expected to beat it. A score that is better against the training split than "
                "against held-out images can indicate copying. Intervals are 95 % confidence intervals over new real "
                f"and synthetic images; those of precision, recall, density and coverage are conservative. {ARROWS}"
            ),
            Table(
                ["score", "value", "95 % CI", "real reference", "value at its sample size", "training split"],
                rows,
            ),
            *([Text(NEGATIVE_KID, "note")] if _is_negative(about.scores.get("kid")) else []),
            *(Text(note, "note") for note in self.notes),
        ]

    def group_blocks(self) -> list[Block]:
        """Scores of classes and subgroups."""
        blocks: list[Block] = []
        if self.groups[1:]:
            names = [name for name in OF_GROUPS if any(name in group.scores for group in self.groups)]
            rows = [
                [
                    group.name,
                    f"{group.n_real:,}",
                    f"{group.n_synthetic:,}",
                    *(_with_floor(name, group.scores.get(name)) for name in names),
                ]
                for group in self.groups[1:]
            ]
            head = ["group", "real", "synthetic", *map(heading, names)]
            blocks += [Text("By class and subgroup, in brackets the real reference", "heading"), Table(head, rows)]
        if self.too_few:
            names = ", ".join(few.described() for few in self.too_few)
            blocks.append(Text(f"Too few images for scores of their own: {names}."))
        return blocks

    def pair_blocks(self) -> list[Block]:
        """Pixel similarities."""
        pairs = self.pairs
        rows = [
            [
                label(name),
                f"{number(nearest.value)} ({interval(nearest.low, nearest.high)})",
                number(pairs.floor[name].value if name in pairs.floor else None),
                number(pairs.random[name].value),
            ]
            for name, nearest in pairs.nearest.items()
        ]
        title = f"Pixel by pixel, medians over {counted(pairs.n, 'image')} at {pairs.resolution} px"
        head = ["similarity", "to the nearest real image", "real reference", "to a random real image of the same class"]
        return [Text(title, "heading"), Table(head, rows)]


def _is_negative(score: Score | None) -> bool:
    """Whether the score is below 0, with new images or real ones."""
    return score is not None and any(v is not None and v < 0 for v in (score.value, score.floor, score.train))


def _in_words(parts: Sequence[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _against_real(name: str, group: Group) -> str:
    score = group.scores[name]
    against = "" if score.floor is None else f" against {shown(name, score.floor)}"
    return f"{label(name)} {shown(name, score.value)}{against}"


def _with_floor(name: str, score: Score | None) -> str:
    if score is None:
        return number(None)
    return shown(name, score.value) + (f" ({shown(name, score.floor)})" if score.floor is not None else "")
